# SPDX-License-Identifier: Apache-2.0
"""Rows that a run trains and validates on: row n is a function of (seed, n) alone.

Nothing is kept between rows, so any row is as quick to get as the first, a run resumes
by its step, and each of any number of hosts reads the rows that are its own.
"""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import numpy as np

from alignjax import errors
from alignjax.data import shuffle, unk_rate
from alignjax.data.packing import documents, group_plan, group_rows, mismatched
from alignjax.data.tokens import cache

FORMAT = 1


class Part(NamedTuple):
    """One source of a dataset: its tokens and how they are put into rows.

    `note` is what the report has to say of the source itself.
    """

    name: str
    weight: float
    tokens: cache.TokenCache
    plan: documents.Plan | group_plan.Plan
    lost: unk_rate.Unknown = unk_rate.Unknown()
    note: str = ""


@dataclasses.dataclass(frozen=True)
class Dataset:
    """Rows of T targets, of text or of groups; plain data and functions of it.

    Attributes:
      parts: the sources.
      empty: names of sources that have no row in this split.
      length: T.
      seed: of the order.
      mixture: which source comes when.
      layout: of groups; None for text.
      batch_size: rows of a batch, where some of a row is of others of its batch.
      split: "train" is read as shuffled, "validation" in order.
    """

    parts: tuple[Part, ...]
    empty: tuple[str, ...]
    length: int
    seed: int
    mixture: shuffle.Mixture
    layout: group_plan.Layout | None = None
    batch_size: int | None = None
    split: str = "train"

    def __post_init__(self):
        stored = any(part.tokens.reference is not None for part in self.parts)
        if stored and self.layout is not None and self.layout.mismatched:
            raise errors.ConfigError(
                "reference.store: has nothing of mismatched responses, which change "
                "from batch to batch; set it to False"
            )

    @property
    def groups(self) -> int:
        """P, the places for groups in a row; 0 for text."""
        if self.layout is None:
            return 0
        return max(1, *(part.plan.manifest["groups"] for part in self.parts))

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
        own = {"format": FORMAT, "length": self.length, "seed": self.seed}
        if self.layout is not None:
            own |= {"groups": self.groups, "batch_size": self.batch_size}
            if self.layout.mismatched:
                own["mismatched"] = mismatched.FORMAT
        return {**own, "sources": sources}

    @property
    def report(self) -> str:
        """What became of the documents of each source; a line or more for each."""
        lines = []
        for part in self.parts:
            report = documents.report if self.layout is None else group_plan.report
            lines.append(f"{part.name}: {report(part.plan)}")
            lines += [f"{part.name}: {part.note}"] if part.note else []
            if skipped := part.tokens.manifest["skipped_rows"]:
                first = "; ".join(part.tokens.manifest["first_skipped"][:3])
                lines.append(f"{part.name}: {skipped:,} bad rows skipped: {first}")
            if part.lost.tokens:
                lines.append(
                    f"{part.name}: unknown to the tokenizer: {part.lost.tokens:,} of "
                    f"{part.lost.of:,} tokens that are trained on; one that spells in "
                    "bytes what it has no pieces for would have none"
                )
        lines += [f"{name}: no documents in this split" for name in self.empty]
        if self.layout is not None:
            known = group_rows.known([part.tokens for part in self.parts])
            for part in self.parts:
                own = group_rows.known([part.tokens])
                if more := ", ".join(name for name in own if name not in known):
                    why = "is not known of all sources, and left out"
                    lines.append(f"{part.name}: {more} {why}")
            if self.layout.mismatched:
                read = self.rows if self.split == "train" else self.epoch_rows
                alone = mismatched.report(read, self.num_rows, self.batch_size)
                lines += [] if alone is None else [alone]
        return "\n".join(lines)

    def rows(self, indices) -> dict[str, np.ndarray]:
        """Rows of the endless stream, which is shuffled anew at every pass of a source.

        Args:
          indices: ints [n], from 0.

        Returns:
          The fields of `types.Sequences`, each [n, T]; see `packing.rows`. Of groups
          those of `types.Responses`; see `group_rows.rows`.
        """
        return self._gather(self._locate, np.asarray(indices, np.int64))

    def epoch_rows(self, indices) -> dict[str, np.ndarray]:
        """Rows of one pass over all sources, one source after the other, in order.

        A row from `num_rows` on is padding, all of its weights 0.
        """
        return self._gather(self._locate_in_pass, np.asarray(indices, np.int64))

    def describe(self, n: int) -> str:
        """Where row n of the stream comes from: its documents, and which tokens."""
        source, row = (int(x[0]) for x in self._locate(np.array([n])))
        part = self.parts[source]
        found = []
        for piece in range(*part.plan.rows[row : row + 2].tolist()):
            if self.layout is not None:
                document = int(part.plan.documents[piece])
                start = int(part.tokens.offsets[document])
                found.append(part.tokens.describe(start)[0])
                continue
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
            salt = shuffle.key(self.seed, part.name)
            keys = shuffle.mix(salt ^ shuffle.mix(epoch.astype(np.uint64)))
            row[mine] = shuffle.permute(inside, part.plan.num_rows, keys)
        return source, row

    def _locate_in_pass(self, n: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The same for a pass over all sources in order; row -1 beyond its end."""
        sizes = [part.plan.num_rows for part in self.parts]
        ends = np.cumsum(sizes)
        source = np.searchsorted(ends, n, side="right")
        row = n - np.concatenate([ends - sizes, [0]])[source]
        beyond = source == len(sizes)
        return np.where(beyond, 0, source), np.where(beyond, -1, row)

    def _gather(self, locate, n: np.ndarray) -> dict[str, Any]:
        source, row = locate(n)
        if self.layout is not None:
            return self._gather_groups(locate, n, source, row)
        if len(self.parts) == 1:
            return documents.rows(self.parts[0].tokens, self.parts[0].plan, row)
        out: dict[str, np.ndarray] = {}
        for i, part in enumerate(self.parts):
            mine = np.flatnonzero(source == i)
            for name, found in documents.rows(
                part.tokens, part.plan, row[mine]
            ).items():
                whole = out.setdefault(
                    name, np.zeros((len(row), self.length), found.dtype)
                )
                whole[mine] = found
        return out

    def _gather_groups(self, locate, n, source, row) -> dict[str, Any]:
        tokens = [part.tokens for part in self.parts]
        plans = [part.plan for part in self.parts]
        groups = group_rows.find(tokens, plans, source, row)
        if self.layout.mismatched:
            others = lambda n: group_rows.find(tokens, plans, *locate(n))
            groups = mismatched.add(groups, n, others, tokens, plans, self.batch_size)
        heads = [plan.head for plan in plans]
        return group_rows.fields(groups, self.layout, tokens, heads, n, self.groups)
