# SPDX-License-Identifier: Apache-2.0
"""Figures of what answers are truly worth."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from alignjax.report import drawing, story
from alignjax.world.assessment import prose

_NONE = "no model that talks was assessed"
_VIEWS = {
    "seen": ("seen", drawing.BLUE, "-", "o"),
    "unfamiliar": ("unfamiliar", drawing.ORANGE, "--", "s"),
}


def stages(data: story.Story) -> drawing.Figure | str:
    """True reward of each stage, on seen and on unfamiliar prompts."""
    models, path = data.models, data.path
    if not path:
        return _NONE
    numbers = [("model", "seen", "unfamiliar", "mean of the slices")]
    for name in path:
        gold = models[name]["sampled"]["gold"]
        cells = [_cell(gold.get(view)) for view in ("seen", "unfamiliar", "nine")]
        numbers.append((name, *cells))
    with drawing.canvas("stages") as drawn:
        (axis,) = drawn.axes
        for shift, (view, (label, color, line, mark)) in zip(
            (-0.06, 0.06), _VIEWS.items(), strict=True
        ):
            found = [models[name]["sampled"]["gold"].get(view) for name in path]
            if None in found:
                continue
            at = [i + shift for i in range(len(path))]
            style = dict(color=color, linestyle=line, marker=mark, label=label)
            drawing.whiskers(axis, at, found, **style)
            # Off the lines: the upper view's above its interval, the other's below.
            above = view == "seen"
            for x, figure in zip(at, found, strict=True):
                axis.annotate(
                    f"{figure['mean']:.2f}",
                    (x, figure["high" if above else "low"]),
                    xytext=(-3, 4) if above else (3, -4),
                    textcoords="offset points",
                    ha="right" if above else "left",
                    va="bottom" if above else "top",
                    color=color,
                    fontsize=9,
                )
        axis.margins(y=0.14)
        drawing.label_stages(axis, path)
        axis.set_ylabel("true reward of an answer")
        drawn.figure.legend(loc="outside upper center", ncols=2)
        return drawing.Figure(
            "stages",
            "Does every stage raise the true reward, also on prompts of a new kind?",
            " ".join(_moves(data, path)),
            drawn.svg(),
            numbers,
        )


def _moves(data: story.Story, path) -> list[str]:
    """A sentence for each stage; the first one has nothing to be compared with."""
    sentences = []
    for name, change, before in data.steps:
        parts = []
        for view in _VIEWS:
            if view in change["gold"]:
                was = before["sampled"]["gold"][view]["mean"]
                now = data.models[name]["sampled"]["gold"][view]["mean"]
                parts.append(
                    moved(change["gold"][view], was, now, f"on {view} prompts")
                )
        sentences.append(f"With {name} it {', and '.join(parts)}.")
    if sentences:
        return sentences
    name, gold = path[0], data.models[path[0]]["sampled"]["gold"]
    parts = [
        f"{prose.interval(gold[view])} on {view} prompts"
        for view in _VIEWS
        if view in gold
    ]
    return [f"{name} has {' and '.join(parts)}; there is nothing to compare it with."]


def moved(change: Mapping, was: float, now: float, where: str = "") -> str:
    """`rose from 1.07 to 1.43 on seen prompts`, or that it did not."""
    verb = prose.verdict(
        change, up="rose", down="fell", level="did not change beyond the interval"
    )
    tail = f" {where}" if where else ""
    if verb.startswith("did not"):
        return f"{verb}{tail} ({was:.2f}, then {now:.2f})"
    return f"{verb} from {was:.2f} to {now:.2f}{tail}"


def slices(data: story.Story) -> drawing.Figure | str:
    """True reward by kind of prompt."""
    models, path = data.models, data.path
    if not path:
        return _NONE
    names = [n for n in models[path[0]]["sampled"]["slices"] if n != "eval_id"]
    names = names[::-1]
    numbers = [("kind of prompt", *path)]
    height = 0.36 * len(names) + 1.0
    with drawing.canvas("slices", height=height) as drawn:
        (axis,) = drawn.axes
        for i, name in enumerate(path):
            found = [models[name]["sampled"]["slices"][s]["gold"] for s in names]
            means = [figure["mean"] for figure in found]
            errors = [
                [max(0.0, f["mean"] - f["low"]) for f in found],
                [max(0.0, f["high"] - f["mean"]) for f in found],
            ]
            shift = 0.22 * (i - (len(path) - 1) / 2)
            axis.errorbar(
                means,
                [y - shift for y in range(len(names))],
                xerr=errors,
                linestyle="none",
                marker=drawing.MARKERS[i % len(drawing.MARKERS)],
                markersize=5,
                elinewidth=1.3,
                color=data.color(name),
                label=drawing.shorten(name, 24),
            )
        axis.axvline(0, color=drawing.INK, linewidth=0.8)
        axis.set_yticks(range(len(names)), [n.removeprefix("eval_") for n in names])
        axis.set_xlabel("true reward of an answer")
        drawn.figure.legend(loc="outside upper center", ncols=min(3, len(path)))
        for name in names[::-1]:
            row = [models[m]["sampled"]["slices"][name]["gold"] for m in path]
            numbers.append((name.removeprefix("eval_"), *map(_cell, row)))
        return drawing.Figure(
            "slices",
            "Which kinds of prompts gained, and did any lose?",
            _winners(data, path),
            drawn.svg(),
            numbers,
        )


def _winners(data: story.Story, path) -> str:
    change = data.change(path[-1])
    if change is None:
        gold = data.models[path[-1]]["sampled"]["slices"]
        kinds = {n: s["gold"]["mean"] for n, s in gold.items() if n != "eval_id"}
        best, worst = max(kinds, key=kinds.get), min(kinds, key=kinds.get)
        return (
            f"{path[-1]} does best on {best[5:]} ({kinds[best]:.2f}) and worst on "
            f"{worst[5:]} ({kinds[worst]:.2f})."
        )
    kinds = {n[5:]: c for n, c in change["gold"].items() if n.startswith("eval_")}
    kinds.pop("id", None)
    clear = {n: c for n, c in kinds.items() if prose.excludes_zero(c)}
    up = sorted(
        (n for n in clear if clear[n]["mean"] > 0), key=lambda n: -clear[n]["mean"]
    )
    down = sorted(
        (n for n in clear if clear[n]["mean"] < 0), key=lambda n: clear[n]["mean"]
    )
    name = lambda found: ", ".join(f"{n} ({clear[n]['mean']:+.2f})" for n in found)
    gains = f"gained on {name(up)}" if up else "gained on no kind beyond its interval"
    losses = f"lost on {name(down)}" if down else "lost on none"
    return (
        f"From {change['from']} to {path[-1]} the answers {gains}, and {losses}; "
        f"{len(kinds) - len(clear)} of {len(kinds)} kinds did not clearly change."
    )


def frontier(data: story.Story) -> drawing.Figure | str:
    """Divergence from the reference against true reward, over preference runs."""
    runs = {n: m for n, m in data.models.items() if "kl" in m}
    if not runs:
        return "no preference model was assessed against its reference"
    numbers = [("model", "step", "KL, nats a response", "true reward")]
    with drawing.canvas("frontier") as drawn:
        (axis,) = drawn.axes
        start = data.models.get(next(iter(runs.values()))["kl"]["to"])
        if start:
            first = start["sampled"]["gold"]["nine"]
            style = dict(color=drawing.BLUE, marker="s", markersize=6, capsize=3)
            style |= dict(linestyle="none", label="reference", zorder=3)
            axis.errorbar([0], [first["mean"]], yerr=_error(first), **style)
        for i, (name, model) in enumerate(runs.items()):
            points = [
                (p["step"], p["kl"]["kl"], p["gold"]["nine"]) for p in _past(model)
            ]
            last = (model["step"], model["kl"]["kl"], model["sampled"]["gold"]["nine"])
            points = [p for p in points if p[0] != last[0]] + [last]
            color = data.color(name)
            x, y = ([p[k]["mean"] for p in points] for k in (1, 2))
            origin = ([0], [first["mean"]]) if start else ([], [])
            axis.plot(origin[0] + x, origin[1] + y, color=color, linewidth=1)
            axis.plot(x, y, color=color, marker="o", markersize=4, linewidth=0)
            axis.errorbar(
                x[-1:],
                y[-1:],
                xerr=_error(last[1]),
                yerr=_error(last[2]),
                color=color,
                marker=drawing.MARKERS[(i + 2) % len(drawing.MARKERS)],
                markersize=7,
                capsize=3,
                linestyle="none",
                label=_beta(name, model),
            )
            numbers += [(name, str(s), _cell(k), _cell(g)) for s, k, g in points]
        axis.set_xlabel("KL(model ‖ reference), nats a response")
        axis.set_ylabel("true reward (mean of the slices)")
        axis.set_xlim(left=min(-0.02, axis.get_xlim()[0]))
        drawn.figure.legend(loc="outside upper center", ncols=3)
        return drawing.Figure(
            "frontier",
            "How much reward does each nat away from the reference buy?",
            _bought(runs, start),
            drawn.svg(),
            numbers,
        )


def _past(model: Mapping[str, Any]) -> list[Mapping]:
    return [p for p in model.get("trajectory", []) if "kl" in p]


def _beta(name: str, model: Mapping[str, Any]) -> str:
    beta = f", β = {model['beta']:g}" if "beta" in model else ""
    return f"{drawing.shorten(name)}{beta}"


def _bought(runs: Mapping[str, Any], start: Mapping | None) -> str:
    sentences = []
    for name, model in runs.items():
        gold, kl = model["sampled"]["gold"]["nine"], model["kl"]["kl"]
        text = f"{name} ends at {gold['mean']:.2f}, {prose.interval(kl)} nats away"
        if start:
            gain = gold["mean"] - start["sampled"]["gold"]["nine"]["mean"]
            text += f", {gain:+.2f} against its reference"
        points = _past(model)
        best = max(points, key=lambda p: p["gold"]["nine"]["mean"], default=None)
        if best and best["gold"]["nine"]["mean"] > gold["high"]:
            text += f"; it was higher at step {best['step']}: over-optimised since"
        sentences.append(f"{text}.")
    return " ".join(sentences)


def _error(figure: Mapping) -> list[list[float]]:
    return [
        [max(0.0, figure["mean"] - figure["low"])],
        [max(0.0, figure["high"] - figure["mean"])],
    ]


def _cell(figure: Mapping | None) -> str:
    return prose.interval(figure) if figure else "-"
