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
CLEAR_DRIFT = 0.1  # nats a response; less is called no drift
RISE = 0.02  # of a held-out loss above its lowest; less is called none
_HELD_OUT = dict(color=drawing.INK, marker="o", markersize=4, linestyle="--")


def smooth(values: Sequence[float], width: int) -> list[float]:
    """Means of the last `width` values, of fewer at the start."""
    windows = (values[max(0, i + 1 - width) : i + 1] for i in range(len(values)))
    finite = [list(filter(math.isfinite, window)) for window in windows]
    return [sum(window) / len(window) if window else math.nan for window in finite]


def losses(data: story.Story) -> drawing.Figure:
    """Training and held-out loss of every stage."""
    # Of rollouts the loss tells nothing: its mean is near 0 whatever is learned.
    drawn = [stage for stage in data.stages if not stage.config.get("rollouts")]
    stages = [stage for stage in drawn if stage.series("loss")[0]]
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
            cells = (str(steps[-1]), f"{first:.3f}", f"{last:.3f}")
            end = f"{held_out[-1]:.3f}" if held_out else "-"
            numbers.append((stage.name, *cells, end))
        # One legend for all, outside: in small axes it would hide the curves.
        axes[0].plot([], [], color=drawing.INK, label="training")
        if any(stage.series("eval/loss")[0] for stage in stages):
            axes[0].plot([], [], **_HELD_OUT, label="held out")
        if spare := axes[len(stages) :]:  # at most one, which would be empty
            spare[0].axis("off")
            spare[0].legend(*axes[0].get_legend_handles_labels(), loc="center")
        else:
            drawn.legend(2)
        title = "Does every stage learn, and does the loss fall on held-out data too?"
        caption = f"The loss went in {'; '.join(parts)}. {overfitting(stages)}"
        return drawn.finish(title, caption.strip(), numbers)


def _limits(curves: Sequence[float]) -> tuple[float, float]:
    """The range of the curves after their first, steep part, with a margin."""
    values = sorted(filter(math.isfinite, curves))
    if not values:
        return 0.0, 1.0
    low, high = values[0], values[min(len(values) - 1, int(0.98 * len(values)))]
    margin = 0.08 * (high - low) or 0.1
    return low - margin, high + margin


def overfitting(stages: Sequence[story.Stage]) -> str:
    """Where held-out losses ended above their lowest; nothing of a single one."""
    held_out = {stage.name: stage.series("eval/loss")[1] for stage in stages}
    rises, near = [], []
    for name, losses in held_out.items():
        if len(losses) < 2 or not all(map(math.isfinite, losses)):
            continue
        lowest = min(losses)
        if losses[-1] - lowest > RISE * abs(lowest):
            rises.append(f"{name} ({lowest:.3f}, then {losses[-1]:.3f} at the end)")
        else:
            near.append(name)
    sentences = []
    if rises:
        sentences.append(f"Held-out loss ended above its lowest in {', '.join(rises)}.")
    if near:
        sentences.append(
            f"Held-out loss ended at or near its lowest in {', '.join(near)}."
        )
    if not any(held_out.values()):
        sentences.append("No loss on held-out data was measured.")
    return " ".join(sentences)


def drift(data: story.Story) -> drawing.Figure:
    """Log-probs of chosen and rejected responses during preference optimisation."""
    preferences = (stage for stage in data.stages if stage.kind == "preference")
    sides = ("drift/chosen", "drift/rejected")
    has = lambda stage: all(stage.series(side)[0] for side in sides)
    stage = next(filter(has, preferences), None)
    if stage is None:
        raise story.Missing(
            "no preference stage with drift/chosen in its metrics was given"
        )
    numbers = [("response", "first, nats", "last, nats", "held out, nats")]
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
            at, held_out = stage.series(f"eval/drift/{side}")
            label = f"{side}, held out"
            if at:
                axis.plot(at, held_out, "o", color=color, markersize=4, label=label)
            ends[side] = held_out[-1] if held_out else None
            cells = [f"{x:+.3f}" for x in (values[0], even[-1], *held_out[-1:])]
            numbers.append((side, *cells, *(["-"] * (not held_out))))
        axis.set(xlabel="steps", ylabel="log p − log p_ref, nats per response")
        axis.legend(loc="lower left")
        title = (
            "Do chosen responses become likelier, or only rejected ones less likely?"
        )
        moves = stage.field("reference", "update_every") is not None
        caption = f"{stage.name}: {displacement(**ends, moves=moves)}"
        return drawn.finish(title, caption, numbers)


def displacement(
    chosen: float | None, rejected: float | None, *, moves: bool = False
) -> str:
    """The meaning of the drifts at the end, nats a response.

    Args:
      chosen, rejected: on held-out pairs; None where there are none. Those of training
        batches are too few, and of pairs that were learned.
      moves: whether the reference follows the policy, so that drifts tell little.
    """
    if None in (chosen, rejected) or not math.isfinite(chosen - rejected):
        return (
            "no drift on held-out pairs was measured, and that of training batches "
            "does not tell displacement."
        )
    text = (
        "log-probabilities of held-out responses ended, against the reference, at "
        f"{chosen:+.2f} nats for chosen ones and {rejected:+.2f} for rejected ones"
    )
    if moves:
        return f"{text}; the reference moves after the policy."
    margin = chosen - rejected
    if margin < -CLEAR_DRIFT:
        meaning = "the rejected ones gained more: these preferences were not learned"
    elif not margin > CLEAR_DRIFT:
        meaning = "there is no clear margin between them"
    elif chosen < -CLEAR_DRIFT:
        meaning = (
            "the margin comes from pushing rejected responses down, and the chosen "
            "ones lost probability too (likelihood displacement)"
        )
    elif chosen > CLEAR_DRIFT:
        meaning = "chosen responses became likelier: no likelihood displacement"
    else:
        meaning = "chosen responses hardly moved: no likelihood displacement"
    return f"{text}; {meaning}."


FIGURES = (losses, drift)
