# SPDX-License-Identifier: Apache-2.0
"""safetensors files: their tensors read where they are sliced, and written anywhere.

The format is 8 bytes with the length of a header, the header as JSON, and the bytes of
the tensors in row-major order (https://github.com/huggingface/safetensors). The library
of that name reads and checks headers. It holds all tensors that it writes in memory,
and copies what it slices; so files are written, and mapped into memory, here.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
import pathlib
import re
from collections.abc import Mapping

import jax
import numpy as np
import safetensors

from alignjax import errors
from alignjax.storage import filenames

DTYPES = {"BF16": "bfloat16", "U8": "uint8", "BOOL": "bool"}
DTYPES |= {f"F{bits}": f"float{bits}" for bits in (16, 32, 64)}
DTYPES |= {f"I{bits}": f"int{bits}" for bits in (8, 16, 32, 64)}
_NAMES = {name: code for code, name in DTYPES.items()}
_TILE = 64  # columns of a transposed copy; twice as fast as all of them at once


@dataclasses.dataclass(frozen=True, eq=False)
class Tensor:
    """A tensor of a file; nothing of it is in memory.

    Attributes:
      dtype: of numpy, or its code in the file where numpy has none.
      offset: of its first byte in the file.
    """

    path: pathlib.Path
    dtype: np.dtype | str
    shape: tuple[int, ...]
    offset: int

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * np.dtype(self.dtype).itemsize

    def view(self) -> np.ndarray:
        """The tensor as memory that is a part of the file.

        It is mapped anew at each call: pages that were read count as memory of the
        process until their mapping is gone.
        """
        if not self.nbytes:
            return np.empty(self.shape, self.dtype)
        try:
            mapped = np.memmap(self.path, self.dtype, "r", self.offset, self.shape)
        except ValueError as error:  # it was longer when its header was read
            raise errors.ConfigError(f"{self.path}: truncated") from error
        return np.asarray(mapped)

    def __getitem__(self, index) -> np.ndarray:
        """A copy of a part of it."""
        return copy(self.view()[index])


def copy(x: np.ndarray) -> np.ndarray:
    """`x` in row-major order, in memory of its own."""
    out = np.empty(x.shape, x.dtype)
    copy_to(out, x)
    return out


def copy_to(target: np.ndarray, x: np.ndarray) -> None:
    """`target[...] = x`, of the same dtype.

    By bits, since numpy goes through bfloat16 one element at a time; and by tiles where
    it is transposed, since each element would else fetch a line of cache.
    """
    bits = np.dtype(f"u{x.dtype.itemsize}")
    source, target = x.view(bits), target.view(bits)
    if x.ndim < 2 or x.flags.c_contiguous:
        target[...] = source
        return
    for i in range(0, x.shape[-1], _TILE):
        target[..., i : i + _TILE] = source[..., i : i + _TILE]


def open_file(path: str | os.PathLike) -> dict[str, Tensor]:
    """`{name: Tensor}` of a file, by its header, in the order of their bytes.

    Raises:
      ConfigError: it is not a safetensors file, or does not hold what its header says.
    """
    path = pathlib.Path(path)
    try:
        with filenames.open_file(path) as file:
            offset = 8 + int.from_bytes(file.read(8), "little")
        # It refuses tensors that overlap or leave gaps, and a file of another length.
        with safetensors.safe_open(path, "np") as file:
            parts = {name: file.get_slice(name) for name in file.offset_keys()}
            kinds = {n: (x.get_dtype(), tuple(x.get_shape())) for n, x in parts.items()}
    except safetensors.SafetensorError as error:
        problem = "no safetensors file, or a damaged or truncated one"
        raise errors.ConfigError(
            f"{path}: {problem} ({error}); download it again"
        ) from error
    except OSError as error:
        raise errors.ConfigError(f"{path}: {error}") from error
    tensors = {}
    for name, (code, shape) in kinds.items():
        dtype = jax.numpy.dtype(DTYPES[code]) if code in DTYPES else code
        tensors[name] = Tensor(path, dtype, shape, offset)
        bits = 8 if code == "BOOL" else int(re.search("[0-9]+", code)[0])
        offset += math.prod(shape) * bits // 8
    return tensors


@dataclasses.dataclass(frozen=True)
class Slot:
    """Where in a file that is being written a tensor goes."""

    path: pathlib.Path
    dtype: np.dtype
    shape: tuple[int, ...]
    offset: int

    def write(self, array: np.ndarray, at: int = 0) -> None:
        """Writes a part of the tensor, from its element `at` on, in row-major order."""
        assert array.dtype == self.dtype, (array.dtype, self.dtype)
        data = memoryview(np.ascontiguousarray(array).reshape(-1).view(np.uint8))
        with open(self.path, "r+b", buffering=0) as file:
            file.seek(self.offset + at * self.dtype.itemsize)
            while data:
                data = data[file.write(data) :]


def create(
    path: pathlib.Path, tensors: Mapping[str, tuple[np.dtype, tuple[int, ...]]]
) -> dict[str, Slot]:
    """Makes a file of `{name: (dtype, shape)}`, whose tensors are yet to be written.

    They lie in the order given; the file has its full length at once, so that a disk
    that is too full is noticed now.
    """
    header, slots, end = {"__metadata__": {"format": "pt"}}, {}, 0
    for name, (dtype, shape) in tensors.items():
        last = end + math.prod(shape) * dtype.itemsize
        code = _NAMES[dtype.name]
        header[name] = dict(dtype=code, shape=list(shape), data_offsets=[end, last])
        end = last
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    begin = 8 + len(text)
    with open(path, "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.flush()
        if end and hasattr(os, "posix_fallocate"):
            os.posix_fallocate(file.fileno(), begin, end)
        elif end:  # macOS
            os.truncate(file.fileno(), begin + end)
    for name, (dtype, shape) in tensors.items():
        offset = begin + header[name]["data_offsets"][0]
        slots[name] = Slot(path, dtype, tuple(shape), offset)
    return slots
