# SPDX-License-Identifier: Apache-2.0
"""The folder of an evaluation, read: its runs, datasets, rows and figures.

evaluation.json                 runs, datasets and settings
figures.json                    all figures
leaks.json                      items that are in training data, if those were named
suites/DATA.jsonl               prompts, and what they ask for
rows/RUN/DATA.jsonl             rows; beside them DATA.json, what they are of
reverse/RUN/DATA.jsonl          the reference's answers, with their KL from the run
checkpoints/RUN/STEP/DATA.jsonl of each step
studies/RUN/DATA.json           the run against the first one, see `judges.study`
"""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from alignjax import config, errors
from alignjax.evals import phrases, rows
from alignjax.evaluate import datasets, figures, grading, leaks, store
from alignjax.judges import study as studies
from alignjax.judges import summary
from alignjax.storage import filenames, json_files

SCHEMA = "alignjax.evaluation/1"
FILE, FIGURES = "evaluation.json", "figures.json"
# Raised by figures where rows are not those of their dataset.
_NO_FIGURES = (LookupError, TypeError, AttributeError, ValueError, ArithmeticError)


class Results(NamedTuple):
    """An evaluation.

    Attributes:
      folder, description: its folder, and `evaluation.json`.
      measured: the rows of each dataset, by run in their order.
      figures: `{"figures", "calibrations", "best_of_n", "curves", "wins", "unread",
        "leaks"}`, lists of JSON data, see `figures`, `judges.summary.win_rate` and
        `leaks`.
    """

    folder: pathlib.Path
    description: Mapping[str, Any]
    measured: list[figures.Measured]
    figures: dict[str, list[dict[str, Any]]]


def read(folder: pathlib.Path) -> Results:
    """The evaluation in a folder; its figures are computed from its rows.

    Answers are graded again, and a file of rows whose grades changed is written anew.

    Raises:
      ConfigError: the folder has no evaluation.
      DataError: rows that are not whole, or cannot be read, or are of other prompts.
    """
    description = _description(folder / FILE)
    try:
        return _read(folder, description)
    except errors.AlignError:
        raise
    except _NO_FIGURES as error:
        raise errors.DataError(
            f"{folder}: its rows, suites or studies are not what alignjax evaluate "
            f"writes ({type(error).__name__}: {error!s:.80}); evaluate again"
        ) from error


def _description(path: pathlib.Path) -> dict[str, Any]:
    """`evaluation.json`, where all that names a file is a plain name."""
    description = json_files.read(path, dict, error=errors.ConfigError)
    if description.get("schema") != SCHEMA:
        raise errors.ConfigError(
            f"{path}: schema: {description.get('schema')!r:.60} is not {SCHEMA!r}; "
            "name the --out of alignjax evaluate"
        )
    for field in ("runs", "data", "checkpoints", "judges"):
        config.expect(description.get(field), list, f"{path}: {field}")
    for field, keys in (("runs", ("beta", "reward")), ("data", ("kind", "digest"))):
        for i, entry in enumerate(description[field]):
            where = f"{path}: {field}[{i}]"
            missing = {"name", *keys} - config.expect(entry, dict, where).keys()
            if missing:
                raise errors.ConfigError(f"{where}.{min(missing)}: missing")
    named = [entry["name"] for f in ("runs", "data") for entry in description[f]]
    if odd := filenames.not_plain([*named, *description["checkpoints"]]):
        raise errors.ConfigError(f"{path}: {odd[0]} is no name of a run or of data")
    if not isinstance(description.get("phrases"), str | None):
        raise errors.ConfigError(f"{path}: phrases: no path of a file")
    return description


def _read(folder: pathlib.Path, description: Mapping[str, Any]) -> Results:
    listed = phrases.read(description["phrases"])
    suites = {d["name"]: _suite(folder, d) for d in description["data"]}
    measured, unread = [], []
    for data in description["data"]:
        for run in description["runs"]:
            path = folder / "rows" / run["name"] / f"{data['name']}.jsonl"
            if not store.is_done(path):
                continue
            one = figures.Measured(
                run["name"],
                data["name"],
                data["kind"],
                graded(path, suites[data["name"]], listed),
                suites[data["name"]],
                _rows(folder / "reverse" / run["name"] / path.name),
                run["beta"],
            )
            measured.append(one)
            if reasons := store.description(path)["unread"]:
                first = next(iter(reasons.values()))
                fields = {"run": one.run, "data": one.data, "count": len(reasons)}
                unread.append(fields | {"first": first})
    out = {
        "figures": figures.table(measured),
        "calibrations": figures.calibrations(measured),
        "best_of_n": figures.best_of(measured),
        "curves": _curves(folder, description, suites, listed),
        "wins": _wins(folder, description),
        "unread": unread,
        "leaks": _leaks(folder, description),
    }
    return Results(folder, description, measured, out)


def _suite(folder: pathlib.Path, data: Mapping[str, Any]) -> list[dict[str, Any]]:
    if data["kind"] != datasets.PROMPTS:
        return []
    path = folder / "suites" / f"{data['name']}.jsonl"
    suite = datasets.read(data["name"], str(path))
    if suite.digest != data["digest"]:
        raise errors.DataError(f"{path}: other prompts than were answered")
    return suite.suite


def _rows(path: pathlib.Path) -> list[rows.Answer]:
    return list(rows.read(path)) if store.is_done(path) else []


def graded(
    path: pathlib.Path, suite: Sequence[Mapping], listed: phrases.Phrases
) -> list[rows.Answer]:
    """The rows of a file, graded again: phrases and parsers may have changed.

    The file is written again where they have.
    """
    answers = list(rows.read(path))
    if not suite:
        return answers
    out = []
    for answer in answers:
        grade = grading.grade(
            suite[answer.prompt], answer.text, answer.finished, listed
        )
        own = answer.components or {}
        rewards = {k: x for k, x in own.items() if k.startswith(figures.REWARD)}
        components = {**(grade.components or {}), **rewards} or None
        new = dict(gold=grade.gold, tag=grade.tag, components=components)
        out.append(dataclasses.replace(answer, **new))
    if out != answers:
        rows.write(path, out)
    return out


def _curves(folder, description, suites, listed) -> list[dict[str, Any]]:
    curves = []
    for name in description["checkpoints"]:
        steps: dict[str, dict[int, figures.Measured]] = {}
        for part in (folder / "checkpoints" / name).glob("*/*.jsonl"):
            if part.stem in suites and part.parent.name.isdecimal():
                answers = graded(part, suites[part.stem], listed)
                one = figures.Measured(
                    name, part.stem, datasets.PROMPTS, answers, suites[part.stem]
                )
                steps.setdefault(part.stem, {})[int(part.parent.name)] = one
        curves += [figures.curve(name, by_step) for _, by_step in sorted(steps.items())]
    return curves


def _leaks(folder: pathlib.Path, description) -> list[dict[str, Any]]:
    """Of each dataset what training data have of it, where those were named."""
    path = folder / leaks.FILE
    if not path.is_file():
        return []
    digests = {data["name"]: data["digest"] for data in description["data"]}
    entries = json_files.read(path, dict)["data"]
    entries = [x for x in entries if digests.get(x["data"]) == x["digest"]]
    for entry in entries:
        leaks.line(entry)  # or an error, of entries that are none
    return entries


def _wins(folder, description) -> list[dict[str, Any]]:
    wins = []
    base, *others = [x["name"] for x in description["runs"] if not x["reward"]] or [""]
    for data in description["data"] if description["judges"] else ():
        for run in others:
            path = folder / "studies" / run / f"{data['name']}.json"
            if not path.is_file():
                continue
            study = studies.read(path)
            judgements, texts = studies.stored(study), studies.texts(study)
            for judge in dict.fromkeys(j.judge for j in judgements):
                own = [j for j in judgements if j.judge == judge]
                rate = summary.win_rate(own, texts)
                rate["orders"] = rate["orders"] and rate["orders"]._asdict()
                names = {"data": data["name"], "run": run, "base": base}
                wins.append(names | {"judge": judge, **rate})
    return wins
