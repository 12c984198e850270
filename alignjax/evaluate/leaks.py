# SPDX-License-Identifier: Apache-2.0
"""Which items of a dataset occur in what a run was trained on.

An item occurs in a record where all of its turns are turns of it, one after another;
one of LEAST words or more also where its words stand in a row anywhere in the record.
Both are without regard to case, punctuation and spaces; `exact` says whether it is so
to the letter. Other words for the same are not noticed, nor an item that lies across
two pieces of a document too large for memory.
"""

from __future__ import annotations

import collections
import os
import re
import unicodedata
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from alignjax import analysis, errors
from alignjax.data import loader, messages, records, shuffle, sources
from alignjax.data.sources import text as plain
from alignjax.evaluate import datasets
from alignjax.rollouts import prompts

FILE, SCHEMA = "leaks.json", "alignjax.leaks/1"
LEAST = 8  # words; fewer in a row are a turn of speech (GPT-3's least, Brown 2020)
EVERY = 1000  # records between two lines on how it is getting on
LINEAGE = 32  # runs before a run
# A word, or a letter of scripts that write words without spaces.
_SPACELESS = "\u3040-\u30ff\u3400-\u9fff"
_WORD = re.compile(rf"[{_SPACELESS}]|[^\W_{_SPACELESS}]+")
_TURN = re.compile(r"\n\n(?:Human|Assistant):")  # of transcripts
_ROLES = (*messages.ROLES, records.SYSTEM, records.USER, records.ASSISTANT)


class Training(NamedTuple):
    """What runs were trained on.

    Attributes:
      name: as it was asked for.
      parts: `(name, () -> iterator of (where, texts of a record))`.
      gaps: lines on what is not known of it.
    """

    name: str
    parts: list[tuple[str, Callable[[], Iterator[tuple[str, list[str]]]]]]
    gaps: list[str]


class Leak(NamedTuple):
    """An item of a dataset, its place, and that of the first record that has it."""

    item: int
    where: str
    training: str
    record: str
    exact: bool


class _Item(NamedTuple):
    index: int
    texts: list[str]
    turns: list[tuple[str, ...]]
    words: tuple[str, ...]


def words(text: str) -> tuple[str, ...]:
    """The words of a text, without case, marks and spaces; itself where it has none."""
    text = unicodedata.normalize("NFKC", text).casefold()
    return tuple(_WORD.findall(text)) or (text.strip(),)


def open_training(name: str, path: str, *, network: bool = False) -> Training:
    """The data of a run and of those that it started from, or of a file.

    Records that a run held out by their hash for its validation are left out.

    Args:
      name: for lines.
      path: a run's folder, or a file of JSON lines, Parquet or plain text, of which
        every text counts, whatever its column.

    Raises:
      ConfigError: a run that does not say what it was trained on.
      CheckpointError, DataError: no such run; data that are not there any more.
    """
    path = os.path.expanduser(path)
    if not os.path.isdir(path) and not path.startswith(("hf:", "gguf:")):
        return Training(name, [(name, lambda: _of_file(path))], [])
    run, parts, gaps = analysis.open_run(path, network=network), [], []
    for _ in range(LINEAGE):
        own = list(_of_run(run))
        if not own:
            gaps.append(f"{run.path} does not say what it was trained on")
        parts += own
        start = run.config.get("init") or {}
        if start.get("run") is None:
            break
        try:
            run = analysis.open_run(start["run"], start.get("step"), network=network)
        except (errors.CheckpointError, errors.ConfigError) as error:
            gaps.append(f"{run.path} started from {start['run']}: {error!s:.120}")
            break
    if not parts:
        raise errors.ConfigError(f"training: {gaps[0]}; name files of its data")
    return Training(name, parts, gaps)


def _of_run(run: analysis.Run) -> Iterator[tuple[str, Callable]]:
    """The sources of the sections of a run's config."""
    for section in ("data", "ptx"):
        options = run.config.get(section) or {}
        listed = options.get("sources") or {}
        path = f"{section}.sources"
        try:
            opened = loader.load_sources(listed, path)
        except errors.AlignError as error:
            raise type(error)(f"training: {run.path}: {error}") from error
        share = options.get("validation_fraction") or 0.0
        by_hash = options.get("validation_by") in (None, "hash")
        held_out = share if by_hash and not options.get("validation_sources") else 0.0
        bound = shuffle.bound(held_out)
        asks = bool(run.config.get("rollouts")) and section == "data"
        for name, source in opened.items():
            read = lambda source=source, bound=bound, asks=asks: _of_source(
                source, bound, asks
            )
            yield f"{run.path}: {path}.{name}", read


def _of_source(
    source: records.Source, bound: int, asks: bool
) -> Iterator[tuple[str, list[str]]]:
    """The texts of the records that were trained on.

    Where responses to their prompts were drawn, `asks`, these are all of a record too,
    since rewards read it.
    """
    for where, record in source.documents():
        form = getattr(record, "record", record)
        if isinstance(form, records.BadRow):
            continue
        if asks:
            try:
                turns = prompts.turns_of(form)
            except errors.DataError:  # a bad row, which the run left out
                continue
            if prompts.hashed(turns) < bound:
                continue
        else:
            key = getattr(form, "key", None)
            whole = getattr(form, "first", True) and getattr(form, "final", True)
            if bound and key and whole and shuffle.hashed(key.encode()) < bound:
                continue
        yield where, _texts(form)


def _of_file(path: str) -> Iterator[tuple[str, list[str]]]:
    if path.lower().endswith(plain.SUFFIXES):
        documents = plain.load(path, "paragraph").documents()
    else:
        documents = sources.rows(path)
    for where, row in documents:
        if not isinstance(row, records.BadRow):
            yield where, _texts(row)


def _texts(value: Any) -> list[str]:
    """The texts of a record in their order, without turns of the system."""
    if isinstance(value, str):
        parts = _TURN.split(value)
        return [part for part in parts if part.strip() and part not in _ROLES]
    if isinstance(value, records.Text):
        return [value.text]
    if isinstance(value, records.Comparison):
        return [*_spoken(value.prompt), *value.responses]
    if hasattr(value, "turns"):
        return _spoken(value.turns)
    if isinstance(value, Mapping):
        value = tuple(value.values())
    parts = value if isinstance(value, (list, tuple)) else ()
    return [text for part in parts for text in _texts(part)]


def _spoken(turns: Sequence) -> list[str]:
    return [text for role, text in turns if role != records.SYSTEM]


def _items(dataset: datasets.Dataset) -> list[_Item]:
    out = []
    for index, item in enumerate(dataset.items):
        if isinstance(item, str):
            texts = [item]
        elif isinstance(item, records.Comparison):
            texts = _spoken(item.prompt) or list(item.responses[:1])
        else:
            texts = _spoken(item["turns"])
        turns = [words(text) for text in texts]
        out.append(_Item(index, texts, turns, tuple(w for t in turns for w in t)))
    return out


class Index:
    """The items of some datasets, to be looked for in records.

    Args:
      data: the datasets.
    """

    def __init__(self, data: Sequence[datasets.Dataset]):
        self._data = {d.name: d for d in data}
        self._first_turn = collections.defaultdict(list)
        self._first_words = collections.defaultdict(list)
        self.leaks: dict[str, dict[int, Leak]] = {d.name: {} for d in data}
        for d in data:
            for item in _items(d):
                self._first_turn[item.turns[0]].append((d.name, item))
                if len(item.words) >= LEAST:
                    self._first_words[item.words[:LEAST]].append((d.name, item))
        self._starts = {key[0] for key in self._first_words}

    def look(
        self, training: Training, show: Callable[[str], None] = lambda line: None
    ) -> int:
        """Goes through training data; returns how many records it has.

        Raises:
          DataError: data that cannot be read.
        """
        count = 0
        for part, documents in training.parts:
            for where, texts in documents():
                count += 1
                if count % EVERY == 0:
                    show(f"{training.name}: {count:,} records looked through, {part}")
                for name, item in self._hits(texts):
                    self._add(name, item, training.name, where, texts)
        return count

    def _hits(self, texts: list[str]) -> Iterator[tuple[str, _Item]]:
        turns = [words(text) for text in texts]
        for i, turn in enumerate(turns):
            for name, item in self._first_turn.get(turn, ()):
                if turns[i : i + len(item.turns)] == item.turns:
                    yield name, item
        if not self._starts:
            return
        row = tuple(word for turn in turns for word in turn)
        for i in range(len(row) - LEAST + 1):
            if row[i] in self._starts:
                for name, item in self._first_words.get(row[i : i + LEAST], ()):
                    if row[i : i + len(item.words)] == item.words:
                        yield name, item

    def _add(self, name: str, item: _Item, training: str, where, texts) -> None:
        """Keeps the first record that has an item, or the first that has it exactly."""
        own = self.leaks[name]
        if item.index in own and own[item.index].exact:
            return
        spelled = lambda text: any(text.strip() in other for other in texts)
        exact = all(map(spelled, item.texts))
        if item.index not in own or exact:
            place = self._data[name].where[item.index]
            own[item.index] = Leak(item.index, place, training, where, exact)


def line(fields: Mapping[str, Any]) -> str:
    """What there is of a dataset, to print: an entry of `leaks.json`."""
    leaks, of = fields["leaks"], f"{fields['count']:,} {fields['kind']}"
    training = f"the training data of {', '.join(fields['training'])}"
    gaps = f"; not looked through: {'; '.join(fields['gaps'])}" * bool(fields["gaps"])
    if not leaks:
        return f"{fields['data']}: none of {of} occurs in {training}{gaps}"
    exact = sum(leak["exact"] for leak in leaks)
    places = [f"{leak['where']} in {leak['record']}" for leak in leaks]
    return (
        f"{fields['data']}: {len(leaks):,} of {of} occur in {training}, {exact:,} to "
        f"the letter: {errors.some(places)}{gaps}"
    )
