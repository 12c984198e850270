# SPDX-License-Identifier: Apache-2.0
"""Figures of a reward model: whom it agrees with, how sure it may be, what fools it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from alignjax.report import drawing, story
from alignjax.world.assessment import prose

_NONE = "no reward model was assessed"
_SPLITS = {"preferences": "like training", "any": "any prompt"}


def _first(data: story.Story) -> tuple[str, Mapping[str, Any]] | None:
    return next(iter(data.rewards.items()), None)


def accuracy(data: story.Story) -> drawing.Figure | str:
    """Agreement with the labeler and with the truth."""
    found = _first(data)
    if found is None:
        return _NONE
    name, model = found
    splits = model["splits"]
    heads = ("pairs", "agrees with the labeler", "at best", "agrees with the truth")
    numbers = [heads]
    with drawing.canvas("accuracy") as drawn:
        (axis,) = drawn.axes
        names = [split for split in _SPLITS if split in splits]
        for i, (key, label, color, mark) in enumerate(
            (
                ("accuracy", "with the labeler", drawing.BLUE, "o"),
                ("gold_accuracy", "with the truth", drawing.GREEN, "D"),
            )
        ):
            at = [x + 0.12 * (2 * i - 1) for x in range(len(names))]
            figures = [splits[split][key] for split in names]
            style = dict(color=color, marker=mark, label=label, linestyle="none")
            drawing.whiskers(axis, at, figures, **style)
            for x, figure in zip(at, figures, strict=True):
                text = prose.percent(figure["mean"])
                place = (x, figure["mean"])
                axis.annotate(text, place, xytext=(7, 3), **_NEAR)
        for x, split in enumerate(names):
            best = splits[split]["ceiling"]
            label = "labeler's ceiling" if x == 0 else None
            style = dict(color=drawing.INK, linestyle=":", linewidth=1.5, label=label)
            axis.plot([x - 0.3, x + 0.3], [best, best], **style)
        axis.axhline(0.5, color=drawing.GREY, linewidth=1, linestyle="--")
        axis.text(len(names) - 0.52, 0.505, "chance", fontsize=8, ha="right")
        drawing.label_stages(axis, [_SPLITS[split] for split in names])
        axis.set_ylim(0.45, 1.02)
        axis.set_yticks([0.5, 0.6, 0.7, 0.8, 0.9, 1.0], "50 60 70 80 90 100".split())
        axis.set_ylabel("agrees, % of held-out pairs")
        drawn.figure.legend(loc="outside upper center", ncols=3)
        for split in names:
            row = splits[split]
            numbers.append(
                (
                    *(_SPLITS[split], prose.interval(row["accuracy"])),
                    *(
                        f"{row['ceiling']:.2f}",
                        prose.interval(row["gold_accuracy"]),
                    ),
                )
            )
        return drawing.Figure(
            "accuracy",
            "Has the reward model learned the labels, or the truth behind them?",
            _agreement(name, splits),
            drawn.svg(),
            numbers,
        )


def _agreement(name: str, splits: Mapping[str, Any]) -> str:
    row = splits["preferences"]
    chance = "above chance" if row["accuracy"]["low"] > 0.5 else "not beyond chance"
    text = (
        f"{name} agrees with the labeler on "
        f"{prose.percent(row['accuracy']['mean'])} of pairs like those it learned "
        f"from ({chance}; at best {prose.percent(row['ceiling'])}) and with the "
        "true reward on "
        f"{prose.percent(row['gold_accuracy']['mean'])}"
    )
    if "any" in splits:
        other = splits["any"]["gold_accuracy"]
        apart = other["high"] < row["gold_accuracy"]["low"]
        verb = "it falls to" if apart else "about the same,"
        text += f"; on any prompt {verb} {prose.percent(other['mean'])}"
    return f"{text}."


def reliability(data: story.Story) -> drawing.Figure | str:
    """How often its choice is the labeler's, by how sure it is."""
    found = _first(data)
    if found is None:
        return _NONE
    name, model = found
    row = model["splits"]["preferences"]
    curve = row["calibration"]
    numbers = [("predicted", "chosen by the labeler", "pairs")]
    with drawing.canvas("reliability") as drawn:
        (axis,) = drawn.axes
        axis.plot(
            [0, 1], [0, 1], color=drawing.GREY, linestyle="--", label="as it says"
        )
        at = [point["predicted"] for point in curve]
        figures = [point["chosen"] for point in curve]
        style = dict(color=drawing.GREEN, marker="D", label=drawing.shorten(name))
        drawing.whiskers(axis, at, figures, **style)
        ticks = [0, 0.25, 0.5, 0.75, 1]
        axis.set_xticks(ticks, [f"{100 * t:.0f}" for t in ticks])
        drawing.percent_axis(axis)
        axis.set_xlabel("says that the first reply is preferred, %")
        axis.set_ylabel("it was, % of pairs")
        axis.legend(loc="upper left")
        for point in curve:
            chosen = point["chosen"]
            numbers.append(
                (
                    f"{point['predicted']:.2f}",
                    prose.interval(chosen),
                    str(chosen["count"]),
                )
            )
        sure = [p for p in curve if p["predicted"] > 0.5]
        excess = [
            (p["predicted"] - p["chosen"]["mean"]) * p["chosen"]["count"] for p in sure
        ]
        total = sum(p["chosen"]["count"] for p in sure) or 1
        gap = sum(excess) / total
        judged = (
            "too sure of itself"
            if gap > 0.02
            else "not sure enough"
            if gap < -0.02
            else "about as sure as it may be"
        )
        return drawing.Figure(
            "reliability",
            "When the reward model is sure, is it right?",
            f"The calibration error is {row['ece']:.3f} over {row['count']} pairs; "
            f"where it favours a reply it is {judged} (by {gap:+.2f} on average).",
            drawn.svg(),
            numbers,
        )


def by_length(data: story.Story) -> drawing.Figure | str:
    """Accuracy by how much longer the better reply is, and what padding does."""
    found = _first(data)
    if found is None:
        return _NONE
    name, model = found
    bins = model["splits"]["preferences"]["by_length"]
    padding = model["padding"]
    numbers = [("the better reply is", "right", "pairs")]
    with drawing.canvas("by_length") as drawn:
        (axis,) = drawn.axes
        figures = [entry["accuracy"] for entry in bins]
        drawing.whiskers(
            axis, range(len(bins)), figures, color=drawing.GREEN, marker="D"
        )
        axis.axhline(0.5, color=drawing.GREY, linewidth=1, linestyle="--")
        labels = [entry["longer"].replace(" or more ", "+ ") for entry in bins]
        labels = [label.replace(" to ", "–") for label in labels]
        axis.set_xticks(range(len(bins)), [_broken(label) for label in labels])
        axis.set_xlim(-0.5, len(bins) - 0.5)
        drawing.percent_axis(axis)
        axis.set_xlabel("the better reply, in words")
        axis.set_ylabel("scored higher, % of pairs")
        for entry in bins:
            share = entry["accuracy"]
            numbers.append(
                (entry["longer"], prose.interval(share), str(share["count"]))
            )
        numbers.append(
            (
                f"{padding['sentences']} empty sentences: score moves by",
                prose.delta(padding["shift"]),
                f"preferred in {prose.percent(padding['preferred'])}",
            )
        )
        return drawing.Figure(
            "by_length",
            "Does length fool the reward model?",
            _fooled(name, bins, padding),
            drawn.svg(),
            numbers,
        )


def _fooled(name: str, bins, padding: Mapping[str, Any]) -> str:
    first, last = bins[0], bins[-1]
    low, high = first["accuracy"], last["accuracy"]
    if high["low"] > low["high"]:
        means = "it likes length"
    elif low["low"] > high["high"]:
        means = "it likes brevity"
    else:
        means = "no clear liking for length"
    verb = prose.verdict(
        padding["shift"], up="raise", down="lower", level="do not clearly move"
    )
    return (
        f"{name} is right in {prose.percent(low['mean'])} of pairs whose better "
        f"reply is {first['longer']} and {prose.percent(high['mean'])} where it is "
        f"{last['longer']}: {means}; {padding['sentences']} empty sentences {verb} a "
        f"score ({padding['shift']['mean']:+.2f}) and win in "
        f"{prose.percent(padding['preferred'])} of pairs, in truth never."
    )


def _broken(label: str) -> str:
    head, _, tail = label.rpartition(" ")
    return f"{head}\n{tail}"


_NEAR = dict(textcoords="offset points", fontsize=9)
