# SPDX-License-Identifier: Apache-2.0
"""Records to tokens, batch by batch, here or in other processes."""

from __future__ import annotations

import collections
import contextlib
import functools
import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from alignjax import errors
from alignjax.data import records
from alignjax.data.tokenizers import base
from alignjax.data.tokens import pool

BATCH_BYTES = 1 << 18  # of text that a worker gets at a time
IN_PROCESS_BYTES = 8 << 20  # of text that are done before other processes are started


class Tokens(NamedTuple):
    """The tokens of a record.

    Attributes:
      ids: ints [n].
      weights: floats [n], what each counts as a target, or None if all count 1.
      fields: numbers, or tuples of them, that are known of the record, by name; all
        records of a source have the same ones.
    """

    ids: Sequence[int]
    weights: Sequence[float] | None = None
    fields: Mapping[str, Any] | None = None


# `(tokenizer, records, **settings)` to the tokens of each record, a function of a
# module; it raises a DataError, saying why, if one of the records cannot have any.
Tokenize = Callable[..., list[Tokens]]


class Batch(NamedTuple):
    """The tokens of n records that stand one after the other in a source.

    Attributes:
      where: n names of places.
      records: the n records.
      ids: uint32, of all records, joined.
      weights: float32, the same, or None if all are 1.
      lengths: int64 [n], how many of the ids each record has.
      fields: what is known of each, n of them, or None if there is nothing.
      hashes: uint64 [n], of what the records say.
      bad: `{index: reason}` of the records that have no tokens.
    """

    where: list[str]
    records: list[Any]
    ids: np.ndarray
    weights: np.ndarray | None
    lengths: np.ndarray
    fields: list[Mapping[str, Any]] | None
    hashes: np.ndarray
    bad: dict[int, str]

    def without(self, faults: Mapping[int, str]) -> Batch:
        """The same, with these records bad as well."""
        of = np.repeat(np.arange(len(self.lengths)), self.lengths)
        kept = ~np.isin(of, list(faults))
        lengths = self.lengths.copy()
        lengths[list(faults)] = 0
        return self._replace(
            ids=self.ids[kept],
            weights=None if self.weights is None else self.weights[kept],
            lengths=lengths,
            bad={**self.bad, **faults},
        )


def tokenize_text(
    tok: base.Tokenizer, texts: Sequence[records.Text], *, bos: bool = False
) -> list[Tokens]:
    """Documents of Text: an end after each and, if `bos`, one start before it.

    Raises:
      DataError: a record that is no text.
    """
    if others := [t for t in texts if not isinstance(t, records.Text)]:
        raise errors.DataError(
            f"a {type(others[0]).__name__}, not plain text; say "
            'data.chat = "roles" to learn from dialogues'
        )
    nothing = np.zeros(0, np.int32)
    end = nothing if tok.eos_id is None else np.array([tok.eos_id], np.int32)
    start = np.array([tok.bos_id], np.int32) if bos else nothing
    rows = []
    for text, ids in zip(texts, tok.encode_batch([t.text for t in texts]), strict=True):
        before = start if text.first else nothing
        after = end if text.final else nothing
        ids = np.asarray(ids, np.int32)
        rows.append(Tokens(np.concatenate([before, ids, after])))
    return rows


tokenize_text.key = "alignjax.data.tokenizing:tokenize_text"  # see `cache.build`


def tokenized(
    rows: Iterable[tuple[str, Any]],
    tok: base.Tokenizer,
    tokenize: Tokenize,
    settings: Mapping[str, Any],
    workers: int,
) -> Iterator[Batch]:
    """The `(where, record)` of `rows` in batches, in order, with their tokens.

    Work that is soon done is done here; beyond that it is spread over processes.
    """
    arguments = (tok.kind, tok.files, tokenize, dict(settings))
    job = make_job(*arguments)
    batches = _batches(rows)
    done = 0
    for where, batch in batches:
        yield Batch(where, batch, *job(batch))
        done += sum(record.size for record in batch)
        if workers > 1 and done >= IN_PROCESS_BYTES:
            break
    waiting: collections.deque = collections.deque()

    def sent() -> Iterator[list[Any]]:
        for where, batch in batches:
            waiting.append((where, batch))
            yield batch

    results = pool.ordered_map(make_job, arguments, sent(), workers)
    with contextlib.closing(results):
        for result in results:
            yield Batch(*waiting.popleft(), *result)


def make_job(kind, files, tokenize, settings) -> Callable[[list[Any]], tuple]:
    """The work on a batch of records: the last six fields of their Batch."""
    tok = base.from_files(kind, files)
    function = functools.partial(tokenize, tok, **settings)
    return lambda batch: _tokenize(function, tok.vocab_size, batch)


def _tokenize(function, vocab_size: int, batch: list[Any]) -> tuple:
    rows, bad = _try_each(function, batch)
    for i, row in enumerate(rows):
        ids = np.asarray(row.ids, np.int64)
        if len(ids) and not 0 <= ids.min() <= ids.max() < vocab_size:
            found = ids[(ids < 0) | (ids >= vocab_size)][0]
            bad[i] = f"token id {found} is outside the vocabulary of {vocab_size}"
            row = Tokens(ids[:0])
        rows[i] = Tokens(ids[:0]) if i in bad else row._replace(ids=ids)
    weights = None
    if any(row.weights is not None for row in rows):
        weights = np.concatenate([_weights(row) for row in rows]).astype(np.float32)
    ids = np.concatenate([row.ids for row in rows]).astype(np.uint32)
    lengths = np.array([len(row.ids) for row in rows], np.int64)
    fields = [row.fields or {} for row in rows]
    hashes = np.array([_hash(record) for record in batch], np.uint64)
    return ids, weights, lengths, fields if any(fields) else None, hashes, bad


def _try_each(function, batch: list[Any]) -> tuple[list[Tokens], dict[int, str]]:
    """The tokens of all records at once, or one by one to find what is wrong."""
    try:
        return list(function(batch)), {}
    except errors.DataError:
        rows, bad = [], {}
    for i, record in enumerate(batch):
        try:
            rows += function([record])
        except errors.DataError as error:
            bad[i] = str(error)
            rows.append(Tokens([]))
    return rows, bad


def _weights(row: Tokens) -> np.ndarray:
    if row.weights is None:
        return np.ones(len(row.ids))
    weights = np.asarray(row.weights, np.float64)
    if weights.shape != row.ids.shape:
        raise ValueError(f"{len(row.ids)} tokens have {weights.size} weights")
    return weights


def _hash(record: Any) -> int:
    digest = hashlib.blake2b(record.key.encode(), digest_size=8).digest()
    return int.from_bytes(digest)


def _batches(rows: Iterable[tuple[str, Any]]) -> Iterator[tuple[list[str], list[Any]]]:
    where, batch, size = [], [], 0
    for place, record in rows:
        where.append(place)
        batch.append(record)
        size += record.size
        if size >= BATCH_BYTES:
            yield where, batch
            where, batch, size = [], [], 0
    if batch:
        yield where, batch
