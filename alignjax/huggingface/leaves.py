# SPDX-License-Identifier: Apache-2.0
"""Parameters that are read when they are sliced, out of whatever tensors hold them."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from alignjax.huggingface import layout
from alignjax.storage import tensor_files


@dataclasses.dataclass(frozen=True, eq=False)
class Leaf:
    """One of our parameters, in tensors of theirs.

    Attributes:
      shape, dtype: of the whole.
      stacked: how many leading axes have a tensor for each index.
      held: `{index along those: (tensor, its place, the part)}`.
    """

    shape: tuple[int, ...]
    dtype: np.dtype
    stacked: int
    held: Mapping[
        tuple[int, ...], tuple[tensor_files.Tensor, layout.Place, layout.Part]
    ]

    @property
    def ndim(self) -> int:
        return len(self.shape)

    @property
    def size(self) -> int:
        return math.prod(self.shape)

    def __getitem__(self, index) -> np.ndarray:
        """A part of it, as an array of its own; integers and slices as in numpy.

        Of each tensor only what is asked for is read, and one is mapped at a time.
        """
        index = whole_index(index, self.ndim)
        lead, rest = index[: self.stacked], index[self.stacked :]
        sizes = self.shape[: self.stacked]
        taken = [_taken(i, n) for i, n in zip(lead, sizes, strict=True)]
        counts = tuple(len(t) for t in taken)
        inner = np.broadcast_to(np.int8(0), self.shape[self.stacked :])[rest].shape
        out = np.empty((*counts, *inner), self.dtype)
        for target in np.ndindex(counts):
            source = tuple(t[i] for t, i in zip(taken, target, strict=True))
            tensor, place, part = self.held[source]
            # An index of its own keeps a scalar an array that can be written to.
            into = out[(*target, ...)]
            tensor_files.copy_to(into, place.read(part, tensor.view())[(*rest, ...)])
        return out[tuple(0 if isinstance(i, int) else slice(None) for i in lead)]

    def __array__(self, dtype=None, copy=None) -> np.ndarray:
        del copy
        return self[...] if dtype is None else self[...].astype(dtype)


def whole_index(index: Any, ndim: int) -> tuple[int | slice, ...]:
    """`index` with an entry for each of `ndim` axes. Raises IndexError, TypeError."""
    index = index if isinstance(index, tuple) else (index,)
    if Ellipsis in index:
        at = index.index(Ellipsis)
        missing = (slice(None),) * (ndim - len(index) + 1)
        index = (*index[:at], *missing, *index[at + 1 :])
    if len(index) > ndim:
        raise IndexError(f"{len(index)} indices into {ndim} axes")
    index = (*index, *[slice(None)] * (ndim - len(index)))
    return tuple(i if isinstance(i, slice) else int(i.__index__()) for i in index)


def _taken(index: int | slice, size: int) -> range:
    if isinstance(index, slice):
        return range(*index.indices(size))
    if not -size <= index < size:
        raise IndexError(f"index {index} of an axis of {size}")
    return range(index % size, index % size + 1)
