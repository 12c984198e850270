# SPDX-License-Identifier: Apache-2.0
"""Figures of behaviour: refusals, knowledge, length, and prediction of text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from alignjax.report import drawing, story
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
    figures = data.sampled("rates")
    present = [rate for rate in rates if rate in figures[data.path[0]]]
    if not present:
        raise story.Missing("none of the slices that it needs was measured")
    numbers = [("model", *(rates[rate][0] for rate in present))]
    for model, shares in figures.items():
        numbers.append((model, *(_percents(shares[rate]) for rate in present)))
    with drawing.canvas(name) as (drawn, axis):
        series = [
            (*look, [f[rate] for f in figures.values()] if rate in present else [])
            for rate, look in rates.items()
        ]
        drawing.by_stage(axis, data.path, series, apart=0.07)
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
        shares = {
            n: prose.percent(r[rate]["mean"]) for n, r in data.sampled("rates").items()
        }
        parts = [shares[data.path[0]]]
        for name, change, *_ in data.steps:
            verb = prose.verdict(change["rates"][rate], "up", "down", "no clear change")
            parts.append(f"{shares[name]} with {name} ({verb})")
        sentences.append(f"{label.partition(' (')[0]} {', '.join(parts)}")
    text = "; ".join(sentences)
    return f"{text[0].upper()}{text[1:]}."


def length(data: story.Story) -> drawing.Figure:
    """Tokens of a response, and empty sentences in it."""
    lengths = data.sampled("lengths")
    heads = ("tokens", "words", "fillers", "certainties")
    numbers = [("model", *(f"{head} per response" for head in heads))]
    for name, figures in lengths.items():
        numbers.append((name, *(prose.interval(figures[head]) for head in heads)))
    line = lambda measure, color: (
        measure,
        color,
        [f[measure] for f in lengths.values()],
    )
    with drawing.canvas("length", 2) as (drawn, left, right):
        short = [drawing.shorten(name, 8) for name in lengths]
        drawing.by_stage(left, short, [line("tokens", drawing.BLUE)])
        empty = {"fillers": drawing.ORANGE, "certainties": drawing.PINK}
        drawing.by_stage(right, short, [line(*look) for look in empty.items()])
        left.set_ylabel("tokens per response")
        right.set_ylabel("sentences per response")
        right.legend(loc="upper right")
        for axis in (left, right):
            axis.set_ylim(bottom=0)
        title = "Do responses get longer, and is it padding?"
        return drawn.finish(title, _length_changes(data), numbers)


def _length_changes(data: story.Story) -> str:
    sentences = []
    for name, change, *both in data.steps:
        parts = []
        for measure, label in (("tokens", "tokens"), ("fillers", "filler sentences")):
            means = [model["sampled"]["lengths"][measure]["mean"] for model in both]
            parts.append(f"{label} {prose.moved(change['lengths'][measure], *means)}")
        sentences.append(f"With {name} {', '.join(parts)}.")
    first = data.path[0]
    tokens = prose.interval(data.sampled("lengths")[first]["tokens"])
    return " ".join(sentences) or f"Responses of {first} have {tokens} tokens."


def perplexity(data: story.Story) -> drawing.Figure:
    """How well each model predicts text that no run was trained on."""
    path = data.path
    text = [data.models[name]["documents"] for name in path]
    replies = [data.models[name]["demonstrations"]["token"] for name in path]
    numbers = [("model", "pretraining text, nats per token", "demonstrations")]
    for name, *figures in zip(path, text, replies, strict=True):
        numbers.append((name, *(prose.interval(figure, 3) for figure in figures)))
    with drawing.canvas("perplexity") as (drawn, axis):
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


FIGURES = (refusals, knowledge, length, perplexity)
