# SPDX-License-Identifier: Apache-2.0
"""Rows that a run trains and validates on: row n is a function of (seed, n) alone.

Nothing is kept between rows, so any row is as quick to get as the first, a run resumes
by its step, and each of any number of hosts reads the rows that are its own.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from alignjax.data import records, shuffle
from alignjax.data.packing import groups, text
from alignjax.data.packing import rows as group_rows
from alignjax.data.tokens import cache
from alignjax.storage import atomic, json_files

FORMAT = 1
BLOCK = 1 << 20  # rows that are counted at a time


class Unknown(NamedTuple):
    """Targets of a pass that are the tokenizer's unknown token, and all that count."""

    tokens: int = 0
    of: int = 0


class Part(NamedTuple):
    """One source of a dataset.

    Attributes:
      name: in the config.
      weight: its share of the rows, beside the other parts'.
      plan: its tokens and how they are put into rows.
      unknown: its targets that the tokenizer cannot write.
      note: a line about the source itself, for the report.
    """

    name: str
    weight: float
    plan: text.Plan | groups.Plan
    unknown: Unknown = Unknown()
    note: str = ""

    @property
    def tokens(self) -> cache.TokenCache:
        return self.plan.tokens


@dataclasses.dataclass(frozen=True)
class Dataset:
    """Rows of T targets, of text or of groups; plain data and functions of it.

    Attributes:
      parts: the sources.
      empty: names of sources that have no row in this split.
      layout: how documents or groups stand in rows.
      seed: of the order.
      mixture: which source comes when.
      split: "train" is read as shuffled, "validation" in order.
    """

    parts: tuple[Part, ...]
    empty: tuple[str, ...]
    layout: text.Layout | group_rows.Layout
    seed: int
    mixture: shuffle.Mixture
    split: str = "train"

    @property
    def _plans(self) -> list[text.Plan | groups.Plan]:
        return [part.plan for part in self.parts]

    @property
    def length(self) -> int:
        """T."""
        return self.layout.length

    @property
    def groups(self) -> int:
        """P, the places for groups in a row; 0 for text."""
        return self.layout.places(self._plans)

    @property
    def one_document(self) -> bool:
        """Whether all rows are of one document each; see `types.Sequences`."""
        return self.layout.one_document(self._plans)

    @property
    def num_rows(self) -> int:
        """Rows of one pass over all sources."""
        return sum(plan.num_rows for plan in self._plans)

    @property
    def bytes_per_token(self) -> float:
        """Bytes of text per target, over one pass and by weight."""
        counts = [plan.manifest for plan in self._plans]
        return sum(c["text_bytes"] for c in counts) / sum(c["weight"] for c in counts)

    @property
    def identity(self) -> dict[str, Any]:
        """Everything that the stream of rows follows from, JSON-able."""
        sources = {
            name: {"weight": weight, "rows": plan.num_rows, "digest": plan.key}
            for name, weight, plan, *_ in self.parts
        }
        own = {"format": FORMAT, "length": self.length, "seed": self.seed}
        own |= self.layout.identity(self._plans)
        return {**own, "sources": sources}

    @property
    def report(self) -> str:
        """Lines on the documents of each source that are in rows or lost."""
        lines = []
        for part in self.parts:
            own = [part.plan.report()]
            own += [part.note] if part.note else []
            if count := part.tokens.manifest["skipped_rows"]:
                first = part.tokens.manifest["first_skipped"]
                own.append(records.skipped(count, first))
            if part.unknown.tokens:
                own.append(
                    f"unknown to the tokenizer: {part.unknown.tokens:,} of "
                    f"{part.unknown.of:,} tokens that are trained on; a tokenizer with "
                    "a fallback to bytes would have none"
                )
            lines += [f"{part.name}: {line}" for line in own]
        lines += [f"{name}: no documents in this split" for name in self.empty]
        return "\n".join(lines + self.layout.notes(self))

    def rows(self, indices) -> dict[str, np.ndarray]:
        """Rows of the endless stream, which is shuffled anew at every pass of a source.

        Of `indices`, ints [n] from 0, the fields of `types.Sequences`, each [n, T]; of
        groups those of `types.Responses`, see `packing.rows.Layout.rows`.
        """
        return self._rows(indices, self._locate)

    def epoch_rows(self, indices) -> dict[str, np.ndarray]:
        """Rows of one pass over all sources, one source after the other, in order.

        A row from `num_rows` on is padding, all of its weights 0.
        """
        return self._rows(indices, self._locate_in_pass)

    def count_groups(self, first: int, stop: int) -> int:
        """The groups in rows first .. stop - 1 of the stream; 0 for text."""
        starts = range(first, stop if self.groups else first, BLOCK)
        blocks = (np.arange(start, min(stop, start + BLOCK)) for start in starts)
        return sum(int(self.groups_of(block).sum()) for block in blocks)

    def groups_of(self, indices: np.ndarray) -> np.ndarray:
        """The groups in each row of the stream, int64 [n]; not of text."""
        source, row = self._locate(indices)
        counts = np.empty(len(indices), np.int64)
        for i, plan in enumerate(self._plans):
            rows = row[source == i]
            counts[source == i] = plan.offsets[rows + 1] - plan.offsets[rows]
        return counts

    def describe(self, n: int) -> str:
        """The origin of row n of the stream: files, lines and tokens."""
        source, row = (int(x[0]) for x in self._locate(np.array([n])))
        part = self.parts[source]
        return f"{part.name}: " + " + ".join(part.plan.describe(row))

    def _rows(self, indices, locate) -> dict[str, Any]:
        numbers = np.asarray(indices, np.int64)
        fields = self.layout.rows(self._plans, numbers, locate)
        return fields | {"one_document": True} if self.one_document else fields

    def _locate(self, n: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The source of each row of the stream, and the row of the source's plan."""
        source, place = self.mixture.locate(n)
        row = np.empty_like(place)
        for i, part in enumerate(self.parts):
            at = source == i
            epoch, inside = np.divmod(place[at], part.plan.num_rows)
            salt = shuffle.key(self.seed, part.name)
            keys = shuffle.mix(salt ^ shuffle.mix(epoch.astype(np.uint64)))
            row[at] = shuffle.permute(inside, part.plan.num_rows, keys)
        return source, row

    def _locate_in_pass(self, n: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The same for a pass over all sources in order; row -1 beyond its end."""
        sizes = [plan.num_rows for plan in self._plans]
        ends = np.cumsum(sizes)
        source = np.searchsorted(ends, n, side="right")
        row = n - np.concatenate([ends - sizes, [0]])[source]
        beyond = source == len(sizes)
        return np.where(beyond, 0, source), np.where(beyond, -1, row)


def count_unknown(
    plan: text.Plan | groups.Plan, unknown_id: int | None, cache_dir: Path
) -> Unknown:
    """The targets of a plan that are the tokenizer's unknown token, counted once.

    The count is kept apart from the plan, whose digest is part of a run's identity.
    """
    if unknown_id is None:
        return Unknown()

    def fill(partial: Path) -> dict[str, Any]:
        del partial
        unknown = count = 0
        for tokens, weights in plan.tokens.targets(*plan.targets()):
            tokens = tokens if weights is None else tokens[weights > 0]
            unknown += int((tokens == unknown_id).sum())
            count += len(tokens)
        return Unknown(unknown, count)._asdict()

    key = json_files.digest([FORMAT, plan.key, unknown_id])
    return Unknown(**atomic.obtain(Path(cache_dir) / "unknown" / key[:32], fill))
