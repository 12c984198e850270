# SPDX-License-Identifier: Apache-2.0
"""An evaluation as parts of the page: tables, figures, samples side by side."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from alignjax.evaluate import leaks, results
from alignjax.report import figures_evaluation, story

SAMPLES = 4  # prompts of a dataset
MOST_LETTERS = 1500  # of an answer or a turn
RISES, FALLS = "\u25b2", "\u25bc"


def lead(evaluation: results.Results) -> str:
    """What was measured, in a sentence."""
    runs = [one["name"] for one in evaluation.description["runs"]]
    data = [
        f"{one['name']} ({one['count']:,} {one['kind']})"
        for one in evaluation.description["data"]
    ]
    text = f"{_listed(runs)} on {_listed(data)}"
    if reference := evaluation.description["reference"]:
        text += f"; the reference is {reference}"
    return f"{text}."


def _listed(names: list[str]) -> str:
    return " and ".join(filter(None, [", ".join(names[:-1]), names[-1]]))


def runs(evaluation: results.Results) -> list[list[str]]:
    """The table of runs."""
    rows = [["run", "folder", "step", "loss", "beta", "dialogues", "parameters"]]
    for one in evaluation.description["runs"]:
        cells = (one[name] for name in ("step", "loss", "beta", "chat"))
        shown = ["–" if cell is None else f"{cell}" for cell in cells]
        folder = one["path"].rpartition("/")[2]
        rows.append([one["name"], folder, *shown, one["digest"][:8]])
    return rows


def sections(evaluation: results.Results) -> Iterator[dict[str, Any]]:
    """A section a dataset: its tables, figures, and what could not be read."""
    for one in evaluation.description["data"]:
        name, drawn = one["name"], []
        for function in figures_evaluation.FIGURES:
            try:
                drawn.append(function(evaluation, name))
            except story.Missing:  # of this kind of data, or not asked for
                continue
        yield {
            "heading": f"{name}: {one['count']:,} {one['kind']}",
            "tables": list(_tables(evaluation, name)),
            "figures": drawn,
            "reasons": [],
            "notes": [
                f"{x['run']} could not read {x['count']:,} of {one['count']:,}, such "
                f"as: {x['first']}"
                for x in evaluation.figures["unread"]
                if x["data"] == name
            ]
            + [leaks.line(x) for x in evaluation.figures["leaks"] if x["data"] == name],
        }


def _tables(evaluation: results.Results, data: str) -> Iterator[list]:
    own = figures_evaluation.of(evaluation, data)
    names = figures_evaluation.names(evaluation, own)
    cells = {(x["title"], x["run"]): _cell(x) for x in own}
    titles = dict.fromkeys(x["title"] for x in own)
    rows = [[t, *(cells.get((t, n), "–") for n in names)] for t in titles]
    if rows:
        yield [["figure", *names], *rows]
    wins = [x for x in evaluation.figures["wins"] if x["data"] == data]
    if wins:
        heads = ["judge", "run", "against", "wins", "at equal lengths"]
        styled = any(x["style_controlled"] is not None for x in wins)
        heads += ["and markdown"] * styled + ["ties", "failed"]
        yield [heads, *(_win(x, styled) for x in wins)]


def _cell(x: Mapping[str, Any]) -> Any:
    """The mean, an arrow where it is clearly another than the first run's; interval."""
    scale, unit = (100, " %") if x["share"] else (1, "")
    show = lambda value: f"{scale * value:.3g}"
    change = x["difference"]
    arrow = ""
    if figures_evaluation.clear(change):
        arrow = f" {RISES if change['mean'] > 0 else FALLS}"
    ends = f"of {x['count']}"
    if x["low"] is not None:
        ends = f"{show(x['low'])} to {show(x['high'])}, {ends}"
    return f"{show(x['mean'])}{unit}{arrow}", ends


def _win(x: Mapping[str, Any], styled: bool) -> list[Any]:
    ends = f"of {x['pairs']}"
    if x["low"] is not None:
        ends = f"{100 * x['low']:.0f} to {100 * x['high']:.0f}, {ends}"
    return [
        x["judge"],
        x["run"],
        x["base"],
        (f"{100 * x['rate']:.0f} %", ends),
        _controlled(x, "length"),
        *([_controlled(x, "style")] if styled else []),
        f"{x['ties']}",
        f"{x['failures']}",
    ]


def _controlled(x: Mapping[str, Any], name: str) -> Any:
    """A win rate without what a control takes out, and its interval."""
    if (rate := x[f"{name}_controlled"]) is None:
        return "–"
    shown = f"{100 * rate:.0f} %"
    if x[f"{name}_controlled_ends"] is None:
        return shown
    low, high = (100 * end for end in x[f"{name}_controlled_ends"])
    return shown, f"{low:.0f} to {high:.0f}"


def samples(evaluation: results.Results) -> Iterator[dict[str, Any]]:
    """Of every dataset of prompts the first on which tags differ, then the first."""
    by_data: dict[str, dict[str, dict[int, Any]]] = {}
    suites = {}
    for one in evaluation.measured:
        if one.kind == "prompts":
            first = {a.prompt: a for a in one.answers if a.sample == 0}
            by_data.setdefault(one.data, {})[one.run] = first
            suites[one.data] = one.suite
    for data, answers in by_data.items():
        shared = sorted(set.intersection(*map(set, answers.values())))
        tags = lambda i, answers=answers: {own[i].tag for own in answers.values()}
        order = sorted(shared, key=lambda i, tags=tags: len(tags(i)) < 2)
        for i in sorted(order[:SAMPLES]):
            prompt = suites[data][i]
            turns = (f"{role}: {_cut(text)}" for role, text in prompt["turns"])
            yield {
                "kind": f"{data}, prompt {i}",
                "best": _asks(prompt),
                "prompt": "\n".join(turns),
                "answers": [
                    {
                        "name": run,
                        "color": figures_evaluation.color(evaluation, run),
                        "text": _cut(own[i].text),
                        "tag": own[i].tag,
                        "gold": own[i].gold,
                    }
                    for run, own in answers.items()
                ],
            }


def _cut(text: str) -> str:
    return text if len(text) <= MOST_LETTERS else f"{text[:MOST_LETTERS]} […]"


def _asks(prompt: Mapping[str, Any]) -> str | None:
    """What the answer to a prompt must be, in words."""
    parts = []
    if "best" in prompt:  # of the embedded world
        parts.append(f"{prompt['best']}")
    if "safe" in prompt:
        parts.append("safe to answer" if prompt["safe"] else "to be refused")
    if "number" in prompt:
        parts.append(f"the number {prompt['number']}")
    if "answers" in prompt:
        parts.append(" or ".join(prompt["answers"]) or "nobody can know it")
    if "rules" in prompt:
        parts.append(", ".join(rule["rule"] for rule in prompt["rules"]))
    return "; ".join(parts) or None
