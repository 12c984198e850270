# SPDX-License-Identifier: Apache-2.0
"""Responses to many prompts as arrays: the rows that go on are packed, places refilled.

Every few tokens the host looks which rows are done. Where there are more prompts than
places, others begin in the places of those; else, once half of the rows are done, the
others move into a batch of half the size. A row's tokens do not depend on any of it
(see `sampling.loop`), and sizes are few, so that few programs are compiled: one for
each half, down to `SMALLEST` rows, and for each double of the first slots.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import jax
import numpy as np

from alignjax import errors
from alignjax.distributed import sharding
from alignjax.sampling import loop, request
from alignjax.types import Model, Params

# Tokens between two looks of the host.
CHUNK = 4

# Rows of the smallest batch: with fewer a token takes about as long.
SMALLEST = 8

# Slots of the cache for the tokens of responses at first, since attention reads all;
# and on CPUs, whose memory is slow, where the caches of all rows would be more than
# half as large as the weights.
SLOTS = 128
FEW_SLOTS = 16


def respond(
    model: Model,
    params: Params,
    prompts_GP: np.ndarray,
    mask_GP: np.ndarray,
    draw: loop.Draw,
    max_tokens: int,
    *,
    samples: int = 1,
    at_once: int | None = None,
    look: Callable[[loop.Responses], None] = lambda responses: None,
) -> loop.Responses:
    """Continues every prompt by up to `max_tokens` tokens; no text is decoded.

    Args:
      model, params: under `sharding.use` the weights may lie anywhere on the mesh; what
        is fully sharded is gathered once for all tokens.
      prompts_GP: int32, padded on the left.
      mask_GP: bool, False where there is padding. A row without any token is padding
        as a whole: its responses are empty.
      draw: its keys are those of all N = G x `samples` responses; those to one prompt
        follow each other, and it is read once for all of them.
      max_tokens: tokens of a response at most, R.
      samples: responses to each prompt.
      at_once: responses that are drawn at one time, about; the others begin as these
        end. The default is all of them.
      look: called with the responses so far, every few tokens and at the end.

    Returns:
      Numpy arrays of N rows.

    Raises:
      ConfigError: values that do not fit, all of them at once, before the first token.
    """
    _check(model, prompts_GP, mask_GP, draw, max_tokens, samples, at_once)
    arguments = (model, whole(model, params), prompts_GP, mask_GP, draw, max_tokens)
    for responses in chunks(*arguments, samples=samples, at_once=at_once):
        look(responses)
    return responses


def _check(model, prompts_GP, mask_GP, draw, max_tokens, samples, at_once) -> None:
    sizes = dict(max_tokens=max_tokens, samples=samples)
    sizes |= {} if at_once is None else dict(at_once=at_once)
    problems = [
        f"{name}: {value!r} is not a whole number from 1 up"
        for name, value in sizes.items()
        if isinstance(value, bool) or not isinstance(value, int) or value < 1
    ]
    if problems:
        raise errors.ConfigError(problems)
    most, lengths = model.config.max_length, np.asarray(mask_GP).sum(axis=1)
    for i, length in enumerate(lengths):
        if length + max_tokens > most:
            problems.append(
                f"prompts[{i}]: {length} tokens and max_tokens = {max_tokens} are more "
                f"than the model's max_length = {most}; shorten one of them"
            )
    problems += request.too_long(model, lengths.tolist(), max_tokens)
    if not len(prompts_GP):
        problems.append("prompts: none; give one at least")
    if len(draw.keys_B) != len(prompts_GP) * samples:
        problems.append(
            f"draw.keys_B: {len(draw.keys_B)} keys for {len(prompts_GP)} prompts of "
            f"{samples} samples; give each response its own"
        )
    if problems:
        raise errors.ConfigError(problems)


def chunks(
    model: Model,
    params: Params,
    prompts_GP: np.ndarray,
    mask_GP: np.ndarray,
    draw: loop.Draw,
    max_tokens: int,
    *,
    room: int | None = None,
    samples: int = 1,
    at_once: int | None = None,
    chunk: int | None = None,
    ended_N: np.ndarray | None = None,
) -> Iterator[loop.Responses]:
    """Yields the responses so far, every `chunk` tokens a row and at the end.

    Each time they are the same numpy arrays, updated in place.

    Args, beside those of `respond`:
      params: see `whole`.
      chunk: tokens between two looks; the default is `CHUNK`.
      room: the R of the arrays, `max_tokens` at least and by default.
      ended_N: bool, which the caller may set between two chunks for responses that
        need no more tokens.

    Raises:
      ConfigError: texts that may become too long, before the first token.
    """
    # A model sees the first slots of a cache alone, and not those added later.
    lengths = np.asarray(mask_GP).sum(axis=1).tolist()
    if problems := request.too_long(model, lengths, max_tokens):
        raise errors.ConfigError(problems)
    room = max_tokens if room is None else room
    chunk = CHUNK if chunk is None else chunk
    work = _Work(model, prompts_GP, mask_GP, draw, max_tokens, room, samples, ended_N)
    if at_once is None or at_once >= work.count:
        batch = _all(work, params)
    else:
        batch = _first(work, params, at_once)
    while True:
        batch = _pack(work, _refill(work, params, batch), chunk)
        until = np.minimum(work.responses.length_B[batch.rows] + chunk, max_tokens)
        if batch.state.step.ndim == 0:
            batch.step = until = min(batch.step + chunk, max_tokens)
        done_B = work.done(batch.rows)
        batch.state = _advance(model, params, batch.state, done_B, batch.draw, until)
        work.store(batch.rows, ~done_B, jax.device_get(batch.state.responses))
        yield work.responses
        if work.next >= work.count and work.done(batch.rows).all():
            return


class _Work:
    """All responses, on the host, and which prompt comes next.

    Attributes:
      responses: of N rows, as far as they got.
      count, next: N, and the first response that has not begun.
    """

    def __init__(self, model, prompts, mask, draw, max_tokens, room, samples, ended):
        self.model, self.draw, self.samples = model, draw, samples
        self.prompts, self.mask = np.asarray(prompts), np.asarray(mask, bool)
        self.max_tokens, self.room = max_tokens, room
        N = self.count = len(prompts) * samples
        self.next = 0
        self.ended = np.zeros(N, bool) if ended is None else ended
        self.responses = loop.Responses(
            tokens_BR=np.zeros((N, room), np.int32),
            logps_BR=np.zeros((N, room), np.float32),
            model_logps_BR=np.zeros((N, room), np.float32),
            length_B=np.zeros(N, np.int32),
            done_B=np.repeat(~self.mask.any(axis=1), samples),
        )

    def done(self, rows: np.ndarray) -> np.ndarray:
        """bool, of these rows; -1 is none, and done."""
        r = self.responses
        done_N = r.done_B | self.ended | (r.length_B >= self.max_tokens)
        return (rows < 0) | done_N[rows]

    def store(self, rows, open_B, responses: loop.Responses) -> None:
        for old, new in zip(self.responses, responses, strict=True):
            old[rows[open_B]] = new[open_B]

    def begin(self, params, prompts: int, columns: int):
        """The state of the next so many prompts, and the numbers of its rows.

        Where there are fewer, the last rows have no prompt, and the number -1.
        """
        first = self.next // self.samples
        part = slice(first, first + prompts)
        pad = prompts - len(self.prompts[part])
        prompts_GP, mask_GP = (
            np.pad(x[part], ((0, pad), (0, 0))) for x in (self.prompts, self.mask)
        )
        sizes = (self.room, self.samples, columns)
        state = _start(self.model, params, prompts_GP, mask_GP, *sizes)
        rows = self.next + np.arange(prompts * self.samples)
        rows[rows >= self.count] = -1
        self.next = min(self.count, self.next + len(rows))
        return state, rows

    def of(self, rows) -> loop.Draw:
        """How the tokens of these rows are drawn."""
        if np.array_equal(rows, np.arange(self.count)):
            return self.draw
        return self.draw._replace(keys_B=_keys(self.draw.keys_B, np.maximum(rows, 0)))


class _Batch:
    """A state on the device, the number of each of its rows, and how to go on.

    Attributes:
      step, columns: where rows share them, tokens of each so far, and slots for them.
      fill: prompts that begin together, where there are more than places.
    """

    def __init__(self, work: _Work, state, rows, columns: int, fill: int = 0):
        self.state, self.rows, self.draw = state, rows, work.of(rows)
        self.step, self.columns, self.fill = 0, columns, fill


def _all(work: _Work, params) -> _Batch:
    """All prompts at once."""
    prompts = _multiple(len(work.prompts))
    columns = min(work.room, _slots(work, params))
    state, rows = work.begin(params, prompts, columns)
    return _Batch(work, state, rows, columns)


def _slots(work: _Work, params) -> int:
    """Slots for the tokens of responses at first; each double of them is a program."""
    if sharding.platform() != "cpu":
        return SLOTS
    nbytes = lambda tree: sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(tree))
    slots = min(work.room, SLOTS)
    cache = jax.eval_shape(lambda: work.model.init_cache(work.count, slots))
    return FEW_SLOTS if nbytes(cache) > nbytes(params) / 2 else SLOTS


def _first(work: _Work, params, at_once: int) -> _Batch:
    """The first prompts in as many places as there are.

    All begin in parts of one size, so that no row is computed otherwise than others.
    """
    places = _multiple(-(-at_once // work.samples))
    fill = _multiple(max(1, places // 4))
    state, rows = work.begin(params, fill, work.room)
    size = max(places, fill) * work.samples
    every = np.arange(size)
    batch_rows = np.where(every < len(rows), rows[every % len(rows)], -1)
    state = _take(_apart(state), every % len(rows), 0)
    return _Batch(work, state, batch_rows, work.room, fill)


def _refill(work: _Work, params, batch: _Batch) -> _Batch:
    """Begins with the next prompts where enough places are free."""
    size = batch.fill * work.samples
    while work.next < work.count:
        places = np.flatnonzero(work.done(batch.rows))
        if len(places) < size:
            break
        state, rows = work.begin(params, batch.fill, work.room)
        places = np.where(rows < 0, len(batch.rows), places[:size])
        batch.state = _insert(batch.state, _apart(state), places)
        batch.rows = batch.rows.copy()
        batch.rows[places[rows >= 0]] = rows[rows >= 0]
        batch.draw = work.of(batch.rows)
    return batch


def _pack(work: _Work, batch: _Batch, chunk: int) -> _Batch:
    """The open rows in half of the places while they fit, with slots to go on."""
    size, more = len(batch.rows), 0
    if batch.state.step.ndim == 0:
        last = min(batch.step + chunk, work.max_tokens)
        columns = batch.columns
        while columns < last:
            columns = min(2 * columns, work.room)
        more, batch.columns = columns - batch.columns, columns
    open_ = np.flatnonzero(~work.done(batch.rows))
    if work.next >= work.count:
        while _halves(size) and size // 2 >= len(open_):
            size //= 2
    if size < len(batch.rows):
        chosen = np.pad(open_, (0, size - len(open_)))
        rows = np.where(np.arange(size) < len(open_), batch.rows[chosen], -1)
    elif more:
        chosen, rows = np.arange(size), batch.rows
    else:
        return batch
    batch.state, batch.rows = _take(batch.state, chosen, more), rows
    batch.draw = work.of(rows)
    return batch


def _halves(size: int) -> bool:
    """Whether a batch of so many rows may be cut in two."""
    half = size // 2
    return size % 2 == 0 and half >= SMALLEST and half == _multiple(half)


def _multiple(rows: int) -> int:
    """At least so many rows, that the mesh can share out."""
    mesh = jax.sharding.get_abstract_mesh()
    parts = math.prod(mesh.shape[axis] for axis in sharding.axes_of("batch"))
    return -(-rows // parts) * parts


def whole(model: Model, params: Params) -> Params:
    """The parameters as tokens read them: gathered, or split by layer, once for all."""
    if jax.sharding.get_abstract_mesh().size > 1:
        return _gather(model, params)
    return _by_layer(model, params) if sharding.platform() == "cpu" else params


_by_layer = jax.jit(lambda model, params: model.by_layer(params), static_argnums=0)
_gather = jax.jit(
    lambda model, params: model.by_layer(
        sharding.whole_along("batch", params, model.init)
    ),
    static_argnums=0,
)
_start = jax.jit(loop.start, static_argnums=(0, 4, 5, 6))
_advance = jax.jit(loop.advance, static_argnums=0, donate_argnums=2)
_take = jax.jit(loop.take, static_argnums=2)
_apart = jax.jit(loop.apart)
_insert = jax.jit(loop.insert, donate_argnums=0)
_keys = jax.jit(lambda keys_B, rows: keys_B[rows])
