# SPDX-License-Identifier: Apache-2.0
"""Records to tokens, batch by batch, here or in other processes."""

from __future__ import annotations

import collections
import contextlib
import functools
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent import futures
from multiprocessing import connection
from typing import Any, NamedTuple

import numpy as np

from alignjax import errors
from alignjax.data import records, shuffle
from alignjax.data.tokenizers import base

BATCH_BYTES = 1 << 18  # of text that a worker gets at a time
IN_PROCESS_BYTES = 8 << 20  # of text that is done before other processes are started


class Tokens(NamedTuple):
    """The tokens of a record.

    Attributes:
      ids: ints [n].
      weights: floats [n], of each as a target, or None if all are 1.
      fields: numbers of the record, or tuples of them, by name; all records of a
        source have the same names.
    """

    ids: Sequence[int]
    weights: Sequence[float] | None = None
    fields: Mapping[str, Any] | None = None


# `(tokenizer, records, **settings)` to the tokens of each record, a function of a
# module; it raises a DataError if one of the records cannot have any.
Tokenize = Callable[..., list[Tokens]]


class Batch(NamedTuple):
    """The tokens of n records that stand one after the other in a source.

    Attributes:
      where: `file:line` of each.
      records: the n records.
      ids: uint32, of all records, joined.
      weights: float32, the same, or None if all are 1.
      lengths: int64 [n], how many of the ids each record has.
      fields: of each record, or None if none has any.
      hashes: uint64 [n], of the records' keys.
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
        good = ~np.isin(of, list(faults))
        lengths = self.lengths.copy()
        lengths[list(faults)] = 0
        return self._replace(
            ids=self.ids[good],
            weights=None if self.weights is None else self.weights[good],
            lengths=lengths,
            bad={**self.bad, **faults},
        )


def tokenize_text(
    tok: base.Tokenizer, texts: Sequence[records.Text], *, bos: bool = False
) -> list[Tokens]:
    """Documents of Text: an end after each and, if `bos`, one start before it."""
    if others := [t for t in texts if not isinstance(t, records.Text)]:
        remedy = 'say data.chat = "roles" to learn from dialogues'
        raise errors.DataError(
            f"a {type(others[0]).__name__}, not plain text; {remedy}"
        )
    end = [] if tok.eos_id is None else [tok.eos_id]
    rows = []
    for text, ids in zip(texts, tok.encode_batch([t.text for t in texts]), strict=True):
        before = [tok.bos_id] if bos and text.first else []
        parts = [np.array(before, np.int32), np.asarray(ids, np.int32)]
        parts.append(np.array(end if text.final else [], np.int32))
        rows.append(Tokens(np.concatenate(parts)))
    return rows


tokenize_text.key = "alignjax.data.tokenizing:tokenize_text"  # see `cache.build`


def tokenized(
    rows: Iterable[tuple[str, Any]],
    tok: base.Tokenizer,
    tokenize: Tokenize,
    settings: Mapping[str, Any],
    workers: int | None,
) -> Iterator[Batch]:
    """The `(where, record)` of `rows` in batches, in order, with their tokens.

    Work that is soon done is done here; beyond that it is spread over `workers`
    processes, by default one for each processor.
    """
    workers = workers or cpus()
    arguments = (tok.kind, tok.files, tokenize, dict(settings))
    job = make_job(*arguments)
    batches = _batches(rows)
    size = 0
    for where, batch in batches:
        yield Batch(where, batch, *job(batch))
        size += sum(len(record.text) for record in batch)
        if workers > 1 and size >= IN_PROCESS_BYTES:
            break
    with contextlib.closing(in_processes(arguments, batches, workers)) as results:
        yield from results


def in_processes(
    arguments: tuple, batches: Iterable[tuple[list[str], list[Any]]], workers: int
) -> Iterator[Batch]:
    """The batches in order, tokenised by `workers` fresh processes.

    Each process makes the job once, by `make_job(*arguments)`. At most three batches a
    process are in flight, so memory does not grow with their number. Exceptions of a
    job are raised unchanged, and a DataError where a process died.
    """
    pending: collections.deque[tuple] = collections.deque()
    executor = futures.ProcessPoolExecutor(
        workers,
        mp_context=multiprocessing.get_context("spawn"),
        initializer=_start,
        initargs=arguments,
    )

    def first() -> Batch:
        where, batch, future = pending.popleft()
        return Batch(where, batch, *future.result())

    try:
        for where, batch in batches:
            with _main_module_hidden():
                pending.append((where, batch, executor.submit(_run, batch)))
            if len(pending) >= 3 * workers:
                yield first()
        while pending:
            yield first()
    except futures.process.BrokenProcessPool as error:
        raise errors.DataError(
            "a tokenising process died, perhaps for want of memory; use fewer of them "
            "(data.workers)"
        ) from error
    finally:
        executor.shutdown(wait=True, cancel_futures=True)


def make_job(kind, files, tokenize, settings) -> Callable[[list[Any]], tuple]:
    """The function from a batch of records to the last six fields of its Batch."""
    tok = base.from_files(kind, files)
    function = functools.partial(tokenize, tok, **settings)
    return lambda batch: _tokenize(function, tok.vocab_size, batch)


def _tokenize(function, vocab_size: int, batch: list[Any]) -> tuple:
    rows, bad = _try_each(function, batch)
    for i, row in enumerate(rows):
        ids = np.asarray(row.ids, np.int64)
        if len(outside := ids[(ids < 0) | (ids >= vocab_size)]):
            bad[i] = f"token id {outside[0]} is outside the vocabulary of {vocab_size}"
        rows[i] = Tokens(ids[:0]) if i in bad else row._replace(ids=ids)
    weights = None
    if any(row.weights is not None for row in rows):
        weights = np.concatenate([_weights(row) for row in rows]).astype(np.float32)
    ids = np.concatenate([row.ids for row in rows]).astype(np.uint32)
    lengths = np.array([len(row.ids) for row in rows], np.int64)
    fields = [row.fields or {} for row in rows]
    hashes = np.array([shuffle.hashed(x.key.encode()) for x in batch], np.uint64)
    return ids, weights, lengths, fields if any(fields) else None, hashes, bad


def _try_each(function, batch: list[Any]) -> tuple[list[Tokens], dict[int, str]]:
    """The tokens of all records at once; one by one where some are bad."""
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


def _batches(rows: Iterable[tuple[str, Any]]) -> Iterator[tuple[list[str], list[Any]]]:
    where, batch, size = [], [], 0
    for place, record in rows:
        where.append(place)
        batch.append(record)
        size += len(record.text)
        if size >= BATCH_BYTES:
            yield where, batch
            where, batch, size = [], [], 0
    if batch:
        yield where, batch


def cpus() -> int:
    """The number of processors that this process may use."""
    affinity = getattr(os, "sched_getaffinity", None)  # there is none on macOS
    return len(affinity(0)) if affinity else os.cpu_count() or 1


_job: Callable[[Any], Any] | None = None  # of a worker process; set as it starts


def _start(*arguments) -> None:
    """In a new process: die with the parent, leave Ctrl-C to it, make the job."""
    global _job
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_die_with_parent, daemon=True).start()
    _job = make_job(*arguments)


def _run(batch):
    return _job(batch)


def _die_with_parent() -> None:
    connection.wait([multiprocessing.parent_process().sentinel])
    os._exit(1)


@contextlib.contextmanager
def _main_module_hidden() -> Iterator[None]:
    """Keeps new processes from importing the program that was started.

    They would otherwise, and with it jax, or run a script that has no `__main__` guard
    a second time. Jobs come from modules, so nothing in there is needed.
    """
    main = vars(sys.modules["__main__"])
    saved = {name: main[name] for name in ("__spec__", "__file__") if name in main}
    try:
        main |= {"__spec__": None, "__file__": None}
        yield
    finally:
        del main["__spec__"], main["__file__"]
        main |= saved
