# SPDX-License-Identifier: Apache-2.0
"""Arrays that are read when they are sliced, and others read piece by piece."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np

PIECE_BYTES = 64 * 2**20  # of what is read piece by piece, the most that is in memory
Index = tuple[int | slice, ...]


class LazyArray:
    """An array that is read when it is sliced, by integers and slices as in numpy.

    Attributes:
      shape, dtype, ndim, size: as of numpy's arrays.
      stored: its dtype on disk, where values are converted as they are read.
    """

    def __init__(
        self,
        shape,
        dtype,
        read: Callable[[Index], np.ndarray],
        stored=None,
        chunk: Callable[[], tuple[int, ...] | None] | None = None,
    ):
        """`read` gets an index with an entry for each axis.

        `chunk` gives the shape of the blocks in which it is stored, of which a slice
        reads all that it touches, or None where there are none.
        """
        self.shape, self.dtype = tuple(shape), jax.numpy.dtype(dtype)
        self.ndim, self.size = len(self.shape), math.prod(self.shape)
        self.stored = self.dtype if stored is None else jax.numpy.dtype(stored)
        self._read, self.chunk = read, chunk

    def __getitem__(self, index) -> np.ndarray:
        """A part of it. Raises IndexError, TypeError."""
        return self._read(_whole_index(index, self.ndim))

    def __array__(self, dtype=None, copy=None) -> np.ndarray:
        del copy
        return self[...] if dtype is None else self[...].astype(dtype)


def _whole_index(index: Any, ndim: int) -> Index:
    index = index if isinstance(index, tuple) else (index,)
    if Ellipsis in index:
        at = index.index(Ellipsis)
        missing = (slice(None),) * (ndim - len(index) + 1)
        index = (*index[:at], *missing, *index[at + 1 :])
    if len(index) > ndim or Ellipsis in index:
        raise IndexError(f"{len(index)} indices into {ndim} axes")
    index = (*index, *[slice(None)] * (ndim - len(index)))
    return tuple(i if isinstance(i, slice) else int(i.__index__()) for i in index)


def pieces(
    array, limit: int = PIECE_BYTES, index: tuple[int, ...] = ()
) -> Iterator[np.ndarray]:
    """All of an array that can be sliced, or of a part of it, in row-major order.

    A piece has at most `limit` bytes, or one row of the last axis but one.

    Args:
      index: of the part, along the first axes.
    """
    rest = array.shape[len(index) :]
    size = math.prod(rest) * np.dtype(array.dtype).itemsize
    if size <= limit or len(rest) < 2:
        yield array[index]
        return
    if size // rest[0] > limit:
        for i in range(rest[0]):
            yield from pieces(array, limit, (*index, i))
        return
    count = max(1, limit * rest[0] // size)
    for start in range(0, rest[0], count):
        yield array[(*index, slice(start, start + count))]


def boxes(
    array, limit: int = PIECE_BYTES, index: tuple[int, ...] = ()
) -> Iterator[tuple]:
    """Indices that cut an array, or a part of it, into boxes, in any order.

    A box is one of the chunks that the array is stored in, or else rows of at most
    `limit` bytes that follow each other.

    Args:
      index: of the part, along the first axes.
    """
    step = chunk_of(array) or _rows(array, limit)
    axes = list(zip(array.shape, step, strict=True))[len(index) :]
    for starts in itertools.product(*(range(0, size, n) for size, n in axes)):
        ends = (min(s + n, size) for s, (size, n) in zip(starts, axes, strict=True))
        yield (*index, *map(slice, starts, ends))


def chunk_of(array) -> tuple[int, ...] | None:
    """The shape of the chunks that an array is stored in, if it is in some."""
    chunk = getattr(array, "chunk", None)
    return None if chunk is None else chunk()


def _rows(array, limit: int) -> tuple[int, ...]:
    """The shape of a box of at most `limit` bytes, all of the last axes."""
    shape, room = [1] * len(array.shape), limit // np.dtype(array.dtype).itemsize
    for axis in reversed(range(len(shape))):
        shape[axis] = max(1, min(array.shape[axis], room))
        if shape[axis] < array.shape[axis]:
            break
        room //= shape[axis]
    return tuple(shape)
