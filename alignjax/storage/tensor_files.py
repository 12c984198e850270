# SPDX-License-Identifier: Apache-2.0
"""safetensors files: their tensors read where they are sliced, and written anywhere.

The format is 8 bytes with the length of a header, the header as JSON, and the bytes of
the tensors in row-major order (https://github.com/huggingface/safetensors). The library
of that name holds all tensors that it writes in memory, and its numpy part knows no
slices of bfloat16; so the format is read and written here.
"""

from __future__ import annotations

import dataclasses
import json
import math
import mmap
import os
import pathlib
from collections.abc import Mapping

import jax
import numpy as np

from alignjax import errors

DTYPES = {
    "F64": "float64",
    "F32": "float32",
    "F16": "float16",
    "BF16": "bfloat16",
    "I64": "int64",
    "I32": "int32",
    "I16": "int16",
    "I8": "int8",
    "U8": "uint8",
    "BOOL": "bool",
}
_NAMES = {name: code for code, name in DTYPES.items()}
_MAX_HEADER = 100 * 2**20  # as in the library: more is no header
_TILE = 64  # columns of a transposed copy; twice as fast as all of them at once


@dataclasses.dataclass(frozen=True, eq=False)
class Tensor:
    """A tensor of a file; nothing of it is in memory.

    Attributes:
      path: of the file.
      dtype: of numpy, or its code in the file where numpy has none.
      shape: of the tensor.
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
        start = self.offset - self.offset % mmap.ALLOCATIONGRANULARITY
        with open(self.path, "rb") as file:
            length = self.offset - start + self.nbytes
            try:
                mapped = mmap.mmap(
                    file.fileno(), length, offset=start, access=mmap.ACCESS_READ
                )
            except ValueError as error:  # it was longer when its header was read
                raise errors.ConfigError(f"{self.path}: truncated") from error
        flat = np.frombuffer(mapped, np.uint8, self.nbytes, self.offset - start)
        return flat.view(self.dtype).reshape(self.shape)

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


def open_file(path: str | pathlib.Path) -> dict[str, Tensor]:
    """`{name: Tensor}` of a file, by its header.

    Raises:
      ConfigError: it is not a safetensors file, or does not hold what its header says.
    """
    path = pathlib.Path(path)
    header, begin, size = _header(path)
    found, spans = {}, []
    try:
        for name, entry in header.items():
            if name == "__metadata__":
                continue
            first, last = map(int, entry["data_offsets"])
            shape = tuple(map(int, entry["shape"]))
            known = DTYPES.get(entry["dtype"])
            dtype = entry["dtype"] if known is None else jax.numpy.dtype(known)
            if min((*shape, first)) < 0 or last < first:
                raise ValueError(f"{name}: {entry}")
            if known and last - first != math.prod(shape) * dtype.itemsize:
                raise ValueError(f"{name}: {last - first} bytes for {dtype}{shape}")
            found[name] = Tensor(path, dtype, shape, begin + first)
            spans.append((begin + first, begin + last, name))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise _refused(path, f"its header is damaged ({error})") from error
    _check_spans(path, spans, begin, size)
    return found


def _header(path: pathlib.Path) -> tuple[dict, int, int]:
    """(the header, the first byte after it, the size of the file)."""
    try:
        size = path.stat().st_size
        with open(path, "rb") as file:
            length = int.from_bytes(file.read(8), "little")
            text = file.read(min(length, _MAX_HEADER))
    except OSError as error:
        raise errors.ConfigError(f"{path}: {error.strerror}") from error
    if size < 8 or length > _MAX_HEADER or 8 + length > size:
        raise _refused(
            path,
            f"no safetensors file, or a truncated one: it has {size:,} bytes, and a "
            f"header that would be {length:,} long",
        )
    try:
        return json.loads(text), 8 + length, size
    except ValueError as error:
        raise _refused(path, f"its header is no JSON ({error})") from error


def _check_spans(path, spans: list[tuple[int, int, str]], begin: int, size: int):
    """Refuses bytes of two tensors, or of none: the header is then of another file."""
    end, before = begin, "the header"
    for first, last, name in sorted(spans):
        if last > size:
            raise _refused(
                path,
                f"truncated: {name} ends at byte {last:,} and the file at {size:,}",
            )
        if first != end:
            raise _refused(
                path,
                f"its header is damaged ({name} begins at byte {first:,}, where "
                f"{before} ends at {end:,})",
            )
        end, before = last, name
    if end != size:
        raise _refused(
            path, f"its last tensor ends at byte {end:,} and the file at {size:,}"
        )


def _refused(path: pathlib.Path, what: str) -> errors.ConfigError:
    return errors.ConfigError(f"{path}: {what}; download it again")


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
        where = self.offset + at * self.dtype.itemsize
        with open(self.path, "r+b", buffering=0) as file:
            file.seek(where)
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
        if end:
            _allocate(file.fileno(), begin, end)
    for name, (dtype, shape) in tensors.items():
        offset = begin + header[name]["data_offsets"][0]
        slots[name] = Slot(path, dtype, tuple(shape), offset)
    return slots


def _allocate(descriptor: int, begin: int, count: int) -> None:
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(descriptor, begin, count)
    else:  # macOS
        os.truncate(descriptor, begin + count)
