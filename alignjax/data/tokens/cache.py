# SPDX-License-Identifier: Apache-2.0
"""Tokens on disk, under a digest of everything they depend on, read as memory maps.

A cache is a directory of flat arrays. D documents follow each other:

    tokens.bin    uint16 or uint32 [tokens]
    weights.bin   float32 [tokens]; absent if every weight is 1
    offsets.bin   int64 [D + 1], where each document starts, and the end
    hashes.bin    uint64 [D], of the document's text or its opening: equal if that is
    field_*.bin   float64 [D] or [D, n], numbers of each document, by name
    where.bin     int64 [D, 2], the index of a file in files.json, and its line or -1
    files.json    names of files
    manifest.json counts, and the bad rows that were skipped
"""

from __future__ import annotations

import contextlib
import functools
import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from alignjax import errors
from alignjax.data import records, shuffle, sources
from alignjax.data.tokenizers import base
from alignjax.data.tokens import tokenizing
from alignjax.storage import atomic, json_files

FORMAT = 3
BLOCK = 4096  # ranges of tokens that are read at a time


class TokenCache(NamedTuple):
    """An open cache: its arrays are memory maps as above, `manifest` its counts.

    `reference` is float32 [tokens], the reference log-probability of each token of a
    response, or None.
    """

    path: Path
    key: str
    tokens: np.ndarray
    weights: np.ndarray | None
    offsets: np.ndarray
    hashes: np.ndarray
    where: np.ndarray
    manifest: dict[str, Any]
    fields: Mapping[str, np.ndarray]
    reference: np.ndarray | None = None

    def describe(self, token: int) -> tuple[str, int]:
        """`(file:line of its document, index in the document)` of a token."""
        document = int(np.searchsorted(self.offsets, token, side="right")) - 1
        file, line = self.where[document].tolist()
        name = _file_names(self.path)[file]
        where = name if line < 0 else f"{name}:{line}"
        return where, int(token - self.offsets[document])

    def targets(
        self, starts: np.ndarray, lengths: np.ndarray
    ) -> Iterator[tuple[np.ndarray, np.ndarray | None]]:
        """The tokens of many ranges and their weights, or None, in bounded blocks."""
        for first in range(0, len(starts), BLOCK):
            block = slice(first, first + BLOCK)
            index, _ = ranges(starts[block], lengths[block])
            weights = None if self.weights is None else self.weights[index]
            yield self.tokens[index], weights

    def weigh(
        self, starts: np.ndarray, lengths: np.ndarray, token_bytes: np.ndarray
    ) -> tuple[float, float]:
        """The sums of the weights and of the weighted bytes of tokens in many ranges.

        Args:
          token_bytes: int [V], bytes of text that each token stands for.
        """
        weight = text = 0.0
        for tokens, weights in self.targets(starts, lengths):
            size = token_bytes[tokens]
            if weights is None:
                weight, text = weight + len(tokens), text + float(size.sum())
            else:
                weights = weights.astype(np.float64)
                weight, text = weight + weights.sum(), text + (weights * size).sum()
        return float(weight), float(text)


def build(
    source: records.Source,
    tok: base.Tokenizer,
    cache_dir: str | Path,
    *,
    tokenize: tokenizing.Tokenize = tokenizing.tokenize_text,
    settings: dict[str, Any] | None = None,
    on_bad_row: str = "error",
    workers: int | None = None,
    progress: Callable[[int, int | None], None] | None = None,
) -> TokenCache:
    """The tokens of `source`, from the cache or into it.

    Args:
      tokenize: records to tokens, a function of a module, called with `settings`. Its
        name and settings are part of the key, its code is not. A function that moves
        keeps its first name in an attribute `key`, so that older runs still resume.
      on_bad_row: "error", or "skip" and count.
      workers: processes; by default one for each processor.
      progress: called now and then with the bytes of text done, and of all or None.

    Raises:
      DataError: bad rows, an id outside the vocabulary, or no document at all.
    """
    settings = settings or {}
    name = f"{tokenize.__module__}:{tokenize.__qualname__}"
    key = json_files.digest(
        {
            "format": FORMAT,
            "source": [source.kind, source.identity],
            "tokenizer": tok.identity,
            "tokenize": getattr(tokenize, "key", name),
            "settings": settings,
            "on_bad_row": on_bad_row,
        }
    )
    directory = Path(cache_dir) / "tokens" / key[:32]
    progress = progress or _printed_progress(source.kind)

    def fill(partial: Path) -> dict[str, Any]:
        faults = records.Faults(on_bad_row)
        rows = sources.good_rows(source.documents(), faults)
        batches = tokenizing.tokenized(rows, tok, tokenize, settings, workers)
        with contextlib.closing(batches), _Writer(partial, tok, faults) as writer:
            for batch in batches:
                writer.write(batch)
                progress(writer.text_bytes, source.size)
        faults.check()
        if not writer.documents:
            raise errors.DataError(
                f"source {source.kind!r} has no documents; name data that has some"
            )
        return writer.manifest()

    manifest = atomic.obtain(directory, fill)
    return _open(directory, key, manifest)


class _Writer(contextlib.ExitStack):
    """Appends batches to the files of a cache, in memory that does not grow."""

    def __init__(self, directory: Path, tok: base.Tokenizer, faults):
        super().__init__()
        self.directory = directory
        self.faults = faults  # bad rows
        self.vocab_size = tok.vocab_size
        self.dtype = "uint16" if tok.vocab_size <= 1 << 16 else "uint32"
        self.documents = self.tokens = self.text_bytes = self.longest = 0
        self.shapes: dict[str, tuple[int, ...]] | None = None  # of the fields
        self.names: dict[str, int] = {}
        self.start = 0  # of the open document
        self.hash: int | None = None  # of the pieces of the open document so far
        self.files: dict[str, BinaryIO] = {}

    def __enter__(self) -> _Writer:
        self._write("offsets", [0], np.int64)
        return self

    def write(self, batch: tokenizing.Batch) -> None:
        """Appends the good records of a batch and counts the bad ones."""
        batch = self._write_fields(batch)
        for i, reason in batch.bad.items():
            self._refuse(batch, i, reason)
        self._write_weights(batch)
        self._write("tokens", batch.ids, self.dtype)
        ends = self.tokens + np.cumsum(batch.lengths)
        offsets, hashes, where = [], [], []
        for i, record in enumerate(batch.records):
            if i in batch.bad:
                continue
            if record.first:
                self.hash = None
                where.append(self._place(batch.where[i]))
            self.hash = _joined(self.hash, int(batch.hashes[i]))
            if record.final:
                offsets.append(int(ends[i]))
                hashes.append(self.hash)
                self.longest = max(self.longest, offsets[-1] - self.start)
                self.start = offsets[-1]
            self.text_bytes += len(record.text)
        self._write("offsets", offsets, np.int64)
        self._write("hashes", hashes, np.uint64)
        self._write("where", where, np.int64)
        self.documents += len(offsets)
        self.tokens += len(batch.ids)

    def manifest(self) -> dict[str, Any]:
        """Writes the names of the files; returns the counts."""
        names = json.dumps(list(self.names), ensure_ascii=True)
        (self.directory / "files.json").write_text(names)
        return {
            "format": FORMAT,
            "documents": self.documents,
            "tokens": self.tokens,
            "longest": self.longest,
            "dtype": self.dtype,
            "vocab_size": self.vocab_size,
            "weighted": "weights" in self.files,
            "fields": {k: list(shape) for k, shape in (self.shapes or {}).items()},
            "skipped_rows": self.faults.count,
            "first_skipped": self.faults.first,
        }

    def _write(self, name: str, values, dtype) -> None:
        if name not in self.files:
            path = self.directory / f"{name}.bin"
            self.files[name] = self.enter_context(path.open("wb"))
        self.files[name].write(np.asarray(values, dtype).tobytes())

    def _refuse(self, batch: tokenizing.Batch, i: int, reason: str) -> None:
        record = batch.records[i]
        if not (record.first and record.final):
            where = f"{batch.where[i]}: in a document too large to be skipped"
            raise errors.DataError(f"{where}: {reason}")
        self.faults.add(batch.where[i], reason)

    def _write_weights(self, batch: tokenizing.Batch) -> None:
        if batch.weights is not None and "weights" not in self.files:
            ones = np.ones(1 << 16)
            for start in range(0, self.tokens, len(ones)):
                self._write("weights", ones[: self.tokens - start], np.float32)
        if batch.weights is not None or "weights" in self.files:
            ones = np.ones(len(batch.ids))
            weights = ones if batch.weights is None else batch.weights
            self._write("weights", weights, np.float32)

    def _write_fields(self, batch: tokenizing.Batch) -> tokenizing.Batch:
        """Writes the fields of good records; those unlike the first one's are bad."""
        rows = batch.fields or [{}] * len(batch.records)
        faults, good = {}, []
        for i, row in enumerate(rows):
            if i in batch.bad:
                continue
            shapes = {name: np.shape(value) for name, value in row.items()}
            self.shapes = shapes if self.shapes is None else self.shapes
            if shapes == self.shapes:
                good.append(row)
            else:
                faults[i] = (
                    f"it has {_listed(shapes)}, where the first row of its source has "
                    f"{_listed(self.shapes)}; all rows of a source must have the same "
                    "numbers of the same things"
                )
        for name in self.shapes or ():
            self._write(f"field_{name}", [row[name] for row in good], np.float64)
        return batch.without(faults) if faults else batch

    def _place(self, where: str) -> tuple[int, int]:
        name, colon, line = where.rpartition(":")
        if not (colon and line.isdecimal()):
            name, line = where, -1
        return self.names.setdefault(name, len(self.names)), int(line)


def _listed(shapes: Mapping[str, tuple]) -> str:
    each = (f"{k}{list(v) if v else ''}" for k, v in sorted(shapes.items()))
    return ", ".join(each) or "nothing"


def _joined(first: int | None, second: int) -> int:
    """The hash of a document from those of its first pieces and of the next one."""
    if first is None:
        return second
    return shuffle.hashed(first.to_bytes(8) + second.to_bytes(8))


def _open(path: Path, key: str, manifest: dict[str, Any]) -> TokenCache:
    documents, tokens = manifest["documents"], manifest["tokens"]
    array = lambda name, dtype, *shape: open_array(path / f"{name}.bin", dtype, shape)
    fields = manifest["fields"].items()
    return TokenCache(
        path=path,
        key=key,
        tokens=array("tokens", manifest["dtype"], tokens),
        weights=array("weights", "f4", tokens) if manifest["weighted"] else None,
        offsets=array("offsets", np.int64, documents + 1),
        hashes=array("hashes", np.uint64, documents),
        where=array("where", np.int64, documents, 2),
        manifest=manifest,
        fields={k: array(f"field_{k}", np.float64, documents, *n) for k, n in fields},
    )


def ranges(starts: np.ndarray, lengths: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """`start + i` and `i` for every i below every length, one range after the other."""
    before = np.cumsum(lengths) - lengths
    inside = np.arange(int(lengths.sum())) - np.repeat(before, lengths)
    return np.repeat(starts, lengths) + inside, inside


def open_array(path: Path, dtype, shape: tuple[int, ...]) -> np.ndarray:
    """A read-only memory map of a file; a DataError if it has not exactly this size."""
    expected = int(np.dtype(dtype).itemsize * np.prod(shape, dtype=np.int64))
    size = path.stat().st_size if path.exists() else None
    if size != expected:
        state = "missing" if size is None else f"{size} bytes, expected {expected}"
        remedy = f"remove {path.parent} and it will be built again"
        raise errors.DataError(f"{path}: {state}; {remedy}")
    if not expected:
        return np.zeros(shape, dtype)
    return np.memmap(path, dtype, mode="r", shape=shape)


@functools.lru_cache(maxsize=64)
def _file_names(path: Path) -> list[str]:
    return json.loads((path / "files.json").read_text())


def _printed_progress(kind: str) -> Callable[[int, int | None], None]:
    """Prints a line to stderr every two seconds, so none where it takes fewer."""
    start = last = time.monotonic()

    def progress(done: int, total: int | None) -> None:
        nonlocal last
        if (now := time.monotonic()) - last >= 2.0:
            last = now
            share = f" of {total / 1e6:.1f}" if total else ""
            amount = (
                f"{done / 1e6:.1f}{share} MB, {done / 1e6 / (now - start):.1f} MB/s"
            )
            print(f"tokenising {kind}: {amount}", file=sys.stderr, flush=True)

    return progress
