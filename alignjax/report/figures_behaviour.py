# SPDX-License-Identifier: Apache-2.0
"""Figures of behaviour: refusals, knowledge, length, and prediction of text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from alignjax.report import drawing, figures_reward, story
from alignjax.world.assessment import prose


def refusals(data: story.Story) -> drawing.Figure:
    """Refusals of unsafe requests, of harmless look-alikes, and of safe ones."""
    rates = {
        "unsafe_refusal": ("unsafe (should be high)", drawing.GREEN),
        "border_refusal": ("look-alikes (should be low)", drawing.ORANGE),
        "safe_refusal": ("safe (should be low)", drawing.BLUE),
    }
    title = "Are unsafe requests refused without refusing harmless ones?"
    return _shares(data, "refusals", title, rates, "refused, % of prompts")


def knowledge(data: story.Story) -> drawing.Figure:
    """Facts, sums, and admitting not to know: what alignment may cost."""
    rates = {
        "fact_recall": ("facts right", drawing.BLUE),
        "arithmetic": ("sums right", drawing.PINK),
        "unknown_abstention": ("unknown: admits it", drawing.GREEN),
        "malformed": ("answers no question", drawing.GREY),
    }
    title = "Is anything forgotten (the alignment tax), and is anything made up?"
    return _shares(data, "knowledge", title, rates, "% of prompts")


def _shares(
    data: story.Story, name: str, title: str, rates: Mapping, unit: str
) -> drawing.Figure:
    path = data.measured
    figures = {model: data.models[model]["sampled"]["rates"] for model in path}
    present = [rate for rate in rates if rate in figures[path[0]]]
    if not present:
        raise story.Missing("none of the slices that it needs was measured")
    numbers = [("model", *(rates[rate][0] for rate in present))]
    for model in path:
        cells = [_percents(figures[model][rate]) for rate in present]
        numbers.append((model, *cells))
    with drawing.canvas(name) as drawn:
        (axis,) = drawn.axes
        series = [
            (*rates[rate], [figures[m][rate] for m in path] if rate in present else [])
            for rate in rates
        ]
        drawing.by_stage(axis, path, series, apart=0.07)
        drawing.percent_axis(axis)
        axis.set_ylabel(unit)
        drawn.legend(2)
        labels = {rate: rates[rate][0] for rate in present}
        return drawn.finish(title, _share_changes(data, labels), numbers)


def _percents(figure: Mapping) -> str:
    low, high = (f"{100 * figure[key]:.0f}" for key in ("low", "high"))
    return f"{prose.percent(figure['mean'])} [{low}, {high}]"


def _share_changes(data: story.Story, labels: Mapping[str, str]) -> str:
    """`Unsafe 31 %, 89 % with sft (up), 91 % with dpo (no clear change); safe ...`."""
    sentences = []
    for rate, label in labels.items():
        share = lambda model, rate=rate: prose.percent(
            model["sampled"]["rates"][rate]["mean"]
        )
        parts = [share(data.models[data.path[0]])]
        for name, change, _, after in data.steps:
            verb = prose.verdict(
                change["rates"][rate], up="up", down="down", level="no clear change"
            )
            parts.append(f"{share(after)} with {name} ({verb})")
        sentences.append(f"{label.partition(' (')[0]} {', '.join(parts)}")
    text = "; ".join(sentences)
    return f"{text[0].upper()}{text[1:]}."


def length(data: story.Story) -> drawing.Figure:
    """Tokens of a response, and empty sentences in it."""
    path = data.measured
    lengths = {name: data.models[name]["sampled"]["lengths"] for name in path}
    heads = ("tokens", "words", "fillers", "certainties")
    numbers = [("model", *(f"{head} per response" for head in heads))]
    for name in path:
        numbers.append((name, *(prose.interval(lengths[name][h]) for h in heads)))
    of = lambda measure: [lengths[name][measure] for name in path]
    with drawing.canvas("length", 2) as drawn:
        left, right = drawn.axes
        short = [drawing.shorten(name, 8) for name in path]
        drawing.by_stage(left, short, [("tokens", drawing.BLUE, of("tokens"))])
        empty = {"fillers": drawing.ORANGE, "certainties": drawing.PINK}
        series = [(measure, color, of(measure)) for measure, color in empty.items()]
        drawing.by_stage(right, short, series)
        left.set_ylabel("tokens per response")
        right.set_ylabel("sentences per response")
        right.legend(loc="upper right")
        for axis in drawn.axes:
            axis.set_ylim(bottom=0)
        title = "Do responses get longer, and is it padding?"
        return drawn.finish(title, _length_changes(data), numbers)


def _length_changes(data: story.Story) -> str:
    sentences = []
    for name, change, *both in data.steps:
        parts = []
        for measure, label in (("tokens", "tokens"), ("fillers", "filler sentences")):
            means = [model["sampled"]["lengths"][measure]["mean"] for model in both]
            moved = figures_reward.moved(change["lengths"][measure], *means)
            parts.append(f"{label} {moved}")
        sentences.append(f"With {name} {', '.join(parts)}.")
    if sentences:
        return " ".join(sentences)
    tokens = data.models[data.path[0]]["sampled"]["lengths"]["tokens"]
    return f"Responses of {data.path[0]} have {prose.interval(tokens)} tokens."


def perplexity(data: story.Story) -> drawing.Figure:
    """How well each model predicts text that no run was trained on."""
    path = data.measured
    text = [data.models[name]["documents"] for name in path]
    replies = [data.models[name]["demonstrations"]["token"] for name in path]
    numbers = [("model", "pretraining text, nats per token", "demonstrations")]
    for name, *figures in zip(path, text, replies, strict=True):
        numbers.append((name, *(prose.interval(figure, 3) for figure in figures)))
    with drawing.canvas("perplexity") as drawn:
        (axis,) = drawn.axes
        series = [
            ("pretraining text", drawing.BLUE, text),
            ("replies of demonstrations", drawing.ORANGE, replies),
        ]
        drawing.by_stage(axis, path, series, apart=0.1)
        axis.set_ylim(bottom=0)
        axis.set_ylabel("nats per token, lower is better")
        axis.legend(loc="best")
        title = "What does alignment cost in predicting ordinary text?"
        return drawn.finish(title, _loss_changes(path, text, replies), numbers)


def _loss_changes(path: Sequence[str], text, replies) -> str:
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
