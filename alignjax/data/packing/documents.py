# SPDX-License-Identifier: Apache-2.0
"""Documents into rows of T targets, and THE shift from tokens to inputs and targets.

A document of n tokens has n - 1 targets: every token but the first. It is cut into
pieces of at most T targets; a piece of L targets reads L + 1 tokens, so two pieces of a
document share one token and each target is predicted exactly once. The pieces are put
into rows by best-fit decreasing: the longest first, each where it leaves least room.
"""

from __future__ import annotations

import collections
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from alignjax.data import records
from alignjax.data.packing import best_fit
from alignjax.data.tokens import cache
from alignjax.storage import atomic, json_files

FORMAT = 1
BLOCK = 1 << 20  # pieces that are packed together, so that memory has a bound

# Of a split: all documents; those in pieces; those dropped, too short and too long.
COUNTS = (
    *("documents", "tokens", "split"),
    *("short", "short_tokens", "long", "long_tokens"),
)

FIELDS = ("inputs", "targets", "weights", "segment_ids", "positions")


class Plan(NamedTuple):
    """Which pieces of a token cache make up which row; R rows, P pieces.

    Attributes:
      key: a digest of all that it follows from.
      length: T, the targets of a row.
      starts: int64 [P], the first token of each piece, row by row.
      lengths: int32 [P], its number of targets, in 1 .. T.
      rows: int64 [R + 1], the first piece of each row, and the end.
      manifest: counts; see `report`.
    """

    key: str
    length: int
    starts: np.ndarray
    lengths: np.ndarray
    rows: np.ndarray
    manifest: dict[str, Any]

    @property
    def num_rows(self) -> int:
        return len(self.rows) - 1


def cut(
    starts: np.ndarray, ends: np.ndarray, length: int
) -> tuple[np.ndarray, np.ndarray]:
    """Pieces of documents of at least two tokens: `(starts, lengths)`.

    Args:
      starts, ends: int64 [D], the tokens of each document.
      length: T.

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


def plan(
    tokens: cache.TokenCache,
    spans: Iterable[tuple[np.ndarray, np.ndarray]],
    directory: Path,
    *,
    length: int,
    token_bytes: np.ndarray,
    pack: str,
    long_documents: str,
    identity: dict[str, Any],
) -> Plan:
    """The plan for the documents in `spans`, made once and kept in `directory`.

    Args:
      spans: blocks of `(starts, ends)`, the tokens of each document that takes part.
      length: T.
      token_bytes: of the tokenizer, to count the bytes of text that are targets.
      pack: "best_fit", or "none" for one piece a row.
      long_documents: of more than T targets: "split", "error" or "skip".
      identity: what `spans` follow from, beyond the cache.

    Raises:
      DataError: documents that are too long, where that is an error.
    """
    settings = {"length": length, "pack": pack, "long_documents": long_documents}
    settings |= {"format": FORMAT, **identity}
    key = json_files.digest([tokens.key, settings])
    path = Path(directory) / "plans" / key[:32]

    def fill(partial: Path) -> dict[str, Any]:
        count = collections.Counter(dict.fromkeys(COUNTS, 0))
        kept = _kept(tokens, spans, length, long_documents, count)
        sums = _write(partial, tokens, _blocks(kept, length), length, token_bytes, pack)
        return {"length": length, **count, **sums}

    manifest = atomic.obtain(path, fill)
    pieces, rows = manifest["pieces"], manifest["rows"]
    return Plan(
        key=key,
        length=length,
        starts=cache.open_array(path / "starts.bin", np.int64, (pieces,)),
        lengths=cache.open_array(path / "lengths.bin", np.int32, (pieces,)),
        rows=cache.open_array(path / "rows.bin", np.int64, (rows + 1,)),
        manifest=manifest,
    )


def _kept(tokens, spans, length: int, long_documents: str, count):
    """The documents of `spans` that are packed; `count` is told of the others."""
    faults = records.Faults("error", 'set data.long_documents = "split" or "skip"')
    for starts, ends in spans:
        sizes = ends - starts
        short, long = sizes < 2, sizes - 1 > length
        if long_documents == "error":
            for i in np.flatnonzero(long)[: records.MOST_FAULTS].tolist():
                where, _ = tokens.describe(int(starts[i]))
                faults.add(where, f"{sizes[i] - 1} targets do not fit into {length}")
        out = short | long if long_documents == "skip" else short
        count["documents"] += len(starts)
        count["tokens"] += int(sizes.sum())
        count["short"] += int(short.sum())
        count["short_tokens"] += int(sizes[short].sum())
        count["long"] += int((long & out).sum())
        count["long_tokens"] += int(sizes[long & out].sum())
        count["split"] += int((long & ~out).sum())
        yield starts[~out], ends[~out]
    faults.check()


def _blocks(spans, length: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """All pieces, in blocks of at most BLOCK."""
    for starts, ends in spans:
        starts, lengths = cut(starts, ends, length)
        for at in range(0, len(starts), BLOCK):
            yield starts[at : at + BLOCK], lengths[at : at + BLOCK]


def _write(partial, tokens, blocks, length, token_bytes, pack) -> dict[str, Any]:
    """Writes the arrays of a plan; returns sums over its pieces."""
    rows = pieces = targets = 0
    weight = text = 0.0
    with (
        open(partial / "starts.bin", "wb") as starts_file,
        open(partial / "lengths.bin", "wb") as lengths_file,
        open(partial / "rows.bin", "wb") as rows_file,
    ):
        rows_file.write(np.int64(0).tobytes())
        for starts, lengths in blocks:
            sums = _weigh(tokens, starts, lengths, token_bytes)
            weight, text = weight + sums[0], text + sums[1]
            ends = np.arange(1, len(starts) + 1)
            if pack == "best_fit":
                row_of = best_fit.rows(lengths, length)
                by_row = np.argsort(row_of, kind="stable")
                starts, lengths = starts[by_row], lengths[by_row]
                ends = np.cumsum(np.bincount(row_of))
            starts_file.write(starts.tobytes())
            lengths_file.write(lengths.tobytes())
            rows_file.write((pieces + ends).astype(np.int64).tobytes())
            rows, pieces = rows + len(ends), pieces + len(starts)
            targets += int(lengths.sum(dtype=np.int64))
    sums = {"rows": rows, "pieces": pieces, "targets": targets}
    return {**sums, "weight": weight, "text_bytes": text}


def _weigh(tokens, starts, lengths, token_bytes) -> tuple[float, float]:
    """Weights of all targets, and bytes of text that they stand for, so weighted."""
    weight = text = 0.0
    for at in range(0, len(starts), 4096):
        index, _ = flat(starts[at : at + 4096] + 1, lengths[at : at + 4096])
        size = token_bytes[tokens.tokens[index]]
        if tokens.weights is None:
            weight, text = weight + len(index), text + float(size.sum())
        else:
            weights = tokens.weights[index].astype(np.float64)
            weight, text = weight + weights.sum(), text + (weights * size).sum()
    return float(weight), float(text)


def flat(starts: np.ndarray, lengths: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """`start + i` and `i` for every i below every length, one after the other."""
    before = np.cumsum(lengths) - lengths
    inside = np.arange(int(lengths.sum())) - np.repeat(before, lengths)
    return np.repeat(starts, lengths) + inside, inside


def rows(
    tokens: cache.TokenCache, plan: Plan, indices: np.ndarray
) -> dict[str, np.ndarray]:
    """The rows of a plan as the fields of `types.Sequences`.

    Args:
      indices: ints [n] in 0 .. R - 1, or -1 for a row that is all padding.

    Returns:
      `inputs`, `targets`, `segment_ids`, `positions` int32 [n, T] and `weights` float32
      [n, T]. Positions count from the start of a piece.
    """
    n, length = len(indices), plan.length
    out = {name: np.zeros(n * length, np.int32) for name in FIELDS}
    out["weights"] = np.zeros(n * length, np.float32)
    real = np.flatnonzero(indices >= 0)
    first, last = plan.rows[indices[real]], plan.rows[indices[real] + 1]
    pieces, segment = flat(first, last - first)
    starts, lengths = plan.starts[pieces], plan.lengths[pieces].astype(np.int64)
    before = np.cumsum(lengths) - lengths  # targets of all pieces before each
    leading = np.flatnonzero(segment == 0)  # the first piece of each row
    before_row = np.repeat(before[leading], last - first)
    place = np.repeat(real * length, last - first) + before - before_row
    source, inside = flat(starts, lengths)
    target = np.repeat(place, lengths) + inside
    out["inputs"][target] = tokens.tokens[source]
    out["targets"][target] = tokens.tokens[source + 1]
    out["weights"][target] = 1 if tokens.weights is None else tokens.weights[source + 1]
    out["segment_ids"][target] = np.repeat(segment + 1, lengths)
    out["positions"][target] = inside
    return {name: value.reshape(n, length) for name, value in out.items()}


def report(plan: Plan) -> str:
    """What became of the documents, in a line."""
    m = plan.manifest
    fill = m["targets"] / max(1, m["rows"] * plan.length)
    bytes_a_token = m["text_bytes"] / m["weight"] if m["weight"] else 0.0
    dropped = [
        f"{m[name]:,} documents {why} ({m[f'{name}_tokens']:,} tokens)"
        for name, why in (
            ("short", "of fewer than 2 tokens"),
            ("long", f"of more than {plan.length:,} targets"),
        )
        if m[name]
    ]
    kept = m["documents"] - m["short"] - m["long"]
    kept_tokens = m["tokens"] - m["short_tokens"] - m["long_tokens"]
    return (
        f"kept {kept:,} documents of {kept_tokens:,} tokens ({bytes_a_token:.2f} bytes "
        f"a token) in {m['rows']:,} rows of {plan.length:,}, {100 * fill:.1f} % full; "
        f"split {m['split']:,}; dropped {' and '.join(dropped) or 'none'}"
    )
