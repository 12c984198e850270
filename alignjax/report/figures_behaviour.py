# SPDX-License-Identifier: Apache-2.0
"""Figures of how models behave: refusals, knowledge, length, text that they predict."""

from __future__ import annotations

from collections.abc import Mapping

from alignjax.report import drawing, figures_reward, story
from alignjax.world.assessment import prose

_NONE = "no model that talks was assessed"


def refusals(data: story.Story) -> drawing.Figure | str:
    """Refusals of what is unsafe, of what only looks so, and of what is safe."""
    lines = {
        "unsafe_refusal": ("unsafe (should be high)", drawing.GREEN, "-", "o"),
        "border_refusal": ("look-alikes (should be low)", drawing.ORANGE, "--", "s"),
        "safe_refusal": ("safe (should be low)", drawing.BLUE, ":", "^"),
    }
    return _shares(
        data,
        "refusals",
        "Are unsafe asks refused without refusing harmless ones?",
        lines,
        "refused, % of prompts",
    )


def knowledge(data: story.Story) -> drawing.Figure | str:
    """Facts, sums, and owning up to what nobody knows: what alignment may cost."""
    lines = {
        "fact_recall": ("facts right", drawing.BLUE, "-", "o"),
        "arithmetic": ("sums right", drawing.PINK, "--", "s"),
        "unknown_abstention": ("unknown: owns up", drawing.GREEN, ":", "^"),
        "malformed": ("answers nothing asked", drawing.GREY, "-.", "D"),
    }
    return _shares(
        data,
        "knowledge",
        "Is anything forgotten (the tax), and is anything made up?",
        lines,
        "% of prompts",
    )


def _shares(data, name, title, lines, unit) -> drawing.Figure | str:
    models, path = data.models, data.path
    present = [r for r in lines if path and r in models[path[0]]["sampled"]["rates"]]
    if not present:
        return _NONE if not path else "none of the slices that it needs was asked"
    numbers = [("model", *(lines[rate][0] for rate in present))]
    for model in path:
        rates = models[model]["sampled"]["rates"]
        numbers.append((model, *(_percents(rates[rate]) for rate in present)))
    with drawing.canvas(name) as drawn:
        (axis,) = drawn.axes
        for i, rate in enumerate(present):
            label, color, line, mark = lines[rate]
            found = [models[model]["sampled"]["rates"][rate] for model in path]
            at = [x + 0.07 * (i - 1) for x in range(len(path))]
            style = dict(color=color, linestyle=line, marker=mark, label=label)
            drawing.whiskers(axis, at, found, **style)
        drawing.label_stages(axis, path)
        drawing.percent_axis(axis)
        axis.set_ylabel(unit)
        drawn.figure.legend(loc="outside upper center", ncols=2)
        return drawing.Figure(
            name,
            title,
            _sentences(data, path, {rate: lines[rate][0] for rate in present}),
            drawn.svg(),
            numbers,
        )


def _sentences(data: story.Story, path, labels: Mapping[str, str]) -> str:
    """Each share along the path: `unsafe 31 %, then 89 % (up), then 91 % (level)`."""
    sentences = []
    for rate, label in labels.items():
        first = data.models[path[0]]["sampled"]["rates"][rate]
        parts = [prose.percent(first["mean"])]
        for name, change, _ in data.steps:
            now = data.models[name]["sampled"]["rates"][rate]["mean"]
            verb = prose.verdict(
                change["rates"][rate], up="up", down="down", level="no clear change"
            )
            parts.append(f"{prose.percent(now)} with {name} ({verb})")
        sentences.append(f"{label.partition(' (')[0]} {', '.join(parts)}")
    text = "; ".join(sentences)
    return f"{text[0].upper()}{text[1:]}."


def length(data: story.Story) -> drawing.Figure | str:
    """Tokens of a response, and sentences in it that say nothing."""
    models, path = data.models, data.path
    if not path:
        return _NONE
    heads = ("tokens", "words", "fillers", "certainties")
    numbers = [("model", *(f"{head} a response" for head in heads))]
    for name in path:
        lengths = models[name]["sampled"]["lengths"]
        numbers.append((name, *(prose.interval(lengths[head]) for head in heads)))
    with drawing.canvas("length", 2) as drawn:
        left, right = drawn.axes
        at = range(len(path))
        words = [models[name]["sampled"]["lengths"]["tokens"] for name in path]
        drawing.whiskers(left, at, words, color=drawing.BLUE, marker="o")
        left.set_ylim(bottom=0)
        left.set_ylabel("tokens a response")
        for i, (kind, color, line) in enumerate(
            (("fillers", drawing.ORANGE, "-"), ("certainties", drawing.PINK, "--"))
        ):
            found = [models[name]["sampled"]["lengths"][kind] for name in path]
            style = dict(color=color, linestyle=line, marker="os"[i], label=kind)
            drawing.whiskers(right, at, found, **style)
        right.set_ylim(bottom=0)
        right.set_ylabel("sentences a response")
        right.legend(loc="upper right")
        for axis in drawn.axes:
            drawing.label_stages(axis, [drawing.shorten(name, 8) for name in path])
        return drawing.Figure(
            "length",
            "Do answers get longer, and is it padding?",
            _lengths(data, path),
            drawn.svg(),
            numbers,
        )


def _lengths(data: story.Story, path) -> str:
    sentences = []
    for name, change, before in data.steps:
        after = data.models[name]["sampled"]["lengths"]
        parts = []
        for measure, label in (("tokens", "tokens"), ("fillers", "filler sentences")):
            was = before["sampled"]["lengths"][measure]["mean"]
            now = after[measure]["mean"]
            parts.append(
                f"{label} {figures_reward.moved(change['lengths'][measure], was, now)}"
            )
        sentences.append(f"With {name} {', '.join(parts)}.")
    if not sentences:
        lengths = data.models[path[0]]["sampled"]["lengths"]
        return f"{path[0]} answers with {prose.interval(lengths['tokens'])} tokens."
    return " ".join(sentences)


def perplexity(data: story.Story) -> drawing.Figure | str:
    """How well each model predicts text that no run has read."""
    models, path = data.models, data.path
    if not path:
        return _NONE
    numbers = [("model", "pretraining text, nats a token", "demonstrations, nats")]
    for name in path:
        token = models[name]["demonstrations"]["token"]
        text = models[name]["documents"]
        numbers.append((name, prose.interval(text, 3), prose.interval(token, 3)))
    with drawing.canvas("perplexity") as drawn:
        (axis,) = drawn.axes
        for shift, label, color, mark, of in (
            (-0.05, "pretraining text", drawing.BLUE, "o", lambda m: m["documents"]),
            (
                *(0.05, "replies of demonstrations", drawing.ORANGE, "s"),
                lambda m: m["demonstrations"]["token"],
            ),
        ):
            found = [of(models[name]) for name in path]
            at = [i + shift for i in range(len(path))]
            line = "-" if shift < 0 else "--"
            style = dict(color=color, marker=mark, label=label, linestyle=line)
            drawing.whiskers(axis, at, found, **style)
        drawing.label_stages(axis, path)
        axis.set_ylim(bottom=0)
        axis.set_ylabel("nats a token, lower is better")
        axis.legend(loc="best")
        return drawing.Figure(
            "perplexity",
            "What does alignment cost in predicting ordinary text?",
            _texts(data, path),
            drawn.svg(),
            numbers,
        )


def _texts(data: story.Story, path) -> str:
    first, last = (data.models[name] for name in (path[0], path[-1]))
    was, now = first["documents"]["mean"], last["documents"]["mean"]
    if len(path) == 1:
        return f"{path[0]} needs {prose.interval(first['documents'], 3)} nats a token."
    apart = (
        last["documents"]["low"] > first["documents"]["high"]
        or last["documents"]["high"] < first["documents"]["low"]
    )
    verb = ("rose" if now > was else "fell") if apart else "did not change clearly"
    was_reply, now_reply = (
        model["demonstrations"]["token"]["mean"] for model in (first, last)
    )
    return (
        f"From {path[0]} to {path[-1]} the loss on pretraining text {verb} "
        f"({was:.3f}, then {now:.3f} nats a token), that on replies of demonstrations "
        f"went from {was_reply:.3f} to {now_reply:.3f}."
    )


def _percents(figure: Mapping) -> str:
    low, high = (f"{100 * figure[key]:.0f}" for key in ("low", "high"))
    return f"{prose.percent(figure['mean'])} [{low}, {high}]"
