# SPDX-License-Identifier: Apache-2.0
"""Figures of the true reward of responses."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from alignjax.report import drawing, story
from alignjax.world.assessment import prose

_NONE = "no language model was assessed"
_STYLES = {
    "seen": dict(color=drawing.BLUE, linestyle="-", marker="o"),
    "unfamiliar": dict(color=drawing.ORANGE, linestyle="--", marker="s"),
}


def stages(data: story.Story) -> drawing.Figure | str:
    """True reward of each stage, on familiar and on unfamiliar prompts."""
    models, path = data.models, data.path
    if not path:
        return _NONE
    numbers = [("model", *prose.VIEWS.values(), "mean of the slices")]
    for name in path:
        gold = models[name]["sampled"]["gold"]
        numbers.append((name, *(_cell(gold.get(v)) for v in (*prose.VIEWS, "nine"))))
    with drawing.canvas("stages") as drawn:
        (axis,) = drawn.axes
        for shift, (view, style) in zip((-0.06, 0.06), _STYLES.items(), strict=True):
            figures = [models[name]["sampled"]["gold"].get(view) for name in path]
            if None in figures:
                continue
            at = [i + shift for i in range(len(path))]
            drawing.whiskers(axis, at, figures, label=prose.VIEWS[view], **style)
            # Off the lines: one view's numbers above its interval, the other's below.
            above = view == "seen"
            for x, figure in zip(at, figures, strict=True):
                axis.annotate(
                    f"{figure['mean']:.2f}",
                    (x, figure["high" if above else "low"]),
                    xytext=(-3, 4) if above else (3, -4),
                    textcoords="offset points",
                    ha="right" if above else "left",
                    va="bottom" if above else "top",
                    color=style["color"],
                    fontsize=9,
                )
        axis.margins(y=0.14)
        drawing.label_stages(axis, path)
        axis.set_ylabel("true reward of a response")
        drawn.legend(2)
        return drawn.finish(
            "Does every stage raise the true reward, also on prompts of a new kind?",
            _stage_changes(data),
            numbers,
        )


def _stage_changes(data: story.Story) -> str:
    """A sentence for each stage after the first."""
    sentences = []
    for name, change, before in data.steps:
        parts = []
        for view, label in prose.VIEWS.items():
            if view in change["gold"]:
                was = before["sampled"]["gold"][view]["mean"]
                now = data.models[name]["sampled"]["gold"][view]["mean"]
                where = f"on {label} prompts"
                parts.append(moved(change["gold"][view], was, now, where))
        sentences.append(f"With {name} it {', and '.join(parts)}.")
    if sentences:
        return " ".join(sentences)
    name = data.path[0]
    gold = data.models[name]["sampled"]["gold"]
    parts = [
        f"{prose.interval(gold[view])} on {label} prompts"
        for view, label in prose.VIEWS.items()
        if view in gold
    ]
    return f"{name} has {' and '.join(parts)}; there is no model to compare it with."


def moved(change: Mapping, was: float, now: float, where: str = "") -> str:
    """`rose from 1.07 to 1.43 on familiar prompts`, or that it did not change."""
    tail = f" {where}" if where else ""
    if not prose.excludes_zero(change):
        level = "did not change beyond the interval"
        return f"{level}{tail} ({was:.2f}, then {now:.2f})"
    verb = "rose" if change["mean"] > 0 else "fell"
    return f"{verb} from {was:.2f} to {now:.2f}{tail}"


def slices(data: story.Story) -> drawing.Figure | str:
    """True reward by kind of prompt."""
    models, path = data.models, data.path
    if not path:
        return _NONE
    names = [n for n in models[path[0]]["sampled"]["slices"] if n != "eval_id"]
    gold = {name: models[name]["sampled"]["slices"] for name in path}
    numbers = [("kind of prompt", *path)]
    for kind in names:
        cells = [_cell(gold[name][kind]["gold"]) for name in path]
        numbers.append((kind.removeprefix("eval_"), *cells))
    with drawing.canvas("slices", height=0.36 * len(names) + 1.0) as drawn:
        (axis,) = drawn.axes
        upwards = names[::-1]
        for i, name in enumerate(path):
            figures = [gold[name][kind]["gold"] for kind in upwards]
            shift = 0.22 * (i - (len(path) - 1) / 2)
            axis.errorbar(
                [figure["mean"] for figure in figures],
                [y - shift for y in range(len(names))],
                xerr=drawing.errors(figures),
                linestyle="none",
                marker=drawing.MARKERS[i % len(drawing.MARKERS)],
                markersize=5,
                elinewidth=1.3,
                color=data.color(name),
                label=drawing.shorten(name, 24),
            )
        axis.axvline(0, color=drawing.INK, linewidth=0.8)
        axis.set_yticks(range(len(names)), [n.removeprefix("eval_") for n in upwards])
        axis.set_xlabel("true reward of a response")
        drawn.legend(min(3, len(path)))
        return drawn.finish(
            "Which kinds of prompts gained, and did any lose?",
            _kind_changes(data),
            numbers,
        )


def _kind_changes(data: story.Story) -> str:
    last = data.path[-1]
    change = data.change(last)
    if change is None:
        gold = data.models[last]["sampled"]["slices"]
        means = {n[5:]: s["gold"]["mean"] for n, s in gold.items() if n != "eval_id"}
        best, worst = max(means, key=means.get), min(means, key=means.get)
        return (
            f"{last} does best on {best} ({means[best]:.2f}) and worst on {worst} "
            f"({means[worst]:.2f})."
        )
    kinds = {n[5:]: c for n, c in change["gold"].items() if n.startswith("eval_")}
    kinds.pop("id", None)
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


def frontier(data: story.Story) -> drawing.Figure | str:
    """Divergence from the reference against true reward, over preference runs."""
    runs = {n: m for n, m in data.models.items() if "kl" in m}
    if not runs:
        return "no preference model was assessed against its reference"
    numbers = [("model", "step", "KL, nats per response", "true reward")]
    with drawing.canvas("frontier") as drawn:
        (axis,) = drawn.axes
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
            x, y = ([p[k]["mean"] for p in points] for k in (1, 2))
            axis.plot(origin_x + x, origin_y + y, color=color, linewidth=1)
            axis.plot(x, y, color=color, marker="o", markersize=4, linewidth=0)
            axis.errorbar(
                x[-1:],
                y[-1:],
                xerr=drawing.errors([last[1]]),
                yerr=drawing.errors([last[2]]),
                color=color,
                marker=drawing.MARKERS[(i + 2) % len(drawing.MARKERS)],
                markersize=7,
                capsize=3,
                linestyle="none",
                label=_label(name, model),
            )
            numbers += [(name, str(s), _cell(k), _cell(g)) for s, k, g in points]
        axis.set_xlabel("KL(model ‖ reference), nats per response")
        axis.set_ylabel("true reward (mean of the slices)")
        axis.set_xlim(left=min(-0.02, axis.get_xlim()[0]))
        drawn.legend(3)
        return drawn.finish(
            "How much reward does each nat away from the reference buy?",
            _ends(runs, start),
            numbers,
        )


def _checkpoints(model: Mapping[str, Any]) -> list[Mapping]:
    return [p for p in model.get("trajectory", []) if "kl" in p]


def _label(name: str, model: Mapping[str, Any]) -> str:
    beta = f", β = {model['beta']:g}" if "beta" in model else ""
    return f"{drawing.shorten(name)}{beta}"


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
