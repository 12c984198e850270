# SPDX-License-Identifier: Apache-2.0
"""Documents in rows of T targets, and THE shift from tokens to inputs and targets.

A document of n tokens has n - 1 targets: every token but the first. It is cut into
pieces of at most T targets; a piece of L targets reads L + 1 tokens, so two pieces of a
document share one token and each target is predicted exactly once. The pieces are put
into rows by best-fit decreasing: the longest first, each where it leaves least room.

This module and `groups` have one interface for `loader` and `dataset`: `problems`,
`layout` and `plan`, and the methods of `Layout` and `Plan`.
"""

from __future__ import annotations

import collections
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from alignjax.data import packing, records
from alignjax.data.tokens import cache
from alignjax.storage import atomic, json_files

FORMAT = 1
BLOCK = 1 << 20  # pieces that are packed together, so that memory has a bound

# Of a split: all documents; those in pieces; those dropped, too short and too long.
COUNTS = ("documents", "tokens", "split", "short", "short_tokens")
COUNTS += ("long", "long_tokens")

FIELDS = dict.fromkeys(("inputs", "targets", "segment_ids", "positions"), np.int32)
FIELDS["weights"] = np.float32


def problems(cfg: Any, data: str) -> list[str]:
    """The fields of a `loader.DataConfig` that do not go with text."""
    del data
    problems = [
        f"{name}: text has no groups of responses; leave it out"
        for name in ("share_prompt", "groups_per_row")
        if getattr(cfg, name)
    ]
    if cfg.long_documents == "truncate_prompt":
        problems.append("long_documents: text has no prompts to truncate")
    if cfg.chat is None and cfg.train_on != "all":
        problems.append(f"train_on: {cfg.train_on!r} is for dialogues; set data.chat")
    return problems


class Layout(NamedTuple):
    """The settings by which documents are put into rows.

    Attributes:
      length: T, the targets of a row.
      pack: "best_fit", or "none" for one piece a row.
      long_documents: of more than T targets: "split", "error" or "skip".
    """

    length: int
    pack: str
    long_documents: str

    def places(self, _: Sequence[Plan]) -> int:
        """P of `types.Responses`; 0 for text."""
        return 0

    def one_document(self, plans: Sequence[Plan]) -> bool:
        """Whether no row of these has more than one piece."""
        return all(plan.manifest["pieces"] == plan.num_rows for plan in plans)

    def identity(self, *_: Any) -> dict[str, Any]:
        """The settings that rows depend on, besides their plans and numbers."""
        return {}

    def notes(self, _: Any) -> list[str]:
        """Lines of the report about the sources of a dataset together."""
        return []

    def rows(
        self,
        plans: Sequence[Plan],
        numbers: np.ndarray,
        locate: Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]],
    ) -> dict[str, np.ndarray]:
        """The rows of some numbers, out of several plans; see `Plan.rows`.

        Args:
          numbers: int64 [n], of rows of the dataset.
          locate: the plan of each number, and the row of that plan.
        """
        source, row = locate(numbers)
        shape = (len(numbers), self.length)
        fields = {name: np.zeros(shape, dtype) for name, dtype in FIELDS.items()}
        for i, plan in enumerate(plans):
            at = np.flatnonzero(source == i)
            for name, values in plan.rows(row[at]).items():
                fields[name][at] = values
        return fields


def layout(cfg: Any, length: int, **_: Any) -> Layout:
    """The layout that a `loader.DataConfig` asks for."""
    return Layout(length, cfg.pack, cfg.long_documents)


class Plan(NamedTuple):
    """The pieces of a token cache that each row has; R rows, P pieces.

    Attributes:
      key: a digest of everything it depends on.
      layout: its settings.
      tokens: the cache.
      starts: int64 [P], the first token of each piece, row by row.
      lengths: int32 [P], its number of targets, in 1 .. T.
      offsets: int64 [R + 1], the first piece of each row, and the end.
      manifest: counts; see `report`.
    """

    key: str
    layout: Layout
    tokens: cache.TokenCache
    starts: np.ndarray
    lengths: np.ndarray
    offsets: np.ndarray
    manifest: dict[str, Any]

    @property
    def num_rows(self) -> int:
        return len(self.offsets) - 1

    def targets(self) -> tuple[np.ndarray, np.ndarray]:
        """Stretches of tokens that are targets: their starts and lengths, int64."""
        return self.starts + 1, self.lengths.astype(np.int64)

    def describe(self, row: int) -> list[str]:
        """The file, line and tokens of each piece of a row."""
        lines = []
        for piece in range(*self.offsets[row : row + 2].tolist()):
            where, start = self.tokens.describe(int(self.starts[piece]))
            lines.append(f"{where} tokens {start}-{start + int(self.lengths[piece])}")
        return lines

    def rows(self, indices: np.ndarray) -> dict[str, np.ndarray]:
        """Some rows as the fields of `types.Sequences`.

        Args:
          indices: ints [n] in 0 .. R - 1, or -1 for a row that is all padding.

        Returns:
          `inputs`, `targets`, `segment_ids`, `positions` int32 [n, T] and `weights`
          float32 [n, T]. Positions count from the start of a piece.
        """
        n, length, tokens = len(indices), self.layout.length, self.tokens
        out = {name: np.zeros(n * length, dtype) for name, dtype in FIELDS.items()}
        real = np.flatnonzero(indices >= 0)
        first, last = self.offsets[indices[real]], self.offsets[indices[real] + 1]
        pieces, segment = cache.ranges(first, last - first)
        starts, lengths = self.starts[pieces], self.lengths[pieces].astype(np.int64)
        before = np.cumsum(lengths) - lengths  # targets of all pieces before each
        leading = np.flatnonzero(segment == 0)  # the first piece of each row
        before_row = np.repeat(before[leading], last - first)
        place = np.repeat(real * length, last - first) + before - before_row
        source, inside = cache.ranges(starts, lengths)
        at = np.repeat(place, lengths) + inside
        out["inputs"][at] = tokens.tokens[source]
        out["targets"][at] = tokens.tokens[source + 1]
        out["weights"][at] = 1 if tokens.weights is None else tokens.weights[source + 1]
        out["segment_ids"][at] = np.repeat(segment + 1, lengths)
        out["positions"][at] = inside
        return {name: value.reshape(n, length) for name, value in out.items()}

    def report(self) -> str:
        """The numbers of documents that are packed, split and dropped, in a line."""
        m, length = self.manifest, self.layout.length
        fill = m["targets"] / max(1, m["rows"] * length)
        bytes_per_token = m["text_bytes"] / m["weight"] if m["weight"] else 0.0
        reasons = {
            "short": "fewer than 2 tokens",
            "long": f"more than {length:,} targets",
        }
        dropped = [
            f"{m[name]:,} documents of {reason} ({m[f'{name}_tokens']:,} tokens)"
            for name, reason in reasons.items()
            if m[name]
        ]
        documents = m["documents"] - m["short"] - m["long"]
        tokens = m["tokens"] - m["short_tokens"] - m["long_tokens"]
        return (
            f"kept {documents:,} documents of {tokens:,} tokens ({bytes_per_token:.2f} "
            f"bytes a token) in {m['rows']:,} rows of {length:,}, {100 * fill:.1f} % "
            f"full; split {m['split']:,}; dropped {' and '.join(dropped) or 'none'}"
        )


def plan(
    layout: Layout,
    tokens: cache.TokenCache,
    spans: Iterable[tuple[np.ndarray, np.ndarray]],
    directory: Path,
    *,
    token_bytes: np.ndarray,
    identity: Mapping[str, Any],
) -> Plan:
    """The plan for the documents in `spans`, made once and kept in `directory`.

    Args:
      spans: blocks of `(starts, ends)`, the tokens of each document that takes part.
      token_bytes: of the tokenizer, to count the bytes of text that are targets.
      identity: the settings that `spans` depend on, besides the cache.

    Raises:
      DataError: documents that are too long, where that is an error.
    """
    settings = {**layout._asdict(), "format": FORMAT, **identity}
    key = json_files.digest([tokens.key, settings])
    path = Path(directory) / "plans" / key[:32]

    def fill(partial: Path) -> dict[str, Any]:
        counts = collections.Counter(dict.fromkeys(COUNTS, 0))
        blocks = _pieces(_fitting(tokens, spans, layout, counts), layout.length)
        sums = _write(partial, tokens, blocks, layout, token_bytes)
        return {"length": layout.length, **counts, **sums}

    manifest = atomic.obtain(path, fill)
    pieces, rows = manifest["pieces"], manifest["rows"]
    starts = cache.open_array(path / "starts.bin", np.int64, (pieces,))
    lengths = cache.open_array(path / "lengths.bin", np.int32, (pieces,))
    offsets = cache.open_array(path / "rows.bin", np.int64, (rows + 1,))
    return Plan(key, layout, tokens, starts, lengths, offsets, manifest)


def cut(
    starts: np.ndarray, ends: np.ndarray, length: int
) -> tuple[np.ndarray, np.ndarray]:
    """Pieces of at most `length` targets of documents of at least two tokens.

    Args:
      starts, ends: int64 [D], the tokens of each document.

    Returns:
      int64 [P], the first token of each piece, and int32 [P], its number of targets.
    """
    targets = ends - starts - 1
    pieces = -(-targets // length)
    total = int(pieces.sum())
    number = np.arange(total) - np.repeat(np.cumsum(pieces) - pieces, pieces)
    offset = number * length
    lengths = np.minimum(np.repeat(targets, pieces) - offset, length)
    return np.repeat(starts, pieces) + offset, lengths.astype(np.int32)


def _fitting(tokens, spans, layout: Layout, counts: collections.Counter):
    """The documents of `spans` that are packed; all are counted in `counts`."""
    faults = records.Faults("error", 'set data.long_documents = "split" or "skip"')
    for starts, ends in spans:
        sizes = ends - starts
        short, long = sizes < 2, sizes - 1 > layout.length
        if layout.long_documents == "error":
            for i in np.flatnonzero(long)[: records.MOST_FAULTS].tolist():
                where, _ = tokens.describe(int(starts[i]))
                reason = f"{sizes[i] - 1} targets do not fit into {layout.length}"
                faults.add(where, reason)
        skipped = long & (layout.long_documents == "skip")
        counts["documents"] += len(starts)
        counts["tokens"] += int(sizes.sum())
        counts["split"] += int((long & ~skipped).sum())
        for name, which in (("short", short), ("long", skipped)):
            counts[name] += int(which.sum())
            counts[f"{name}_tokens"] += int(sizes[which].sum())
        dropped = short | skipped
        yield starts[~dropped], ends[~dropped]
    faults.check()


def _pieces(spans, length: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """All pieces, in blocks of at most BLOCK."""
    for starts, ends in spans:
        starts, lengths = cut(starts, ends, length)
        for at in range(0, len(starts), BLOCK):
            yield starts[at : at + BLOCK], lengths[at : at + BLOCK]


def _write(partial: Path, tokens, blocks, layout: Layout, token_bytes):
    """Writes the arrays of a plan; returns sums over its pieces."""
    sums = collections.Counter(rows=0, pieces=0, targets=0, weight=0.0, text_bytes=0.0)
    with (
        open(partial / "starts.bin", "wb") as starts_file,
        open(partial / "lengths.bin", "wb") as lengths_file,
        open(partial / "rows.bin", "wb") as rows_file,
    ):
        rows_file.write(np.int64(0).tobytes())
        for starts, lengths in blocks:
            weight, text_bytes = tokens.weigh(starts + 1, lengths, token_bytes)
            ends = np.arange(1, len(starts) + 1)
            if layout.pack == "best_fit":
                row_of = packing.best_fit(lengths, layout.length)
                by_row = np.argsort(row_of, kind="stable")
                starts, lengths = starts[by_row], lengths[by_row]
                ends = np.cumsum(np.bincount(row_of))
            starts_file.write(starts.tobytes())
            lengths_file.write(lengths.tobytes())
            rows_file.write((sums["pieces"] + ends).astype(np.int64).tobytes())
            sums["rows"] += len(ends)
            sums["pieces"] += len(starts)
            sums["targets"] += int(lengths.sum(dtype=np.int64))
            sums["weight"] += weight
            sums["text_bytes"] += text_bytes
    return sums
