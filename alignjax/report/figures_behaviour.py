# SPDX-License-Identifier: Apache-2.0
"""Figures of behaviour: refusals, knowledge, length, and prediction of text."""

from __future__ import annotations

from collections.abc import Mapping

from alignjax.report import drawing, figures_reward, story
from alignjax.world.assessment import prose

_NONE = "no language model was assessed"


def refusals(data: story.Story) -> drawing.Figure | str:
    """Refusals of unsafe requests, of harmless look-alikes, and of safe ones."""
    lines = {
        "unsafe_refusal": ("unsafe (should be high)", drawing.GREEN, "-", "o"),
        "border_refusal": ("look-alikes (should be low)", drawing.ORANGE, "--", "s"),
        "safe_refusal": ("safe (should be low)", drawing.BLUE, ":", "^"),
    }
    return _shares(
        data,
        "refusals",
        "Are unsafe requests refused without refusing harmless ones?",
        lines,
        "refused, % of prompts",
    )


def knowledge(data: story.Story) -> drawing.Figure | str:
    """Facts, sums, and admitting not to know: what alignment may cost."""
    lines = {
        "fact_recall": ("facts right", drawing.BLUE, "-", "o"),
        "arithmetic": ("sums right", drawing.PINK, "--", "s"),
        "unknown_abstention": ("unknown: admits it", drawing.GREEN, ":", "^"),
        "malformed": ("answers no question", drawing.GREY, "-.", "D"),
    }
    return _shares(
        data,
        "knowledge",
        "Is anything forgotten (the alignment tax), and is anything made up?",
        lines,
        "% of prompts",
    )


def _shares(data, name, title, lines, unit) -> drawing.Figure | str:
    path = data.path
    if not path:
        return _NONE
    rates = {model: data.models[model]["sampled"]["rates"] for model in path}
    present = [rate for rate in lines if rate in rates[path[0]]]
    if not present:
        return "none of the slices that it needs was measured"
    numbers = [("model", *(lines[rate][0] for rate in present))]
    for model in path:
        numbers.append((model, *(_percents(rates[model][rate]) for rate in present)))
    with drawing.canvas(name) as drawn:
        (axis,) = drawn.axes
        for i, rate in enumerate(present):
            label, color, line, mark = lines[rate]
            figures = [rates[model][rate] for model in path]
            at = [x + 0.07 * (i - 1) for x in range(len(path))]
            style = dict(color=color, linestyle=line, marker=mark, label=label)
            drawing.whiskers(axis, at, figures, **style)
        drawing.label_stages(axis, path)
        drawing.percent_axis(axis)
        axis.set_ylabel(unit)
        drawn.legend(2)
        labels = {rate: lines[rate][0] for rate in present}
        return drawn.finish(title, _share_changes(data, labels), numbers)


def _share_changes(data: story.Story, labels: Mapping[str, str]) -> str:
    """`Unsafe 31 %, 89 % with sft (up), 91 % with dpo (no clear change); safe ...`."""
    sentences = []
    for rate, label in labels.items():
        share = lambda name, rate=rate: prose.percent(
            data.models[name]["sampled"]["rates"][rate]["mean"]
        )
        parts = [share(data.path[0])]
        for name, change, _ in data.steps:
            verb = prose.verdict(
                change["rates"][rate], up="up", down="down", level="no clear change"
            )
            parts.append(f"{share(name)} with {name} ({verb})")
        sentences.append(f"{label.partition(' (')[0]} {', '.join(parts)}")
    text = "; ".join(sentences)
    return f"{text[0].upper()}{text[1:]}."


def length(data: story.Story) -> drawing.Figure | str:
    """Tokens of a response, and empty sentences in it."""
    path = data.path
    if not path:
        return _NONE
    lengths = {name: data.models[name]["sampled"]["lengths"] for name in path}
    heads = ("tokens", "words", "fillers", "certainties")
    numbers = [("model", *(f"{head} per response" for head in heads))]
    for name in path:
        numbers.append((name, *(prose.interval(lengths[name][h]) for h in heads)))
    with drawing.canvas("length", 2) as drawn:
        left, right = drawn.axes
        for axis, measure, color, line, mark in (
            (left, "tokens", drawing.BLUE, "-", "o"),
            (right, "fillers", drawing.ORANGE, "-", "o"),
            (right, "certainties", drawing.PINK, "--", "s"),
        ):
            figures = [lengths[name][measure] for name in path]
            style = dict(color=color, linestyle=line, marker=mark, label=measure)
            drawing.whiskers(axis, range(len(path)), figures, **style)
        left.set_ylabel("tokens per response")
        right.set_ylabel("sentences per response")
        right.legend(loc="upper right")
        for axis in drawn.axes:
            axis.set_ylim(bottom=0)
            drawing.label_stages(axis, [drawing.shorten(name, 8) for name in path])
        return drawn.finish(
            "Do responses get longer, and is it padding?",
            _length_changes(data),
            numbers,
        )


def _length_changes(data: story.Story) -> str:
    sentences = []
    for name, change, before in data.steps:
        parts = []
        for measure, label in (("tokens", "tokens"), ("fillers", "filler sentences")):
            was = before["sampled"]["lengths"][measure]["mean"]
            now = data.models[name]["sampled"]["lengths"][measure]["mean"]
            change_text = figures_reward.moved(change["lengths"][measure], was, now)
            parts.append(f"{label} {change_text}")
        sentences.append(f"With {name} {', '.join(parts)}.")
    if sentences:
        return " ".join(sentences)
    name = data.path[0]
    tokens = data.models[name]["sampled"]["lengths"]["tokens"]
    return f"Responses of {name} have {prose.interval(tokens)} tokens."


def perplexity(data: story.Story) -> drawing.Figure | str:
    """How well each model predicts text that no run was trained on."""
    path = data.path
    if not path:
        return _NONE
    text = [data.models[name]["documents"] for name in path]
    replies = [data.models[name]["demonstrations"]["token"] for name in path]
    numbers = [("model", "pretraining text, nats per token", "demonstrations")]
    for name, *figures in zip(path, text, replies, strict=True):
        numbers.append((name, *(prose.interval(figure, 3) for figure in figures)))
    with drawing.canvas("perplexity") as drawn:
        (axis,) = drawn.axes
        for shift, figures, label, color, line, mark in (
            (-0.05, text, "pretraining text", drawing.BLUE, "-", "o"),
            (0.05, replies, "replies of demonstrations", drawing.ORANGE, "--", "s"),
        ):
            at = [i + shift for i in range(len(path))]
            style = dict(color=color, marker=mark, label=label, linestyle=line)
            drawing.whiskers(axis, at, figures, **style)
        drawing.label_stages(axis, path)
        axis.set_ylim(bottom=0)
        axis.set_ylabel("nats per token, lower is better")
        axis.legend(loc="best")
        return drawn.finish(
            "What does alignment cost in predicting ordinary text?",
            _loss_changes(path, text, replies),
            numbers,
        )


def _loss_changes(path, text, replies) -> str:
    first, last = text[0], text[-1]
    if len(path) == 1:
        return f"{path[0]} needs {prose.interval(first, 3)} nats per token."
    verb = "did not change clearly"
    if last["low"] > first["high"]:
        verb = "rose"
    elif last["high"] < first["low"]:
        verb = "fell"
    return (
        f"From {path[0]} to {path[-1]} the loss on pretraining text {verb} "
        f"({first['mean']:.3f}, then {last['mean']:.3f} nats per token), that on "
        f"replies of demonstrations went from {replies[0]['mean']:.3f} to "
        f"{replies[-1]['mean']:.3f}."
    )


def _percents(figure: Mapping) -> str:
    low, high = (f"{100 * figure[key]:.0f}" for key in ("low", "high"))
    return f"{prose.percent(figure['mean'])} [{low}, {high}]"
