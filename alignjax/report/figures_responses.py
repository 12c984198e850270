# SPDX-License-Identifier: Apache-2.0
"""Figures of the responses of models: true reward, behaviour, prediction of text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from alignjax.report import drawing, story
from alignjax.world.assessment import prose


def stages(data: story.Story) -> drawing.Figure:
    """True reward of each stage, on familiar and on unfamiliar prompts."""
    gold = data.sampled("gold")
    numbers = [("model", *prose.VIEWS.values(), "mean of the slices")]
    for name, figures in gold.items():
        cells = (_cell(figures.get(view)) for view in (*prose.VIEWS, "nine"))
        numbers.append((name, *cells))
    with drawing.canvas("stages") as (drawn, axis):
        series = []
        for view, color in (("seen", drawing.BLUE), ("unfamiliar", drawing.ORANGE)):
            figures = [f[view] for f in gold.values() if view in f]
            whole = figures if len(figures) == len(gold) else []
            series.append((prose.VIEWS[view], color, whole))
        places = drawing.by_stage(axis, data.path, series, apart=0.12)
        # Off the lines: one view's numbers above its interval, the other's below.
        sides = (
            dict(xytext=(-3, 4), ha="right", va="bottom"),
            dict(xytext=(3, -4), ha="left", va="top"),
        )
        drawn_series = zip(places, series, sides, ("high", "low"), strict=True)
        for at, (_, color, figures), side, end in drawn_series:
            style = dict(textcoords="offset points", color=color, fontsize=9, **side)
            for x, figure in zip(at, figures, strict=False):
                axis.annotate(f"{figure['mean']:.2f}", (x, figure[end]), **style)
        axis.margins(y=0.14)
        axis.set_ylabel("true reward of a response")
        drawn.legend(2)
        title = "Does every stage raise the true reward, also on prompts of a new kind?"
        return drawn.finish(title, _stage_changes(data), numbers)


def _stage_changes(data: story.Story) -> str:
    """A sentence for each stage after the first."""
    sentences = []
    for name, change, *both in data.steps:
        parts = []
        for view, label in prose.VIEWS.items():
            if view in change["gold"]:
                means = [model["sampled"]["gold"][view]["mean"] for model in both]
                where = f" on {label} prompts"
                parts.append(prose.moved(change["gold"][view], *means, where))
        sentences.append(f"With {name} it {', and '.join(parts)}.")
    for name, gold in data.sampled("gold").items() if not sentences else ():
        parts = [
            f"{prose.interval(gold[view])} on {label} prompts"
            for view, label in prose.VIEWS.items()
            if view in gold
        ]
        sentences.append(f"{name} has {' and '.join(parts)}.")
    return " ".join(sentences)


def slices(data: story.Story) -> drawing.Figure:
    """True reward by kind of prompt."""
    gold = {name: _kinds(figures) for name, figures in data.sampled("slices").items()}
    kinds = list(gold[data.path[0]])
    numbers = [("kind of prompt", *gold)]
    numbers += [(kind, *(_cell(g[kind]) for g in gold.values())) for kind in kinds]
    with drawing.canvas("slices", height=0.36 * len(kinds) + 1.0) as (drawn, axis):
        for i, name in enumerate(gold):
            figures = [gold[name][kind] for kind in kinds[::-1]]
            shift = 0.22 * (i - (len(gold) - 1) / 2)
            axis.errorbar(
                [figure["mean"] for figure in figures],
                [y - shift for y in range(len(kinds))],
                xerr=drawing.errors(figures),
                linestyle="none",
                marker=drawing.MARKERS[i % len(drawing.MARKERS)],
                markersize=5,
                elinewidth=1.3,
                color=data.color(name),
                label=drawing.shorten(name, 24),
            )
        axis.axvline(0, color=drawing.INK, linewidth=0.8)
        axis.set_yticks(range(len(kinds)), kinds[::-1])
        axis.set_xlabel("true reward of a response")
        drawn.legend(min(3, len(gold)))
        title = "Which kinds of prompts gained, and did any lose?"
        return drawn.finish(title, _kind_changes(data, gold[data.path[-1]]), numbers)


def _kinds(slices: Mapping[str, Any]) -> dict[str, Any]:
    """True reward by kind of prompt, but for the familiar slice of all kinds."""
    kinds = ((n.removeprefix("eval_"), s["gold"]) for n, s in slices.items())
    return {kind: gold for kind, gold in kinds if kind != "id"}


def _kind_changes(data: story.Story, gold: Mapping[str, Any]) -> str:
    last = data.path[-1]
    change = next((change for name, change, *_ in data.steps if name == last), None)
    if change is None:
        best, worst = (f(gold, key=lambda kind: gold[kind]["mean"]) for f in (max, min))
        if gold[best]["low"] <= gold[worst]["high"]:
            return f"{last} does not clearly do better on one kind than on another."
        return (
            f"{last} does best on {best} ({gold[best]['mean']:.2f}) and worst on "
            f"{worst} ({gold[worst]['mean']:.2f})."
        )
    kinds = {kind: change["gold"][f"eval_{kind}"] for kind in gold}
    clear = {n: c["mean"] for n, c in kinds.items() if prose.excludes_zero(c)}
    order = sorted(clear, key=clear.get)
    up = [name for name in order[::-1] if clear[name] > 0]
    down = [name for name in order if clear[name] < 0]
    listed = lambda names: ", ".join(f"{n} ({clear[n]:+.2f})" for n in names)
    gains = f"gained on {listed(up)}" if up else "gained on no kind beyond its interval"
    losses = f"lost on {listed(down)}" if down else "lost on none beyond it"
    return (
        f"From {change['from']} to {last} the responses {gains}, and {losses}; "
        f"{len(kinds) - len(clear)} of {len(kinds)} kinds did not clearly change."
    )


def frontier(data: story.Story) -> drawing.Figure:
    """Divergence from the reference against true reward, over preference runs."""
    runs = {n: m for n, m in data.models.items() if "kl" in m}
    if not runs:
        raise story.Missing("no preference model was assessed against its reference")
    numbers = [("model", "step", "KL, nats per response", "true reward")]
    with drawing.canvas("frontier") as (drawn, axis):
        origin_x, origin_y = [], []
        starts = {name: data.reference(name) for name in runs}
        start = next(iter(starts.values()))
        if start is not None and all(other is start for other in starts.values()):
            gold = start["sampled"]["gold"]["nine"]
            origin_x, origin_y = [0], [gold["mean"]]
            style = dict(color=drawing.BLUE, marker="s", linestyle="none", zorder=3)
            drawing.whiskers(axis, origin_x, [gold], label="reference", **style)
        for i, (name, model) in enumerate(runs.items()):
            last = (model["step"], model["kl"]["kl"], model["sampled"]["gold"]["nine"])
            points = [
                (p["step"], p["kl"]["kl"], p["gold"]["nine"])
                for p in _checkpoints(model)
                if p["step"] != last[0]
            ]
            points.append(last)
            color = data.color(name)
            beta = f", β = {model['beta']:g}" if "beta" in model else ""
            x, y = ([p[k]["mean"] for p in points] for k in (1, 2))
            axis.plot(origin_x + x, origin_y + y, color=color, linewidth=1)
            axis.plot(x, y, color=color, marker="o", markersize=4, linewidth=0)
            axis.errorbar(
                *(x[-1:], y[-1:]),
                xerr=drawing.errors([last[1]]),
                yerr=drawing.errors([last[2]]),
                color=color,
                marker=drawing.MARKERS[(i + 2) % len(drawing.MARKERS)],
                markersize=7,
                capsize=3,
                linestyle="none",
                label=drawing.shorten(name) + beta,
            )
            numbers += [(name, str(s), _cell(k), _cell(g)) for s, k, g in points]
        axis.set_xlabel("KL(model ‖ reference), nats per response")
        axis.set_ylabel("true reward (mean of the slices)")
        axis.set_xlim(left=min(-0.02, axis.get_xlim()[0]))
        drawn.legend(3)
        title = "How much reward does each nat away from the reference buy?"
        return drawn.finish(title, _ends(runs, starts), numbers)


def _checkpoints(model: Mapping[str, Any]) -> list[Mapping]:
    return [p for p in model.get("trajectory", []) if "kl" in p]


def over_optimised(model: Mapping[str, Any]) -> tuple[Mapping, Mapping] | None:
    """The best checkpoint and the last, where that is clearly worse, and farther off.

    Both as measured on the prompts of checkpoints, which are fewer than the model's.
    Their intervals must be apart: the best of several is the best by luck too.
    """
    points = [p for p in _checkpoints(model) if p["step"] <= model["step"]]
    end = next((p for p in points if p["step"] == model["step"]), None)
    if end is None:
        return None
    best = max(points, key=lambda p: p["gold"]["nine"]["mean"])
    worse = end["gold"]["nine"]["high"] < best["gold"]["nine"]["low"]
    farther = end["kl"]["kl"]["mean"] > best["kl"]["kl"]["mean"]
    return (best, end) if worse and farther else None


def _ends(runs: Mapping[str, Any], starts: Mapping[str, Mapping | None]) -> str:
    sentences = []
    for name, model in runs.items():
        gold, kl = model["sampled"]["gold"]["nine"], model["kl"]["kl"]
        text = f"{name} ends at {gold['mean']:.2f}, {prose.interval(kl)} nats away"
        if start := starts[name]:
            gain = gold["mean"] - start["sampled"]["gold"]["nine"]["mean"]
            text += f", {gain:+.2f} against its reference"
        if pair := over_optimised(model):
            was, now = (point["gold"]["nine"]["mean"] for point in pair)
            text += (
                f"; over-optimised since step {pair[0]['step']}: from {was:.2f} there "
                f"to {now:.2f}, on the same prompts"
            )
        sentences.append(f"{text}.")
    return " ".join(sentences)


def _cell(figure: Mapping | None) -> str:
    return prose.interval(figure) if figure else "-"


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
    sentences, rates = [], data.sampled("rates")
    for rate, label in labels.items():
        share = lambda name, rate=rate: prose.percent(rates[name][rate]["mean"])
        parts = [share(data.path[0])]
        for name, change, *_ in data.steps:
            verb = prose.verdict(change["rates"][rate], "up", "down", "no clear change")
            parts.append(f"{share(name)} with {name} ({verb})")
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
    of = lambda measure: [figures[measure] for figures in lengths.values()]
    with drawing.canvas("length", 2) as (drawn, left, right):
        short = [drawing.shorten(name, 8) for name in lengths]
        drawing.by_stage(left, short, [("tokens", drawing.BLUE, of("tokens"))])
        empty = {"fillers": drawing.ORANGE, "certainties": drawing.PINK}
        series = [(measure, color, of(measure)) for measure, color in empty.items()]
        drawing.by_stage(right, short, series)
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


REWARD = (stages, slices, frontier)
BEHAVIOUR = (refusals, knowledge, length, perplexity)
