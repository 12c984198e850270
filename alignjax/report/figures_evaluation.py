# SPDX-License-Identifier: Apache-2.0
"""Figures of an evaluation: of each dataset what its runs did, whatever the data are.

Functions `(evaluation, dataset) -> drawing.Figure` raise `story.Missing` where it has
no such rows; their names end in the dataset's number, so that the page has each once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from alignjax.evaluate import figures, results
from alignjax.report import drawing, story

_COLORS = (drawing.GREY, drawing.BLUE, drawing.ORANGE, drawing.GREEN)
_COLORS += (drawing.PINK, drawing.YELLOW, drawing.SKY)
MOST_CURVES = 4  # of one figure, below each other


def names(evaluation: results.Results, own: Sequence[Mapping]) -> list[str]:
    """The runs that figures are of, in the order of the evaluation."""
    present = {x["run"] for x in own}
    runs = (one["name"] for one in evaluation.description["runs"])
    return [name for name in runs if name in present]


def color(evaluation: results.Results, run: str) -> str:
    """The colour of a run, the same in all figures."""
    names = [one["name"] for one in evaluation.description["runs"]]
    return _COLORS[names.index(run) % len(_COLORS)]


def style(evaluation: results.Results, run: str) -> dict[str, Any]:
    """Colour, mark and label of a run."""
    names = [one["name"] for one in evaluation.description["runs"]]
    mark = drawing.MARKERS[names.index(run) % len(drawing.MARKERS)]
    label = drawing.shorten(run, 24)
    return dict(color=color(evaluation, run), marker=mark, label=label)


def of(evaluation: results.Results, data: str) -> list[Mapping[str, Any]]:
    """The figures of one dataset."""
    return [x for x in evaluation.figures["figures"] if x["data"] == data]


def _number(evaluation: results.Results, data: str) -> int:
    return [one["name"] for one in evaluation.description["data"]].index(data)


def spread(figure: Mapping[str, Any], *, signed: bool = False) -> str:
    """`0.61 [0.56, 0.66]`."""
    sign = "+" if signed else ""
    text = f"{figure['mean']:{sign}.3g}"
    if figure["low"] is None:
        return text
    return f"{text} [{figure['low']:{sign}.3g}, {figure['high']:{sign}.3g}]"


def clear(change: Mapping[str, Any] | None) -> bool:
    """Whether a difference is beyond its interval."""
    if change is None or change["low"] is None:
        return False
    return change["low"] > 0 or change["high"] < 0


def shares(evaluation: results.Results, data: str) -> drawing.Figure:
    """All shares of a dataset, by run."""
    own = [x for x in of(evaluation, data) if x["share"] and x["low"] is not None]
    if not own:
        raise story.Missing("no share was measured on two prompts or more")
    titles = list(dict.fromkeys(x["title"] for x in own))
    runs = names(evaluation, own)
    numbers = [("share", *runs)]
    cells = {(x["title"], x["run"]): x for x in own}
    for title in titles:
        row = (cells.get((title, run)) for run in runs)
        numbers.append((title, *(spread(x) if x else "–" for x in row)))
    name = f"shares_{_number(evaluation, data)}"
    height = 0.42 * len(titles) + 1.0
    with drawing.canvas(name, height=height) as (drawn, axis):
        for i, run in enumerate(runs):
            places = [t for t in titles if (t, run) in cells]
            shift = 0.22 * (i - (len(runs) - 1) / 2)
            axis.errorbar(
                [cells[t, run]["mean"] for t in places],
                [len(titles) - 1 - titles.index(t) - shift for t in places],
                xerr=drawing.errors([cells[t, run] for t in places]),
                linestyle="none",
                markersize=5,
                elinewidth=1.3,
                **style(evaluation, run),
            )
        axis.set_yticks(range(len(titles)), [_wrapped(t) for t in titles[::-1]])
        axis.set_xlim(-0.03, 1.03)
        axis.set_xticks(*drawing.PERCENTS)
        axis.set_xlabel("%")
        drawn.legend(min(3, len(runs)))
        return drawn.finish(f"Shares on {data}", _changes(own), numbers)


def _wrapped(title: str, most: int = 22) -> str:
    """A title on two lines, parted in its middle, where it is long."""
    words = title.split()
    if len(title) <= most:
        return title
    cut = min(
        range(1, len(words)),
        key=lambda i: abs(len(" ".join(words[:i])) - len(title) / 2),
        default=1,
    )
    return f"{' '.join(words[:cut])}\n{' '.join(words[cut:])}"


def _changes(own: Sequence[Mapping[str, Any]]) -> str:
    """Which differences from the first run are beyond their intervals."""
    by_runs: dict[tuple[str, str], list[str]] = {}
    for x in own:
        if x["difference"] is not None:
            parts = by_runs.setdefault((x["run"], x["base"]), [])
            if clear(x["difference"]):
                parts.append(f"{x['title']} ({x['difference']['mean']:+.2f})")
    if not by_runs:
        return "With 95 % intervals over prompts."
    return " ".join(
        f"{run} differs from {base} beyond the interval in {'; '.join(parts)}."
        if parts
        else f"{run} differs from {base} in no share beyond the interval."
        for (run, base), parts in by_runs.items()
    )


def reliability(evaluation: results.Results, data: str) -> drawing.Figure:
    """How often the first of two responses was chosen, by its probability."""
    own = [x for x in evaluation.figures["calibrations"] if x["data"] == data]
    if not own:
        raise story.Missing("no run gave probabilities of preferences")
    numbers = [("run", "probability", "chosen", "pairs")]
    with drawing.canvas(f"reliability_{_number(evaluation, data)}") as (drawn, axis):
        axis.plot([0, 1], [0, 1], color=drawing.GREY, linestyle=":", linewidth=1.2)
        for x in own:
            curve = x["calibration"]
            chosen = [point["chosen"] for point in curve]
            at = [point["predicted"] for point in curve]
            drawing.whiskers(axis, at, chosen, **style(evaluation, x["run"]))
            for p, c in zip(at, chosen, strict=True):
                numbers.append((x["run"], f"{p:.2f}", spread(c), f"{c['count']}"))
        drawing.percent_axis(axis)
        axis.set_xlabel("probability by the run that the first is preferred")
        axis.set_ylabel("first was chosen, % of pairs")
        drawn.legend(min(3, len(own)))
        title = f"Are probabilities of preferences on {data} to be believed?"
        return drawn.finish(title, " ".join(map(_calibrated, own)), numbers)


def _calibrated(x: Mapping[str, Any]) -> str:
    text = f"{x['run']}: the calibration error is {x['ece']:.3f} of {x['count']} pairs"
    slope = x["slope"]
    if slope is None:
        return f"{text}."
    verdict = "no clear fault of their size"
    if slope["high"] < 1:
        verdict = "too sure"
    elif slope["low"] > 1:
        verdict = "not sure enough"
    ends = f"{slope['low']:.2f} to {slope['high']:.2f}"
    factor = f"the best factor of its gaps is {slope['slope']:.2f} ({ends})"
    return f"{text}; {factor}: {verdict}."


def best_of(evaluation: results.Results, data: str) -> drawing.Figure:
    """What the best of n by a reward brings, by that reward and by others."""
    own = [x for x in evaluation.figures["best_of_n"] if x["data"] == data]
    own = [x for x in own if x["by"] == own[0]["by"]]
    if not own:
        raise story.Missing(
            "no rewards of several answers to a prompt (--reward, --samples)"
        )
    series = [
        (_words(x["of"]), x["run"], [(p["n"], p) for p in x["points"]]) for x in own
    ]
    by = _words(own[0]["by"])
    title = f"What does the best of n by {by} bring on {data}?"
    name = f"best_of_{_number(evaluation, data)}"
    sentences = [
        f"{run}, {label}: from {points[0][1]['mean']:.2f} to "
        f"{points[-1][1]['mean']:.2f} at n = {points[-1][0]}{_fall(points)}."
        for label, run, points in series
    ]
    return _curves(evaluation, name, title, series, "n", " ".join(sentences))


def curves(evaluation: results.Results, data: str) -> drawing.Figure:
    """Rewards against KL along the checkpoints of runs."""
    series = []
    for x in evaluation.figures["curves"]:
        points = [p for p in x["points"] if "kl" in p] if x["data"] == data else []
        metrics = dict.fromkeys(m for p in points for m in p if m not in ("step", "kl"))
        for metric in metrics if len(points) > 1 else ():
            at = [(p["kl"]["mean"], p[metric]) for p in points if metric in p]
            series.append((figures.title(metric), x["run"], sorted(at, key=_first)))
    if not series:
        raise story.Missing(
            "no KL at two checkpoints or more (--checkpoints, --reference)"
        )
    title = f"Do rewards and what is wanted of {data} part on the way?"
    name = f"curves_{_number(evaluation, data)}"
    sentences = [
        f"{run}, {label}: {points[0][1]['mean']:.2f} at KL {points[0][0]:.2f}, "
        f"{points[-1][1]['mean']:.2f} at {points[-1][0]:.2f}{_fall(points)}."
        for label, run, points in series
    ]
    axis = "KL from the reference, nats an answer"
    return _curves(evaluation, name, title, series, axis, " ".join(sentences))


def _first(point: tuple) -> float:
    return point[0]


def _words(name: str) -> str:
    return {"gold": "true reward", "right": "right answers"}.get(
        name, name.removeprefix(figures.REWARD)
    )


def _fall(points: Sequence[tuple[float, Mapping[str, Any]]]) -> str:
    """Where a curve was higher on its way than at its end."""
    best, end = max(points, key=lambda p: p[1]["mean"]), points[-1]
    if best[0] == end[0]:
        return ""
    return f", after {best[1]['mean']:.2f} at {best[0]:.3g}"


def _curves(evaluation, name, title, series, label, caption) -> drawing.Figure:
    """A panel for every kind of value, with a line a run."""
    kinds = list(dict.fromkeys(kind for kind, _, _ in series))[:MOST_CURVES]
    numbers = [("value", "run", label, "mean")]
    for kind, run, points in series:
        numbers += [(kind, run, f"{x:.3g}", spread(figure)) for x, figure in points]
    with drawing.canvas(name, 1, len(kinds), height=2.0) as (drawn, *axes):
        for kind, axis in zip(kinds, axes, strict=True):
            for own, run, points in series:
                if own == kind:
                    whole = [(x, f) for x, f in points if f["low"] is not None]
                    places, values = [x for x, _ in whole], [f for _, f in whole]
                    drawing.whiskers(axis, places, values, **style(evaluation, run))
            axis.set_ylabel(_wrapped(kind, 18))
            if label == "n":
                ticks = sorted({x for own, _, p in series if own == kind for x, _ in p})
                axis.set_xscale("log", base=2)
                axis.set_xticks(ticks, [f"{x}" for x in ticks])
        axes[-1].set_xlabel(label)
        axes[0].legend(loc="best")
        return drawn.finish(title, caption, numbers)


FIGURES = (shares, reliability, best_of, curves)
