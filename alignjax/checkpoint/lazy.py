# SPDX-License-Identifier: Apache-2.0
"""The parameters of a step as arrays that are read, and verified, when sliced."""

from __future__ import annotations

import math
import pathlib
from typing import Any

import jax
import numpy as np

from alignjax import errors
from alignjax.checkpoint import step_folders
from alignjax.huggingface import leaves as lazy_leaves
from alignjax.storage import fingerprint


def leaves(path: pathlib.Path, meta: dict) -> dict[str, Any]:
    """`{name: array that is read when it is sliced}` of a step's parameters.

    Those that Orbax wrote are read as a whole, and the last that was read is kept;
    those in a safetensors file are read by the slice. Raises BrokenStep.
    """
    names = step_folders.names_of(meta, "params")
    known = {name: meta["leaves"][f"params/{name}"] for name in names}
    if not step_folders.is_one_file(meta):
        reader = _Reader(path, meta)
        return {name: Whole(reader, name, leaf) for name, leaf in known.items()}
    held = step_folders.tensors(path, meta)
    digits = lambda name: known[name]["fingerprint"]
    return {name: Verified(held[name], digits(name), path, name) for name in names}


class Verified:
    """A tensor whose fingerprint is taken once, before anything of it is given out."""

    def __init__(self, tensor, digits: str, path: pathlib.Path, name: str):
        self._tensor, self._digits, self._sound = tensor, digits, False
        self._where = path, name
        self.shape, self.dtype = tuple(tensor.shape), np.dtype(tensor.dtype)
        self.ndim, self.size = len(self.shape), math.prod(self.shape)

    def __getitem__(self, index) -> np.ndarray:
        if not self._sound:
            path, name = self._where
            pieces = lazy_leaves.pieces(self._tensor)
            found = fingerprint.of_pieces(self.dtype, pieces)
            if found.digits != self._digits:
                raise errors.BrokenStep(
                    f"{path}: not what was written, by its fingerprint: params/{name}"
                )
            self._sound = True
        return self._tensor[index]

    def __array__(self, dtype=None, copy=None) -> np.ndarray:
        del copy
        return self[...] if dtype is None else self[...].astype(dtype)


class Whole:
    """A leaf that is read at once, since its file has it in one piece."""

    def __init__(self, reader: _Reader, name: str, leaf: dict):
        self._reader, self._name = reader, name
        self.shape, self.dtype = tuple(leaf["shape"]), jax.numpy.dtype(leaf["dtype"])
        self.ndim, self.size = len(self.shape), math.prod(self.shape)

    def __getitem__(self, index) -> np.ndarray:
        return self._reader.read(self._name)[index]

    def __array__(self, dtype=None, copy=None) -> np.ndarray:
        del copy
        return self[...] if dtype is None else self[...].astype(dtype)


class _Reader:
    """Reads leaves of a step one at a time, and keeps the last one."""

    def __init__(self, path: pathlib.Path, meta: dict):
        self._path, self._meta = path, meta
        self._last: tuple[str, np.ndarray] | None = None

    def read(self, name: str) -> np.ndarray:
        if self._last is None or self._last[0] != name:
            self._last = None  # before the next one is read
            found = step_folders.read_numpy(self._path, self._meta, "params", [name])
            self._last = name, found[name]
        return self._last[1]
