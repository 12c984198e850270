# SPDX-License-Identifier: Apache-2.0
"""Figures of the true reward of responses."""

from __future__ import annotations

from collections.abc import Mapping
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
    if sentences:
        return " ".join(sentences)
    name, gold = next(iter(data.sampled("gold").items()))
    parts = [
        f"{prose.interval(gold[view])} on {label} prompts"
        for view, label in prose.VIEWS.items()
        if view in gold
    ]
    return f"{name} has {' and '.join(parts)}; there is no model to compare it with."


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
        means = {kind: figure["mean"] for kind, figure in gold.items()}
        best, worst = max(means, key=means.get), min(means, key=means.get)
        return (
            f"{last} does best on {best} ({means[best]:.2f}) and worst on {worst} "
            f"({means[worst]:.2f})."
        )
    kinds = {kind: change["gold"][f"eval_{kind}"] for kind in gold}
    clear = {n: c["mean"] for n, c in kinds.items() if prose.excludes_zero(c)}
    order = sorted(clear, key=clear.get)
    up = [name for name in order[::-1] if clear[name] > 0]
    down = [name for name in order if clear[name] < 0]
    listed = lambda names: ", ".join(f"{n} ({clear[n]:+.2f})" for n in names)
    gains = f"gained on {listed(up)}" if up else "gained on no kind beyond its interval"
    losses = f"lost on {listed(down)}" if down else "lost on none"
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
        start = data.models.get(next(iter(runs.values()))["kl"]["to"])
        if start:
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
        return drawn.finish(title, _ends(runs, start), numbers)


def _checkpoints(model: Mapping[str, Any]) -> list[Mapping]:
    return [p for p in model.get("trajectory", []) if "kl" in p]


def _ends(runs: Mapping[str, Any], start: Mapping | None) -> str:
    sentences = []
    for name, model in runs.items():
        gold, kl = model["sampled"]["gold"]["nine"], model["kl"]["kl"]
        text = f"{name} ends at {gold['mean']:.2f}, {prose.interval(kl)} nats away"
        if start:
            gain = gold["mean"] - start["sampled"]["gold"]["nine"]["mean"]
            text += f", {gain:+.2f} against its reference"
        points = _checkpoints(model)
        best = max(points, key=lambda p: p["gold"]["nine"]["mean"], default=None)
        if best and best["gold"]["nine"]["mean"] > gold["high"]:
            text += f"; it was higher at step {best['step']}: over-optimised since"
        sentences.append(f"{text}.")
    return " ".join(sentences)


def _cell(figure: Mapping | None) -> str:
    return prose.interval(figure) if figure else "-"


FIGURES = (stages, slices, frontier)
