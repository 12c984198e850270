# SPDX-License-Identifier: Apache-2.0
"""Figures of learning from rewards of responses: rewards, KL and length by rollout."""

from __future__ import annotations

from collections.abc import Sequence

from alignjax.report import drawing, figures_training, story

CLEAR = 0.1  # of a reward; a smaller change is called none


def rewards(data: story.Story) -> drawing.Figure:
    """The learned reward and those only logged, KL and length, by rollout."""
    stage = next(filter(_learns_from_rollouts, data.stages), None)
    if stage is None:
        raise story.Missing("no run that learned from rewards of rollouts was given")
    names = stage.config["rollouts"]["rewards"]
    logged = [n for n, part in names.items() if part.get("weight") == 0]
    series = [("reward", "learned reward", drawing.ORANGE, "-")]
    series += [
        (f"reward/{name}", f"{name}, only logged", drawing.BLUE, "--")
        for name in logged[:1]
    ]
    below = [("kl/reference", "KL from the start,\nnats a response")]
    below += [("length", "tokens a response")]
    numbers = [("figure", "first", "highest", "at rollout", "last", "held out, last")]
    ends = {}
    with drawing.canvas("rollouts", 1, 3, height=1.9) as (drawn, *axes):
        for name, label, color, line in series:
            ends[name] = _draw(axes[0], stage, name, color, line, label)
            numbers.append((label, *ends[name].cells))
        axes[0].set_ylabel("reward")
        for axis, (name, label) in zip(axes[1:], below, strict=True):
            ends[name] = _draw(axis, stage, name, drawing.INK, "-", None)
            axis.set_ylabel(label)
            numbers.append((label.replace("\n", " "), *ends[name].cells))
        axes[-1].set_xlabel("rollouts")
        drawn.legend(2)
        title = "Does the true reward rise with the one that is learned?"
        return drawn.finish(title, _caption(stage, ends, logged), numbers)


class Ends:
    """Where a curve began, was highest, and ended; of whole windows of it alone."""

    def __init__(self, curve: Sequence[float], width: int, held_out: Sequence[float]):
        whole = curve[width - 1 :]
        self.first, self.last, self.highest = whole[0], whole[-1], max(whole)
        self.at = whole.index(self.highest) + width
        self.held_out = held_out

    @property
    def cells(self) -> list[str]:
        """For the table of numbers."""
        held_out = f"{self.held_out[-1]:.2f}" if self.held_out else "-"
        numbers = (f"{x:.2f}" for x in (self.first, self.highest, self.last))
        first, highest, last = numbers
        return [first, highest, str(self.at), last, held_out]


def _learns_from_rollouts(stage: story.Stage) -> bool:
    return bool(stage.config.get("rollouts")) and bool(
        stage.series("rollout/reward")[0]
    )


def _draw(axis, stage: story.Stage, name: str, color, line, label) -> Ends:
    """A curve by rollout, smoothed, and its figures on held-out prompts."""
    of = {step: i + 1 for i, step in enumerate(stage.series("rollout/reward")[0])}
    steps, values = stage.series(f"rollout/{name}")
    width = max(1, len(values) // 10)  # prompts are others in each: one tells little
    even = figures_training.smooth(values, width)
    at = [of[step] for step in steps]
    axis.plot(at, values, color=color, alpha=0.25, linewidth=0.8)
    axis.plot(at, even, color=color, linestyle=line, label=label)
    ends, held_out = stage.series(f"eval/{name}")
    updates = len(stage.rows) / max(len(of), 1)
    marks = [step / updates for step in ends]
    axis.plot(marks, held_out, "o", color=color, markersize=4)
    return Ends(even, width, held_out)


def _caption(stage: story.Stage, ends: dict[str, Ends], logged) -> str:
    """What happened, in words."""
    learned, kl = ends["reward"], ends["kl/reference"]
    text = (
        f"{stage.name}: the reward that is learned went from {learned.first:.2f} to "
        f"{learned.last:.2f}, {kl.last:.2f} nats a response away from the start, "
        f"and responses from {ends['length'].first:.1f} to {ends['length'].last:.1f} "
        "tokens. Dots are of held-out prompts."
    )
    if not logged:
        return text
    name = logged[0]
    return f"{text} {verdict(name, ends[f'reward/{name}'])}"


def verdict(name: str, ends: Ends) -> str:
    """What became of a reward that was only logged."""
    text = f"{name}, which was not learned, began at {ends.first:.2f}"
    if ends.highest - ends.first < CLEAR:
        text += f" and was {ends.highest:.2f} at most: it never clearly rose"
    else:
        text += f" and was highest, {ends.highest:.2f}, after {ends.at} rollouts"
    if ends.highest - ends.last < CLEAR:
        return f"{text}. It ended at {ends.last:.2f}, near its highest."
    return (
        f"{text}. It ended at {ends.last:.2f}: the learned reward was over-optimised."
    )


FIGURES = (rewards,)
