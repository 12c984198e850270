# SPDX-License-Identifier: Apache-2.0
"""Figures of learning from rewards of responses: rewards, KL and length by rollout."""

from __future__ import annotations

from collections.abc import Sequence

from alignjax.report import drawing, figures_training, story

CLEAR = 0.1  # of a reward; a smaller change is called none
KL = "kl/reference"


def rewards(data: story.Story) -> drawing.Figure:
    """The learned reward and those only logged, KL and length, by rollout."""
    stage = next(filter(_learns_from_rollouts, data.stages), None)
    if stage is None:
        raise story.Missing("no run that learned from rewards of rollouts was given")
    names = stage.config["rollouts"]["rewards"]
    logged = [n for n, part in names.items() if part.get("weight") == 0]
    of_reward = [("reward", "learned reward", drawing.ORANGE, "-")]
    of_reward += [
        (f"reward/{name}", f"{name}, only logged", drawing.BLUE, "--")
        for name in logged[:1]
    ]
    every = {
        "reward": of_reward,
        "KL from the start,\nnats a response": [(KL, None, drawing.INK, "-")],
        "tokens a response": [("length", None, drawing.INK, "-")],
    }
    # Losses of pairs have no KL but in evaluations; a reward may never have a score.
    panels = {
        label: had
        for label, series in every.items()
        if (had := [line for line in series if _measured(stage, line[0])])
    }
    numbers = [("figure", "first", "highest", "at rollout", "last", "held out, last")]
    ends = {}
    with drawing.canvas("rollouts", 1, len(panels), height=1.9) as (drawn, *axes):
        for axis, (label, series) in zip(axes, panels.items(), strict=True):
            axis.set_ylabel(label)
            for name, legend, color, style in series:
                ends[name] = _draw(axis, stage, name, color, style, legend)
                figure = (legend or label).replace("\n", " ")
                numbers.append((figure, *ends[name].cells))
        axes[-1].set_xlabel("rollouts")
        if axes[0].get_legend_handles_labels()[0]:
            drawn.legend(2)
        title = "Does the true reward rise with the one that is learned?"
        return drawn.finish(title, _caption(stage, ends, logged), numbers)


class Ends:
    """Where a curve began, was highest, and ended; of whole windows of it alone.

    None of a figure that only evaluations have.

    Args:
      at: the rollout of each value of the curve.
      curve: means of `width` values.
      held_out: of evaluations.
    """

    def __init__(self, at, curve: Sequence[float], width: int, held_out):
        self.first = self.last = self.highest = self.at = None
        self.held_out = held_out
        if whole := curve[width - 1 :]:
            self.first, self.last, self.highest = whole[0], whole[-1], max(whole)
            self.at = at[width - 1 :][whole.index(self.highest)]

    @property
    def cells(self) -> list[str]:
        """For the table of numbers."""
        show = lambda x: "-" if x is None else f"{x:.2f}"
        first, highest, last = map(show, (self.first, self.highest, self.last))
        held_out = show(self.held_out[-1] if self.held_out else None)
        return [first, highest, str(self.at or "-"), last, held_out]


def _learns_from_rollouts(stage: story.Stage) -> bool:
    return bool(stage.config.get("rollouts")) and bool(_rollouts(stage))


def _rollouts(stage: story.Stage) -> dict[int, int]:
    """The number of each rollout, from 1, by its step; all have a length."""
    return {step: i + 1 for i, step in enumerate(stage.series("rollout/length")[0])}


def _measured(stage: story.Stage, name: str) -> bool:
    return any(stage.series(f"{split}/{name}")[0] for split in ("rollout", "eval"))


def _draw(axis, stage: story.Stage, name: str, color, line, label) -> Ends:
    """A curve by rollout, smoothed, and its figures on held-out prompts."""
    of = _rollouts(stage)
    steps, values = stage.series(f"rollout/{name}")
    width = max(1, len(values) // 10)  # prompts are others in each: one tells little
    even = figures_training.smooth(values, width)
    at = [of[step] for step in steps]
    if values:
        axis.plot(at, values, color=color, alpha=0.25, linewidth=0.8)
        axis.plot(at, even, color=color, linestyle=line, label=label)
    ends, held_out = stage.series(f"eval/{name}")
    updates = len(stage.rows) / len(of)
    marks = [step / updates for step in ends]
    axis.plot(marks, held_out, "o", color=color, markersize=4)
    return Ends(at, even, width, held_out)


def _caption(stage: story.Stage, ends: dict[str, Ends], logged) -> str:
    """What happened, in words."""
    none = Ends([], [], 1, [])
    learned, kl = ends.get("reward", none), ends.get(KL, none)
    length = ends["length"]
    text = f"{stage.name}: the reward that is learned "
    if learned.first is None:
        text += "was never measured"
    else:
        text += f"went from {learned.first:.2f} to {learned.last:.2f}"
    away = "nats a response away from the start"
    if kl.last is not None:
        text += f", {kl.last:.2f} {away}"
    elif kl.held_out:
        text += f", {kl.held_out[-1]:.2f} {away} on held-out prompts"
    text += (
        f", and responses from {length.first:.1f} to {length.last:.1f} tokens. Dots "
        "are of held-out prompts."
    )
    if kl is none:
        text += " No KL was measured."
    if not logged:
        return text
    name = logged[0]
    return f"{text} {verdict(name, ends.get(f'reward/{name}', none))}"


def verdict(name: str, ends: Ends) -> str:
    """What became of a reward that was only logged."""
    if ends.first is None:
        return f"{name}, which was not learned, had no score of any rollout."
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
