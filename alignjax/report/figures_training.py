# SPDX-License-Identifier: Apache-2.0
"""Figures of what happened during training."""

from __future__ import annotations

import math
from collections.abc import Sequence

from alignjax.report import drawing, story

_UNITS = {
    "pretraining": "nats a token",
    "sft": "nats a token",
    "reward": "nats a pair",
    "preference": "loss a pair",
}
_HELD_OUT = dict(color=drawing.INK, marker="o", markersize=4, linestyle="--")


def smooth(values: Sequence[float], width: int) -> list[float]:
    """Means of the last `width` values, of fewer at the start."""
    out = []
    for i in range(len(values)):
        window = [v for v in values[max(0, i + 1 - width) : i + 1] if math.isfinite(v)]
        out.append(sum(window) / len(window) if window else math.nan)
    return out


def losses(data: story.Story) -> drawing.Figure | str:
    """Training and held-out loss of every stage."""
    stages = [stage for stage in data.stages if stage.series("loss")[0]]
    if not stages:
        return "no stage's metrics.jsonl was given"
    columns = min(2, len(stages))
    rows = -(-len(stages) // columns)
    height = 2.3 if columns == 2 else drawing.HEIGHT
    parts, numbers = [], [("stage", "steps", "loss at first", "at last", "held out")]
    with drawing.canvas("losses", columns, rows, height=height) as drawn:
        for axis, stage in zip(drawn.axes, stages, strict=False):
            steps, values = stage.series("loss")
            width = max(1, len(values) // 30)
            even = smooth(values, width)
            color = drawing.COLORS[stage.kind]
            axis.plot(steps, values, color=color, alpha=0.25, linewidth=0.8)
            axis.plot(steps, even, color=color)
            at, held = stage.series("eval/loss")
            if at:
                axis.plot(at, held, **_HELD_OUT)
            axis.set_title(drawing.shorten(stage.name, 20), fontsize=10, loc="left")
            axis.set_xlabel("steps")
            axis.set_ylabel(_UNITS[stage.kind])
            axis.set_ylim(*_frame(even[width:] or even, held))
            axis.locator_params(axis="x", nbins=4)
            first, last = values[0], even[-1]
            shown = f"{held[-1]:.3f}" if held else "-"
            parts.append(f"{stage.name} {first:.2f} to {last:.2f}")
            numbers.append(
                (stage.name, str(len(values)), f"{first:.3f}", f"{last:.3f}", shown)
            )
        for axis in drawn.axes[len(stages) :]:
            axis.set_visible(False)
        # One for all, outside: curves of small views run under what is inside.
        drawn.axes[0].plot([], [], color=drawing.INK, label="training")
        if any(stage.series("eval/loss")[0] for stage in stages):
            drawn.axes[0].plot([], [], **_HELD_OUT, label="held out")
        drawn.figure.legend(loc="outside upper center", ncols=2)
        return drawing.Figure(
            "losses",
            "Does every stage learn, and does what it learns hold on new data?",
            f"The loss went in {'; '.join(parts)}. {_overfitting(stages)}",
            drawn.svg(),
            numbers,
        )


def _frame(training: Sequence[float], held: Sequence[float]) -> tuple[float, float]:
    """Where the curves are after the first, steep part, with a margin."""
    values = sorted(v for v in [*training, *held] if math.isfinite(v))
    if not values:
        return 0.0, 1.0
    low, high = values[0], values[min(len(values) - 1, int(0.98 * len(values)))]
    margin = 0.08 * (high - low) or 0.1
    return low - margin, high + margin


def _overfitting(stages: Sequence[story.Stage]) -> str:
    """What the held-out curves say."""
    rises = []
    for stage in stages:
        _, held = stage.series("eval/loss")
        if len(held) > 1 and held[-1] > min(held) * 1.02:
            rises.append(f"{stage.name} ({min(held):.3f} to {held[-1]:.3f})")
    if rises:
        return f"Held-out loss rose again at the end of {', '.join(rises)}."
    if any(stage.series("eval/loss")[0] for stage in stages):
        return "Held-out loss ended at or near its lowest everywhere."
    return "Nothing was held out."


def drift(data: story.Story) -> drawing.Figure | str:
    """What preference optimisation does to chosen and rejected responses."""
    stages = [stage for stage in data.stages if stage.kind == "preference"]
    stages = [stage for stage in stages if stage.series("drift/chosen")[0]]
    if not stages:
        return "no preference stage with drift/chosen in its metrics was given"
    stage = stages[0]
    numbers = [("response", "nats at first", "nats at the end")]
    ends = {}
    with drawing.canvas("drift") as drawn:
        (axis,) = drawn.axes
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
        axis.set_xlabel("steps")
        axis.set_ylabel("log p − log p_ref, nats a response")
        axis.legend(loc="lower left")
        return drawing.Figure(
            "drift",
            "Are chosen responses made likelier, or only rejected ones unlikelier?",
            _displacement(**ends),
            drawn.svg(),
            numbers,
        )


def _displacement(chosen: float, rejected: float) -> str:
    moved = f"chosen responses by {chosen:+.2f} nats, rejected ones by {rejected:+.2f}"
    if chosen >= rejected:
        means = (
            "the margin comes mostly from pushing rejected responses down, and the "
            "chosen ones lost probability too (likelihood displacement)"
            if chosen < 0
            else "chosen responses became likelier: no likelihood displacement"
        )
    else:
        means = "the rejected ones gained more: the preferences were not learned"
    return f"The log-probability moved, against the reference, of {moved}; {means}."
