# SPDX-License-Identifier: Apache-2.0
"""Figures of training: losses, and the drift of log-probs."""

from __future__ import annotations

import math
from collections.abc import Sequence

from alignjax.report import drawing, story

_UNITS = {
    "pretraining": "nats per token",
    "sft": "nats per token",
    "reward": "nats per pair",
    "preference": "loss per pair",
}
_HELD_OUT = dict(color=drawing.INK, marker="o", markersize=4, linestyle="--")


def smooth(values: Sequence[float], width: int) -> list[float]:
    """Means of the last `width` values, of fewer at the start."""
    windows = (values[max(0, i + 1 - width) : i + 1] for i in range(len(values)))
    finite = [list(filter(math.isfinite, window)) for window in windows]
    return [sum(window) / len(window) if window else math.nan for window in finite]


def losses(data: story.Story) -> drawing.Figure:
    """Training and held-out loss of every stage."""
    stages = [stage for stage in data.stages if stage.series("loss")[0]]
    if not stages:
        raise story.Missing("no stage's metrics.jsonl was given")
    columns = min(2, len(stages))
    rows = -(-len(stages) // columns)
    height = 2.3 if columns == 2 else drawing.HEIGHT
    parts, numbers = [], [("stage", "steps", "first loss", "last loss", "held out")]
    with drawing.canvas("losses", columns, rows, height=height) as (drawn, *axes):
        for axis, stage in zip(axes, stages, strict=False):
            steps, values = stage.series("loss")
            width = max(1, len(values) // 30)
            even = smooth(values, width)
            color = drawing.COLORS[stage.kind]
            axis.plot(steps, values, color=color, alpha=0.25, linewidth=0.8)
            axis.plot(steps, even, color=color)
            at, held_out = stage.series("eval/loss")
            if at:
                axis.plot(at, held_out, **_HELD_OUT)
            axis.set_title(drawing.shorten(stage.name, 20), fontsize=10, loc="left")
            axis.set(xlabel="steps", ylabel=_UNITS[stage.kind])
            axis.set_ylim(*_limits([*(even[width:] or even), *held_out]))
            axis.locator_params(axis="x", nbins=4)
            first, last = values[0], even[-1]
            parts.append(f"{stage.name} {first:.2f} to {last:.2f}")
            cells = (str(len(values)), f"{first:.3f}", f"{last:.3f}")
            end = f"{held_out[-1]:.3f}" if held_out else "-"
            numbers.append((stage.name, *cells, end))
        for axis in axes[len(stages) :]:
            axis.set_visible(False)
        # One legend for all, outside: in small axes it would hide the curves.
        axes[0].plot([], [], color=drawing.INK, label="training")
        if any(stage.series("eval/loss")[0] for stage in stages):
            axes[0].plot([], [], **_HELD_OUT, label="held out")
        drawn.legend(2)
        title = "Does every stage learn, and does the loss fall on held-out data too?"
        caption = f"The loss went in {'; '.join(parts)}. {_overfitting(stages)}"
        return drawn.finish(title, caption, numbers)


def _limits(curves: Sequence[float]) -> tuple[float, float]:
    """The range of the curves after their first, steep part, with a margin."""
    values = sorted(filter(math.isfinite, curves))
    if not values:
        return 0.0, 1.0
    low, high = values[0], values[min(len(values) - 1, int(0.98 * len(values)))]
    margin = 0.08 * (high - low) or 0.1
    return low - margin, high + margin


def _overfitting(stages: Sequence[story.Stage]) -> str:
    held_out = {stage.name: stage.series("eval/loss")[1] for stage in stages}
    rises = [
        f"{name} ({min(losses):.3f} to {losses[-1]:.3f})"
        for name, losses in held_out.items()
        if losses and losses[-1] > min(losses) * 1.02
    ]
    if rises:
        return f"Held-out loss rose again at the end of {', '.join(rises)}."
    if any(held_out.values()):
        return "Held-out loss ended at or near its lowest everywhere."
    return "Nothing was held out."


def drift(data: story.Story) -> drawing.Figure:
    """Log-probs of chosen and rejected responses during preference optimisation."""
    preferences = (stage for stage in data.stages if stage.kind == "preference")
    stage = next((s for s in preferences if s.series("drift/chosen")[0]), None)
    if stage is None:
        raise story.Missing(
            "no preference stage with drift/chosen in its metrics was given"
        )
    numbers = [("response", "first, nats", "last, nats")]
    ends = {}
    with drawing.canvas("drift") as (drawn, axis):
        axis.axhline(0, color=drawing.INK, linewidth=0.8)
        for side, color, line in (
            ("chosen", drawing.BLUE, "-"),
            ("rejected", drawing.ORANGE, "--"),
        ):
            steps, values = stage.series(f"drift/{side}")
            even = smooth(values, max(1, len(values) // 20))
            axis.plot(steps, values, color=color, alpha=0.2, linewidth=0.8)
            axis.plot(steps, even, color=color, linestyle=line, label=side)
            ends[side] = even[-1]
            numbers.append((side, f"{values[0]:+.3f}", f"{even[-1]:+.3f}"))
        axis.set(xlabel="steps", ylabel="log p − log p_ref, nats per response")
        axis.legend(loc="lower left")
        title = (
            "Do chosen responses become likelier, or only rejected ones less likely?"
        )
        return drawn.finish(title, _displacement(**ends), numbers)


def _displacement(chosen: float, rejected: float) -> str:
    if chosen < rejected:
        meaning = "the rejected ones gained more: the preferences were not learned"
    elif chosen < 0:
        meaning = (
            "the margin comes mostly from pushing rejected responses down, and the "
            "chosen ones lost probability too (likelihood displacement)"
        )
    else:
        meaning = "chosen responses became likelier: no likelihood displacement"
    return (
        "The log-probability, against the reference, of chosen responses changed by "
        f"{chosen:+.2f} nats, of rejected ones by {rejected:+.2f}; {meaning}."
    )


FIGURES = (losses, drift)
