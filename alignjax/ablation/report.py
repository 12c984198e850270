# SPDX-License-Identifier: Apache-2.0
"""The report of a sweep: a page of tables and figures, and the tables as files."""

from __future__ import annotations

import csv
import importlib.util
import json
import math
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa
from pyarrow import parquet

from alignjax import errors
from alignjax.ablation import claim, figures, results, sweep_file, tuning
from alignjax.evals import compare
from alignjax.report import drawing, page
from alignjax.storage import atomic
from alignjax.world.assessment import benchmarks

FILE, TABLES, FIGURES = "report.html", "tables", "figures"
BUDGET = 0.05  # by which responses of arms may differ and be called the same


def write(
    plan: sweep_file.Plan, folder: pathlib.Path, benchmark: benchmarks.Benchmark | None
) -> list[str]:
    """Writes `report.html`, `tables/` and `figures/`; lines for the terminal.

    Raises:
      ConfigError, DataError: as `results.collect`.
    """
    out = results.collect(plan, folder, benchmark and benchmark.digest)
    tables = {
        "runs": results.run_rows(out),
        "arms": results.arm_rows(out, plan.arms),
        "comparisons": results.comparison_rows(out),
        "tuning": tuning.rows(plan, out),
    }
    (folder / TABLES).mkdir(exist_ok=True)
    for name, rows in tables.items():
        _write_table(folder / TABLES / name, rows)
    entries = claim.read(folder)
    drawn = _figures(out, plan.arms, folder)
    for figure in drawn:
        atomic.write(folder / FIGURES / f"{figure.name}.svg", figure.svg)
    text = render(plan, out, tables, entries, drawn, folder.absolute().name)
    path = folder / FILE
    atomic.write(path, text)
    lines = [line for fields in out.comparisons for line in _details(fields, out)]
    lines += _outcomes(plan, out)
    lines += tuning.lines(tables["tuning"])
    lines += [f"missing: {gap}" for gap in out.gaps]
    return [*lines, f"the report: {path}, {path.stat().st_size / 1024:.0f} KB"]


def _write_table(path: pathlib.Path, rows: list[dict[str, Any]]) -> None:
    """A table as CSV and as Parquet."""
    if not rows:
        return
    with open(path.with_suffix(".csv"), "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    columns = {name: [row[name] for row in rows] for name in rows[0]}
    arrays = {}
    for name, values in columns.items():
        # Whole numbers of one run and others of the next are one column of floats.
        if any(isinstance(x, float) for x in values):
            values = [None if x is None else float(x) for x in values]
        column = pa.array(values)
        arrays[name] = (
            column.cast(pa.float64()) if column.null_count == len(column) else column
        )
    parquet.write_table(pa.table(arrays), path.with_suffix(".parquet"))


def render(
    plan: sweep_file.Plan,
    out: results.Results,
    tables: Mapping[str, list[dict[str, Any]]],
    entries: list[dict[str, Any]],
    drawn: Sequence[drawing.Figure],
    title: str,
) -> str:
    """The page.

    Args:
      tables: "runs", "arms", "comparisons" and "tuning".
      entries: of the file of the claim.
      drawn: the figures.
    """
    base = plan.arms[0]
    environment = page.environment(pathlib.Path(__file__).parent)
    gaps = list(out.gaps)
    if importlib.util.find_spec("matplotlib") is None:
        gaps.append("figures, which need matplotlib: pip install 'alignjax[report]'")
    return environment.get_template("sweep.html.jinja").render(
        title=title,
        lead=_lead(out, base),
        provenance=page.provenance(),
        gaps=gaps,
        verdict=claim.verdict(entries),
        claims=_claims(entries) + _outcomes(plan, out),
        arms=_arms(tables["arms"], out.metric),
        base=base,
        metric=out.metric,
        yardstick=_yardstick(out, base),
        budget=_budget(tables["arms"]),
        comparisons=_comparisons(out),
        intervals=_INTERVALS,
        reasons=[_details(x, out)[0] for x in out.comparisons if "low" not in x],
        details=[_details(x, out) for x in out.comparisons if "low" in x],
        figures=drawn,
        tuning=_tuning(tables["tuning"]),
        secondary=_secondary(out),
        slices=_slices(out),
        runs=_runs(tables["runs"]),
        settings=_settings(plan),
        method=_method(plan, out),
    )


_INTERVALS = (
    "Intervals are 95 %, over other runs that might have been trained, where an arm "
    "has two or more; p is adjusted for the number of arms (Holm). MDE is the least "
    "difference that so much data detects four times in five."
)


def _lead(out: results.Results, base: str) -> str:
    """The outcome in a sentence or two."""
    clear, count = [], 0
    for fields in out.comparisons:
        if "low" not in fields:
            continue
        count += 1
        if fields["low"] > 0 or fields["high"] < 0:
            side = "above" if fields["estimate"] > 0 else "below"
            clear.append(
                f"{fields['arm']} is {side} {base} by {abs(fields['estimate']):.3g} "
                f"({fields['low']:+.3g} to {fields['high']:+.3g})"
            )
    if not count:
        return f"No arm can be compared with {base} yet."
    if clear:
        text = f"In {out.metric}, {'; '.join(clear)}"
    else:
        text = f"Of {count} arms none differs clearly from {base} in {out.metric}"
    if any(fields.get("interval") == "prompts" for fields in out.comparisons):
        text += ". Arms have single runs: this is of these checkpoints alone"
    lost = sum(outcome.diverged for outcome in out.outcomes)
    return text + (f". {lost} runs diverged." if lost else ".")


def _yardstick(out: results.Results, base: str) -> str:
    halves = out.halves.get(out.metric)
    if halves is None:
        return f"A/A: {base} has one run, so nobody knows how far equal runs differ."
    return (
        f"A/A: two halves of {base}'s own runs differ in {out.metric} by {halves:.3g}."
    )


def _budget(arms: Sequence[Mapping[str, Any]]) -> str:
    """Whether arms saw as many responses."""
    seen = [row["responses"] for row in arms if row["responses"]]
    if len(seen) < 2:
        return ""
    if max(seen) <= (1 + BUDGET) * min(seen):
        return "All arms saw as many responses, to 5 %."
    return (
        f"Arms saw from {min(seen):,.0f} to {max(seen):,.0f} responses: this is no "
        "comparison at equal budget."
    )


def _claims(entries: list[dict[str, Any]]) -> list[str]:
    """Every claim that was written, and what its runs can show."""
    lines = []
    for entry in entries:
        stated = entry["claim"]
        if stated is None:
            lines.append(f"{claim.day(entry)}: the claim was taken back")
            continue
        text = f"{claim.day(entry)} ({entry['digest'][:8]}): "
        text += f"{stated['text']}: " if stated.get("text") else ""
        text += f"{stated['metric']} of {len(stated['arms']) - 1} arms against "
        text += f"{stated['base']}, {stated['runs']} runs each"
        text += f", on {', '.join(stated['slices'])}" if stated.get("slices") else ""
        if stated.get("margin") is not None:
            text += f", not worse by {stated['margin']:g} or more"
        if stated.get("kl") is not None:
            text += f", and at a KL of {stated['kl']:g}"
        lines += [text, *entry.get("limits", ())]
    return lines


def _outcomes(plan: sweep_file.Plan, out: results.Results) -> list[str]:
    stated = plan.sweep.claim
    return [] if stated is None else claim.outcomes(stated, out.comparisons)


def _number(value: Any, digits: int = 3) -> str:
    if value is None:
        return "–"
    return f"{value:,}" if isinstance(value, int) else f"{value:.{digits}g}"


def _count(value: Any) -> str:
    return "–" if value is None else f"{value:,.0f}"


def _arms(rows: Sequence[Mapping[str, Any]], metric: str) -> list[list]:
    heads = ["arm", "done", metric, "responses seen", "steps", "tokens an answer"]
    heads += [
        "KL, nats",
        "chosen drift, nats",
        "held-out accuracy",
        "seconds",
        "memory",
    ]
    table: list[list] = [heads]
    for row in rows:
        done = f"{row['done']} of {row['runs']}"
        done += f", {row['diverged']} diverged" if row["diverged"] else ""
        table.append(
            [
                row["arm"],
                done,
                (_number(row["mean"]), row["each"]),
                _count(row["responses"]),
                _count(row["steps"]),
                _number(row["answer_tokens"]),
                _number(row["answer_kl"]),
                _number(row["drift_chosen"]),
                _number(row["accuracy"]),
                _seconds(row),
                _memory(row),
            ]
        )
    return _full(table)


def _seconds(row: Mapping[str, Any]) -> Any:
    """Of the clock, and of the processor below."""
    if row["seconds"] is None:
        return "–"
    return f"{row['seconds']:,.0f}", f"{row['cpu_seconds']:,.0f} of CPU"


def _memory(row: Mapping[str, Any]) -> str:
    size = row["device_bytes"] or row["host_bytes"]
    return "–" if size is None else f"{size / 2**30:.2f} GiB"


def _full(table: list[list]) -> list[list]:
    """A table without columns of dashes alone."""
    empty = lambda cell: cell == "–" or (isinstance(cell, tuple) and cell[0] == "–")
    columns = list(zip(*table[1:], strict=True))
    keep = [not all(map(empty, column)) for column in columns]
    return [[c for c, k in zip(row, keep, strict=True) if k] for row in table]


def _comparisons(out: results.Results) -> list[list]:
    heads = ["arm", "difference", "p (Holm)", "MDE", "A/A", "at equal KL", "over"]
    table: list[list] = [heads]
    for fields in out.comparisons:
        if "low" not in fields:
            continue
        at_kl = fields.get("at_kl")
        runs = fields["runs"]
        count = f"{runs[0]}" if runs[0] == runs[1] else f"{runs[0]} and {runs[1]}"
        table.append(
            [
                fields["arm"],
                _spread(fields),
                f"{fields['p_adjusted']:.3g}",
                _number(fields["mde"]),
                _number(fields["aa"]),
                (f"{at_kl['estimate']:+.3f}", _ends(at_kl)) if at_kl else "–",
                (f"{count} run{'s' * (count != '1')} a side", fields["method"]),
            ]
        )
    return table if len(table) > 1 else []


def _spread(fields: Mapping[str, Any]) -> tuple[str, str]:
    return f"{fields['estimate']:+.3f}", _ends(fields)


def _ends(fields: Mapping[str, Any]) -> str:
    return f"{fields['low']:+.3f} to {fields['high']:+.3f}"


def _details(fields: Mapping[str, Any], out: results.Results) -> list[str]:
    """The line of `alignjax compare` on an arm, or why there is none."""
    if "low" not in fields:
        gap = fields.get("estimate")
        shown = "" if gap is None else f"{out.metric} {gap:+.3f}; "
        return [f"{fields['arm']} - {fields['base']}: {shown}{fields['note']}"]
    lines = [compare.line(dict(fields), out.metric), *compare.notes(dict(fields))]
    if "kl_note" in fields:
        lines.append(f"  not at equal KL: {fields['kl_note']}")
    return lines


def _tuning(rows: Sequence[Mapping[str, Any]]) -> list[list]:
    """The best of k settings of each loss, and last what luck alone would bring."""
    if not rows:
        return []
    sizes = tuning.sizes(rows)
    heads = ["loss", "settings", *(f"best of {k}" for k in sizes)]
    table: list[list] = [heads]
    by_loss: dict[str, dict[int, Mapping[str, Any]]] = {}
    for row in rows:
        by_loss.setdefault(row["loss"], {})[row["k"]] = row
    for loss, by in by_loss.items():
        tried = by[1]["settings"]
        lost = by[1]["diverged"]
        count = (f"{tried}", f"{lost} diverged") if lost else f"{tried}"
        cells = [f"{by[k]['best']:.3f}" if k in by else "–" for k in sizes]
        table.append([loss, count, *cells])
    luck = {row["k"]: row["luck"] for row in rows}
    if luck[1] is not None:
        cells = [f"{luck[k]:+.3f}" if k in luck else "–" for k in sizes]
        table.append(["luck alone", "–", *cells])
    return table


def _secondary(out: results.Results) -> list[list]:
    metrics = list(dict.fromkeys(f["metric"] for f in out.secondary))
    if not metrics:
        return []
    heads = []
    for metric in metrics:
        halves = out.halves.get(metric)
        name = metric.removeprefix("eval/").replace("/", ", ")
        heads.append(name if halves is None else f"{name} (A/A {halves:.2g})")
    table: list[list] = [["arm", *heads]]
    for arm in dict.fromkeys(f["arm"] for f in out.secondary):
        here = {f["metric"]: f for f in out.secondary if f["arm"] == arm}
        table.append([arm, *(_cell(here.get(metric)) for metric in metrics)])
    return table


def _cell(fields: Mapping[str, Any] | None) -> Any:
    if fields is None:
        return "–"
    return _spread(fields) if "low" in fields else f"{fields['estimate']:+.3f}"


def _slices(out: results.Results) -> list[list]:
    parts = list(dict.fromkeys(f["slice"] for f in out.slices))
    if not parts:
        return []
    table: list[list] = [["arm", *(part.removeprefix("eval_") for part in parts)]]
    for arm in dict.fromkeys(f["arm"] for f in out.slices):
        here = {f["slice"]: f for f in out.slices if f["arm"] == arm}
        cells = []
        for part in parts:
            estimate, ends = _spread(here[part])
            cells.append((estimate, f"{ends}; p {here[part]['p_adjusted']:.2g}"))
        table.append([arm, *cells])
    return table


def _runs(rows: Sequence[Mapping[str, Any]]) -> list[list]:
    heads = ["run", "state", "steps", "responses seen", "held-out loss", "accuracy"]
    heads += ["true reward", "tokens an answer", "KL, nats", "seconds", "memory"]
    table: list[list] = [heads]
    for row in rows:
        code = row["exit_code"]
        state = f"{row['state']}, exit code {code}" if code else row["state"]
        table.append(
            [
                row["run"],
                state,
                f"{_count(row['steps'])} of {row['of_steps']:,}",
                _count(row["responses"]),
                _number(row["heldout_loss"]),
                _number(row["accuracy"]),
                _number(row["answer_gold"]),
                _number(row["answer_tokens"]),
                _number(row["answer_kl"]),
                _seconds(row),
                _memory(row),
            ]
        )
    return _full(table)


def _settings(plan: sweep_file.Plan) -> list[list]:
    fields = list(dict.fromkeys(f for s in plan.settings.values() for f in s))
    table: list[list] = [["arm", *fields]]
    for arm, setting in plan.settings.items():
        values = [setting.get(field) for field in fields]
        shown = [
            "–" if x is None else x if isinstance(x, str) else json.dumps(x)
            for x in values
        ]
        table.append([arm, *shown])
    return table


def _method(plan: sweep_file.Plan, out: results.Results) -> list[str]:
    """What was held equal, and where the numbers are."""
    start = ", and all start from one model" if plan.start else ""
    lines = [f"Runs of one seed read one order of the data{start}."]
    if plan.sweep.varies:
        lines.append(
            f"Arms differ in {', '.join(plan.sweep.varies)} too, as the file says: "
            "differences are not of losses alone."
        )
    lines += plan.notes
    if any(outcome.answers for outcome in out.outcomes):
        lines.append(
            f"Every run answered the same {plan.sweep.prompts} prompts of each slice "
            "of the embedded world (and twice as many familiar ones), sampled at "
            "temperature 1 with equal seeds, and scored by the world's parser. KL is "
            "of the run from the one it started from, over its own answers."
        )
    if out.kl is not None and (plan.sweep.claim is None or plan.sweep.claim.kl is None):
        lines.append(
            f"The KL of {out.kl:g} was chosen from the results, so that all arms and "
            "most draws of their runs reach it."
        )
    lines.append(
        "The rows of answers are in rows.jsonl of each run (alignjax compare reads "
        "them), these tables in tables/, as CSV and Parquet."
    )
    return lines


def _figures(
    out: results.Results, names: Sequence[str], folder: pathlib.Path
) -> list[drawing.Figure]:
    """All figures for which there are numbers."""
    if importlib.util.find_spec("matplotlib") is None:
        return []
    diverged = {n: sum(o.diverged for o in out.of_arm(n)) for n in names}
    drawn = []

    def add(name: str, title: str, label: str, values, halves=None) -> None:
        if any(values.values()):
            drawn.append(figures.runs(name, title, label, values, diverged, halves))

    add(
        "outcome",
        f"Which arm has the most {out.metric}, and how far do its runs lie apart?"
        if not results.is_figure(out.metric)
        else f"Where do the runs of each arm end in {out.metric}?",
        out.metric,
        {name: _means(out, name) for name in names},
        out.halves.get(out.metric),
    )
    drawn += filter(
        None,
        [
            None if results.is_figure(out.metric) else figures.frontier(out, names),
            figures.displacement(out, names, folder),
        ],
    )
    by_row = lambda field: {
        name: [
            o.row[field]
            for o in out.of_arm(name)
            if o.ended and o.row[field] is not None and math.isfinite(o.row[field])
        ]
        for name in names
    }
    halves = out.halves.get("tokens")
    lengths = by_row("answer_tokens")
    add("length", "Do answers become longer?", "tokens an answer", lengths, halves)
    add(
        "time",
        "What does a run take?",
        "processor seconds of training",
        by_row("cpu_seconds"),
    )
    return drawn


def _means(out: results.Results, name: str) -> list[float]:
    try:
        arm = results.arm_of(out.outcomes, name, out.metric)
    except errors.DataError:
        return []
    return arm.values_SP.mean(1).tolist()
