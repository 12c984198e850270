# SPDX-License-Identifier: Apache-2.0
"""Figures of a reward model: agreement, calibration, and bias to length."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from alignjax.evals import statistics
from alignjax.report import drawing, story
from alignjax.world.assessment import prose

_SPLITS = {"preferences": "like training", "any": "any prompt"}


def accuracy(data: story.Story) -> drawing.Figure:
    """Agreement with the labeler and with the true reward."""
    name, model = data.reward_model
    splits = model["splits"]
    present = [split for split in _SPLITS if split in splits]
    numbers = [("pairs", "agrees with labeler", "at best", "agrees with true reward")]
    for split in present:
        labeler, gold = (splits[split][key] for key in ("accuracy", "gold_accuracy"))
        best = f"{splits[split]['ceiling']:.2f}"
        cells = (prose.interval(labeler), best, prose.interval(gold))
        numbers.append((_SPLITS[split], *cells))
    with drawing.canvas("accuracy") as (drawn, axis):
        for shift, key, label, color, mark in (
            (-0.12, "accuracy", "with the labeler", drawing.BLUE, "o"),
            (0.12, "gold_accuracy", "with the true reward", drawing.GREEN, "D"),
        ):
            at = [x + shift for x in range(len(present))]
            figures = [splits[split][key] for split in present]
            style = dict(color=color, marker=mark, label=label, linestyle="none")
            drawing.whiskers(axis, at, figures, **style)
            style = dict(xytext=(7, 3), textcoords="offset points", fontsize=9)
            for x, figure in zip(at, figures, strict=True):
                text, place = prose.percent(figure["mean"]), (x, figure["mean"])
                axis.annotate(text, place, **style)
        for x, split in enumerate(present):
            best = splits[split]["ceiling"]
            label = "labeler's ceiling" if x == 0 else None
            style = dict(color=drawing.INK, linestyle=":", linewidth=1.5, label=label)
            axis.plot([x - 0.3, x + 0.3], [best, best], **style)
        axis.axhline(0.5, color=drawing.GREY, linewidth=1, linestyle="--")
        axis.text(len(present) - 0.52, 0.505, "chance", fontsize=8, ha="right")
        drawing.label_stages(axis, [_SPLITS[split] for split in present])
        axis.set_ylim(0.45, 1.02)
        axis.set_yticks([0.5, 0.6, 0.7, 0.8, 0.9, 1.0], "50 60 70 80 90 100".split())
        axis.set_ylabel("agrees, % of held-out pairs")
        drawn.legend(3)
        title = (
            "Has the reward model learned the labels, or the true reward behind them?"
        )
        return drawn.finish(title, _agreement(name, splits), numbers)


def _agreement(name: str, splits: Mapping[str, Any]) -> str:
    row = splits["preferences"]
    chance = "above chance" if row["accuracy"]["low"] > 0.5 else "not beyond chance"
    text = (
        f"{name} agrees with the labeler on {prose.percent(row['accuracy']['mean'])} "
        f"of pairs like those of its training ({chance}; "
        f"{prose.percent(row['ceiling'])} is expected of one that knows the labeler's "
        "odds) and with the true reward on "
        f"{prose.percent(row['gold_accuracy']['mean'])}"
    )
    if "any" in splits:
        other = splits["any"]["gold_accuracy"]
        verb = "not clearly different,"
        if other["high"] < row["gold_accuracy"]["low"]:
            verb = "fewer,"
        elif other["low"] > row["gold_accuracy"]["high"]:
            verb = "more,"
        text += f"; on any prompt {verb} {prose.percent(other['mean'])}"
    return f"{text}."


def reliability(data: story.Story) -> drawing.Figure:
    """How often the labeler chooses the first response, by the model's probability."""
    name, model = data.reward_model
    row = model["splits"]["preferences"]
    curve = row["calibration"]
    at = [point["predicted"] for point in curve]
    figures = [point["chosen"] for point in curve]
    numbers = [("predicted", "chosen by the labeler", "pairs")]
    for predicted, chosen in zip(at, figures, strict=True):
        cells = (prose.interval(chosen), str(chosen["count"]))
        numbers.append((f"{predicted:.2f}", *cells))
    with drawing.canvas("reliability") as (drawn, axis):
        axis.plot([0, 1], [0, 1], "--", color=drawing.GREY, label="calibrated")
        style = dict(color=drawing.GREEN, marker="D", label=drawing.shorten(name))
        drawing.whiskers(axis, at, figures, **style)
        axis.set_xticks(*drawing.PERCENTS)
        drawing.percent_axis(axis)
        axis.set_xlabel("predicted: the first response is preferred, %")
        axis.set_ylabel("measured, % of pairs")
        axis.legend(loc="upper left")
        title = "When the reward model is sure, is it right?"
        return drawn.finish(title, _calibration(row), numbers)


def _calibration(row: Mapping[str, Any]) -> str:
    text = f"The calibration error is {row['ece']:.3f} over {row['count']} pairs"
    sure = [p for p in row["calibration"] if p["predicted"] > 0.5]
    if not (count := sum(p["chosen"]["count"] for p in sure)):
        return f"{text}."
    total = lambda of: sum(of(p) * p["chosen"]["count"] for p in sure)
    predicted = total(lambda p: p["predicted"]) / count
    chosen = statistics.share(round(total(lambda p: p["chosen"]["mean"])), count)
    verdict = "not clearly over- or underconfident"
    if not chosen["low"] <= predicted <= chosen["high"]:
        verdict = "overconfident" if predicted > chosen["high"] else "underconfident"
    gap = predicted - chosen["mean"]
    return (
        f"{text}; where it favours a response it is {verdict} (by {gap:+.2f} on "
        "average)."
    )


def by_length(data: story.Story) -> drawing.Figure:
    """Accuracy by how much longer the better response is, and the effect of padding."""
    name, model = data.reward_model
    bins = model["splits"]["preferences"]["by_length"]
    if not bins:
        raise story.Missing("no pair's true rewards differ clearly")
    padding = model["padding"]
    numbers = [("the better response is", "right", "pairs")]
    for row in bins:
        share = row["accuracy"]
        numbers.append((row["longer"], prose.interval(share), str(share["count"])))
    shift = f"{padding['sentences']} empty sentences: the score moves by"
    wins = f"preferred in {prose.percent(padding['preferred'])}"
    numbers.append((shift, prose.delta(padding["shift"]), wins))
    with drawing.canvas("by_length") as (drawn, axis):
        figures = [row["accuracy"] for row in bins]
        at = range(len(bins))
        drawing.whiskers(axis, at, figures, color=drawing.GREEN, marker="D")
        axis.axhline(0.5, color=drawing.GREY, linewidth=1, linestyle="--")
        axis.set_xticks(at, [_two_lines(row["longer"]) for row in bins])
        axis.set_xlim(-0.5, len(bins) - 0.5)
        drawing.percent_axis(axis)
        axis.set(
            xlabel="the better response, in words", ylabel="scored higher, % of pairs"
        )
        title = "Does length fool the reward model?"
        return drawn.finish(title, _length_bias(name, bins, padding), numbers)


def _length_bias(name: str, bins, padding: Mapping[str, Any]) -> str:
    first, last = bins[0], bins[-1]
    low, high = first["accuracy"], last["accuracy"]
    share = prose.percent(low["mean"])
    text = f"{name} is right in {share} of pairs whose better response is, "
    text += f"in words, {first['longer']}"
    if first["longer"].endswith("shorter") and last["longer"].endswith("longer"):
        bias = "no clear bias to length"
        if high["low"] > low["high"]:
            bias = "it prefers long responses"
        elif low["low"] > high["high"]:
            bias = "it prefers short responses"
        share = prose.percent(high["mean"])
        text += f" and in {share} where it is {last['longer']}: {bias}"
    return f"{text}; {prose.padding(padding)}."


def _two_lines(label: str) -> str:
    short = label.replace(" or more ", "+ ").replace(" to ", "–")
    return "\n".join(short.rsplit(" ", 1))


FIGURES = (accuracy, reliability, by_length)
