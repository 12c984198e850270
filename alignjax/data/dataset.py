# SPDX-License-Identifier: Apache-2.0
"""Rows that a run trains and validates on: row n is a function of (seed, n) alone.

Nothing is kept between rows, so any row is as quick to get as the first, a run resumes
by its step, and each of any number of hosts reads the rows that are its own.
"""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import numpy as np

from alignjax.data import cache, order, packing

FORMAT = 1


class Part(NamedTuple):
    """One source of a dataset: its tokens and how they are put into rows."""

    name: str
    weight: float
    tokens: cache.TokenCache
    plan: packing.Plan


@dataclasses.dataclass(frozen=True)
class Dataset:
    """Rows of T targets; plain data and functions of it.

    Attributes:
      parts: the sources.
      empty: names of sources that have no row in this split.
      length: T.
      seed: of the order.
      mixture: which source comes when.
    """

    parts: tuple[Part, ...]
    empty: tuple[str, ...]
    length: int
    seed: int
    mixture: order.Mixture

    @property
    def num_rows(self) -> int:
        """Rows of one pass over all sources."""
        return sum(part.plan.num_rows for part in self.parts)

    @property
    def bytes_per_token(self) -> float:
        """Bytes of text that a target stands for, over one pass and by weight."""
        counts = [part.plan.manifest for part in self.parts]
        return sum(c["text_bytes"] for c in counts) / sum(c["weight"] for c in counts)

    @property
    def identity(self) -> dict[str, Any]:
        """What the stream of rows follows from, JSON-able."""
        sources = {
            part.name: {
                "weight": part.weight,
                "rows": part.plan.num_rows,
                "digest": part.plan.key,
            }
            for part in self.parts
        }
        return {
            "format": FORMAT,
            "length": self.length,
            "seed": self.seed,
            "sources": sources,
        }

    @property
    def report(self) -> str:
        """What became of the documents of each source; a line or more for each."""
        lines = []
        for part in self.parts:
            lines.append(f"{part.name}: {packing.report(part.plan)}")
            if skipped := part.tokens.manifest["skipped_rows"]:
                first = "; ".join(part.tokens.manifest["first_skipped"][:3])
                lines.append(f"{part.name}: {skipped:,} bad rows skipped: {first}")
        lines += [f"{name}: no documents in this split" for name in self.empty]
        return "\n".join(lines)

    def rows(self, indices) -> dict[str, np.ndarray]:
        """Rows of the endless stream, which is shuffled anew at every pass of a source.

        Args:
          indices: ints [n], from 0.

        Returns:
          The fields of `types.Sequences`, each [n, T]; see `packing.rows`.
        """
        return self._gather(*self._locate(np.asarray(indices, np.int64)))

    def epoch_rows(self, indices) -> dict[str, np.ndarray]:
        """Rows of one pass over all sources, one source after the other, in order.

        A row from `num_rows` on is padding, all of its weights 0.
        """
        indices = np.asarray(indices, np.int64)
        sizes = [part.plan.num_rows for part in self.parts]
        ends = np.cumsum(sizes)
        source = np.searchsorted(ends, indices, side="right")
        row = indices - np.concatenate([ends - sizes, [0]])[source]
        beyond = source == len(sizes)
        return self._gather(np.where(beyond, 0, source), np.where(beyond, -1, row))

    def describe(self, n: int) -> str:
        """Where row n of the stream comes from: its documents, and which tokens."""
        source, row = (int(x[0]) for x in self._locate(np.array([n])))
        part = self.parts[source]
        found = []
        for piece in range(*part.plan.rows[row : row + 2].tolist()):
            where, start = part.tokens.describe(int(part.plan.starts[piece]))
            stop = start + int(part.plan.lengths[piece])
            found.append(f"{where} tokens {start}-{stop}")
        return f"{part.name}: " + " + ".join(found)

    def _locate(self, n: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The source of each row of the stream, and the row of the source's plan."""
        source, place = self.mixture.locate(n)
        row = np.empty_like(place)
        for i, part in enumerate(self.parts):
            mine = source == i
            epoch, inside = np.divmod(place[mine], part.plan.num_rows)
            salt = order.key(self.seed, part.name)
            keys = order.mix(salt ^ order.mix(epoch.astype(np.uint64)))
            row[mine] = order.permute(inside, part.plan.num_rows, keys)
        return source, row

    def _gather(self, source: np.ndarray, row: np.ndarray) -> dict[str, np.ndarray]:
        if len(self.parts) == 1:
            return packing.rows(self.parts[0].tokens, self.parts[0].plan, row)
        out: dict[str, np.ndarray] = {}
        for i, part in enumerate(self.parts):
            mine = np.flatnonzero(source == i)
            for name, found in packing.rows(part.tokens, part.plan, row[mine]).items():
                whole = out.setdefault(
                    name, np.zeros((len(row), self.length), found.dtype)
                )
                whole[mine] = found
        return out
