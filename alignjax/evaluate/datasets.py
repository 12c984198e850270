# SPDX-License-Identifier: Apache-2.0
"""Texts, pairs and prompts of files; what is measured follows from their columns.

    text               predicted
    chosen, rejected   scored; pairs in a format of training, see `data.formats`
    prompt             answered; a text or messages, also called question or messages

Of a prompt these say what its answer must be:

    safe     true or false, or XSTest's label "safe" or "unsafe": over-refusal, refusal
    number   whose last number is the answer's last; of GSM8K its answer, behind ####
    answer   with aliases, or answers, a list: one stands in the answer; of an empty
             list nobody can know it
    rules    see `evals.rules`
    slice, cluster   a part of the prompts; what they share with others

Prompts of the embedded world, as `alignjax assess` writes them, have their true reward.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from alignjax import errors
from alignjax.data import formats, messages, records, sources
from alignjax.data.sources import text as plain
from alignjax.evals import rows, rules
from alignjax.evaluate import grading
from alignjax.rewards import numbers_of_text
from alignjax.storage import filenames

TEXTS, PAIRS, PROMPTS = KINDS = ("texts", "pairs", "prompts")
PIECE = 2000  # characters of plain text, as one document
_PROMPT = ("prompt", "messages", "turns", "question")
_ASKS = ("safe", "number", "answer", "aliases", "answers", "rules", "slice", "cluster")
_LABELS = {"safe": True, "unsafe": False}


class Dataset(NamedTuple):
    """One file of what runs are measured on.

    Attributes:
      name: of a file, and in figures.
      kind: one of KINDS.
      where: `file:line` of each item.
      items: texts, comparisons of two responses, or prompts as JSON data with `turns`.
      suite, digest: the items as JSON data, and the digest of it that rows have.
      unread: columns that nothing was read from.
      total: the items of the file, of which these were drawn.
    """

    name: str
    kind: str
    where: list[str]
    items: list[Any]
    suite: list[Any]
    digest: str
    unread: list[str]
    total: int


def read(
    name: str,
    path: str,
    columns: Mapping[str, str] | None = None,
    *,
    limit: int | None = None,
    seed: int = 0,
) -> Dataset:
    """The items of a file of JSON lines, Parquet or plain text.

    Args:
      name: of a file, without separators.
      columns: `{name of the list above: name in the file}`, where they differ.
      limit: how many at most, drawn by `seed`, in their order.

    Raises:
      ConfigError: `name` is no plain file name, or `columns` has unknown ones.
      DataError: no such file, by file and line rows that are not read, or no row.
    """
    if not filenames.is_plain(f"{name}.jsonl"):
        raise errors.ConfigError(
            f"data: {name!r:.80} is no name of a file, and rows go to one; give "
            "NAME=FILE with a name without separators"
        )
    faults = records.Faults("error", "mend them, or name the columns with --columns")
    kind, unread = TEXTS, []
    if path.lower().endswith(plain.SUFFIXES):
        documents = _pieces(path)
    else:
        documents = sources.good_rows(sources.rows(path), faults)
        first = list(itertools.islice(documents, 1))
        documents = itertools.chain(first, documents)
        if first:
            kind, read_columns, reader = _reader(first[0][1], dict(columns or {}), path)
            unread = sorted(set(first[0][1]) - read_columns)
            documents = ((where, reader(row)) for where, row in documents)
    good = list(sources.good_rows(documents, faults))
    faults.check()
    if not good:
        raise errors.DataError(f"data: {path} has no row; fill the file")
    total = len(good)
    if limit is not None and limit < total:
        chosen = random.Random(f"{seed}").sample(range(total), limit)
        good = [good[i] for i in sorted(chosen)]
    where, items = map(list, zip(*good, strict=True))
    suite = [_as_json(item) for item in items]
    digest = rows.digest_of(suite)
    return Dataset(name, kind, where, items, suite, digest, unread, total)


def _as_json(item: Any) -> Any:
    if isinstance(item, records.Comparison):
        return {"turns": item.prompt, "responses": item.responses}
    return item


def _pieces(path: str) -> Iterator[tuple[str, str]]:
    """Paragraphs of plain text, joined up to PIECE characters."""
    piece, start, size = [], "", 0
    for where, record in plain.load(path, "paragraph").documents():
        if piece and size + len(record.text) > PIECE:
            yield start, "\n\n".join(piece)
            piece, size = [], 0
        start = start if piece else where
        piece.append(record.text)
        size += len(record.text)
    if piece:
        yield start, "\n\n".join(piece)


def _reader(row: Mapping[str, Any], columns: dict[str, str], path: str):
    """The kind of rows like this, the columns that are read, and how."""
    names = {*row} | {*columns}
    if {"chosen", "rejected"} <= names:
        renamed = {**row, **{k: row.get(v) for k, v in columns.items()}}
        form = formats.reader(formats.guess(renamed), columns=columns)
        read_columns = {*form.required, *(form.optional or row)}
        return PAIRS, read_columns, lambda row: _pair(form.read(row))
    prompt = next((name for name in _PROMPT if name in names), None)
    readable = (*_PROMPT, *_ASKS, "label") if prompt else ("text",)
    if unknown := [name for name in columns if name not in readable]:
        raise errors.ConfigError(
            f"columns: {path} has {'prompts' if prompt else 'texts'}, of which "
            f"{', '.join(readable)} are read, and no {unknown[0]!r}"
        )
    missing = [v for v in columns.values() if v not in row]
    if missing or not (prompt or "text" in names):
        raise errors.DataError(
            f"{path}: columns {', '.join(map(str, row))}, and none "
            f"{missing[0] if missing else 'is text, prompt, or chosen with rejected'}; "
            '--columns=NAME={"prompt": "instruction"} says what a column is'
        )

    def renamed(row: Mapping[str, Any]) -> dict[str, Any]:
        away = {v for k, v in columns.items() if k != v}
        own = {k: v for k, v in row.items() if k not in away}
        return own | {k: row.get(v) for k, v in columns.items()}

    if not prompt:
        return TEXTS, {columns.get("text", "text")}, lambda row: _text(renamed(row))
    if prompt == "turns" and grading.is_of_world(row):
        return PROMPTS, set(row), _of_world
    first = renamed(row)
    asks = list(_ASKS)  # of which a later row may have what the first has not
    if "label" in columns or str(first.get("label")) in _LABELS:
        asks[0] = "label"
    if numbers_of_text.MARK in str(first.get("answer")) and "number" not in first:
        asks = ["gsm8k" if x == "number" else x for x in asks if "answer" not in x]
        asks.remove("aliases")
    used = {prompt, *({"answer" if x == "gsm8k" else x for x in asks} & names)}
    read_columns = {columns.get(name, name) for name in used}
    return PROMPTS, read_columns, lambda row: _prompt(renamed(row), prompt, asks)


def _text(row: Mapping[str, Any]) -> str | records.BadRow:
    fault = records.fault_of_text(row.get("text"))
    return records.BadRow(fault) if fault else row["text"]


def _pair(record: Any) -> Any:
    if isinstance(record, records.Comparison) and len(record.responses) != 2:
        count = len(record.responses)
        return records.BadRow(f"{count} responses, where a pair has two")
    return record


def _of_world(row: Mapping[str, Any]) -> dict[str, Any] | records.BadRow:
    try:
        messages.chat(row["turns"], "turns")
    except errors.DataError as error:
        return records.BadRow(str(error))
    if not grading.is_gradable(row):
        return records.BadRow("no prompt of the embedded world, whose fields it has")
    return dict(row)


def _prompt(
    row: Mapping[str, Any], prompt: str, asks: Sequence[str]
) -> dict[str, Any] | records.BadRow:
    """A prompt as JSON data: its turns, and what its answer must be."""
    try:
        dialogue = messages.chat(row.get(prompt), prompt)
        if dialogue.fields is not None:
            raise errors.DataError(f"field {prompt!r}: tool calls are not evaluated")
        if dialogue.turns[-1][0] != records.USER:
            raise errors.DataError(f"field {prompt!r}: its last turn is not the user's")
        out: dict[str, Any] = {"turns": [list(turn) for turn in dialogue.turns]}
        for name in asks:
            out |= _READ[name](row)
    except (errors.DataError, errors.ConfigError) as error:
        return records.BadRow(str(error))
    return out


def _safe(row: Mapping[str, Any]) -> dict[str, bool]:
    value = row.get("safe")
    if value is not None and not isinstance(value, bool):
        raise errors.DataError(f"field 'safe': {value!r:.60} is not true or false")
    return {} if value is None else {"safe": value}


def _label(row: Mapping[str, Any]) -> dict[str, bool]:
    if str(row.get("label")) not in _LABELS:
        label = f"{row.get('label')!r:.60}"
        raise errors.DataError(f"field 'label': {label} is neither safe nor unsafe")
    return {"safe": _LABELS[str(row["label"])]}


def _number(row: Mapping[str, Any], name: str = "number") -> dict[str, str]:
    value = row.get(name)
    if value is None:
        return {}
    number = None if isinstance(value, bool) else numbers_of_text.last(str(value))
    if number is None:
        raise errors.DataError(f"field {name!r}: {value!r:.60} has no number")
    return {"number": str(number)}


def _answers(row: Mapping[str, Any]) -> dict[str, list[str]]:
    own = [] if (value := row.get("answer")) is None else [value]
    listed = [row[name] for name in ("aliases", "answers") if row.get(name) is not None]
    for several in listed:
        if not isinstance(several, (list, tuple)):
            raise errors.DataError(f"answers: {several!r:.60} is no list")
        own += several
    if not own and row.get("answers") is None:
        return {}
    own = [str(x) if type(x) in (int, float) else x for x in own]
    if bad := [x for x in own if not isinstance(x, str) or not x.strip()]:
        raise errors.DataError(f"answers: {bad[0]!r:.60} is no text")
    return {"answers": own}


def _rules(row: Mapping[str, Any]) -> dict[str, list]:
    if (value := row.get("rules")) is None:
        return {}
    # Of Parquet every rule has the fields of all.
    value = messages.plain(value, "rules")
    if isinstance(value, list):
        value = [_without_none(rule) for rule in value]
    rules.check(value, "rules")
    return {"rules": value}


def _without_none(rule: Any) -> Any:
    if not isinstance(rule, Mapping):
        return rule
    return {name: x for name, x in rule.items() if x is not None}


def _name(row: Mapping[str, Any], name: str) -> dict[str, str]:
    value = row.get(name)
    if value is None:
        return {}
    text = str(value)
    if not text.isprintable() or not 0 < len(text) <= rows.MOST_LETTERS:
        raise errors.DataError(f"field {name!r}: {value!r:.60} is no short name")
    return {name: text}


_READ = {
    "safe": _safe,
    "label": _label,
    "number": _number,
    "gsm8k": lambda row: _number(row, "answer"),
    **dict.fromkeys(("answer", "aliases", "answers"), _answers),
    "rules": _rules,
    "slice": lambda row: _name(row, "slice"),
    "cluster": lambda row: _name(row, "cluster"),
}
