# SPDX-License-Identifier: Apache-2.0
"""The header of a GGUF file, every size in it checked against the file's own.

The format is in https://github.com/ggml-org/ggml/blob/master/docs/gguf.md: a magic
number, metadata, the names and places of the tensors, and their bytes. The library's
reader believes what it reads, and keeps an array for each string; this one allocates
nothing that the file is too short to hold.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import os
import pathlib
import struct
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import numpy as np

from alignjax import errors
from alignjax.storage import filenames

MAGIC, VERSIONS = b"GGUF", (2, 3)
ALIGNMENT = 32  # of tensors, where `general.alignment` does not say another
MAX_HEADER = 256 * 2**20  # bytes; that of a vocabulary of 256,000 tokens has 12 MB
MAX_ENTRIES = 2**20  # of metadata, and of tensors
MAX_STRINGS = 2**22  # in all lists; tokens and merges of the largest have 0.8 million
MAX_DIMS = 4
STRING, ARRAY = 8, 9
# Number of a type of metadata: its format in `struct` and in numpy.
NUMBERS = dict(enumerate("B b H h I i f ?".split())) | {10: "Q", 11: "q", 12: "d"}
# Quantisations that are kept as they are; others become float32.
PLAIN = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}


class Quantisation(NamedTuple):
    """How the numbers of a tensor are stored: so many bytes for a block of a row."""

    number: int
    name: str
    block: int
    nbytes: int

    def stored_bytes(self, values: int) -> int:
        """Of so many values, which are whole blocks."""
        return values // self.block * self.nbytes


@dataclasses.dataclass(frozen=True, eq=False)
class Tensor:
    """A tensor of a file; nothing of it is in memory.

    Attributes:
      shape: in numpy's order, which is the reverse of the file's.
      offset: of its first byte in the file.
    """

    path: pathlib.Path
    name: str
    shape: tuple[int, ...]
    quantisation: Quantisation
    offset: int

    @property
    def dtype(self) -> np.dtype:
        """Of the values; float32 unless they are stored as floats of 16 bits."""
        return jax.numpy.dtype(PLAIN.get(self.quantisation.name, "float32"))

    @property
    def stored_bytes(self) -> int:
        return self.quantisation.stored_bytes(math.prod(self.shape))

    def read(self) -> np.ndarray:
        """Its values, as the library dequantises them."""
        q = self.quantisation
        rows = (*self.shape[:-1], q.stored_bytes(self.shape[-1]))
        try:
            stored = np.memmap(self.path, np.uint8, "r", self.offset, rows)
        except ValueError as error:  # it was longer when its header was read
            raise errors.ConfigError(f"{self.path}: truncated") from error
        if q.name in PLAIN:
            return np.asarray(stored).view(self.dtype)
        with np.errstate(all="ignore"):  # a scale of a damaged block may be anything
            return _library().quants.dequantize(np.asarray(stored), _kind(q.number))


class File(NamedTuple):
    """What a file has: `{key: value}` and `{name: Tensor}`, in its order.

    Lists of numbers are numpy arrays, lists of strings are lists.
    """

    path: pathlib.Path
    metadata: dict[str, Any]
    tensors: dict[str, Tensor]


def open_file(path: str | os.PathLike) -> File:
    """The header of a file.

    Raises:
      ConfigError: it is not a GGUF file, or does not hold what its header says; or it
        has a quantisation that the library does not know; or the library is missing.
    """
    path = pathlib.Path(path)
    try:
        with filenames.open_file(path) as file:
            size = os.fstat(file.fileno()).st_size
            reader = _Reader(path, file, size)
            return _read(reader)
    except OSError as error:
        raise errors.ConfigError(
            f"{path}: {error.strerror}; name a GGUF file"
        ) from error


@dataclasses.dataclass
class _Reader:
    """Reads numbers and strings, and counts what is left to be read."""

    path: pathlib.Path
    file: Any
    size: int
    at: int = 0
    strings: int = 0

    def fault(self, problem: str) -> errors.ConfigError:
        return errors.ConfigError(
            f"{self.path}: no GGUF file, or a damaged or truncated one ({problem}); "
            "download it again"
        )

    def bytes(self, count: int, what: str) -> bytes:
        if count > self.size - self.at:
            left = self.size - self.at
            raise self.fault(f"{what}: {count:,} bytes, where {left:,} are left")
        if self.at + count > MAX_HEADER:
            raise self.fault(f"{what}: its header has more than {MAX_HEADER:,} bytes")
        content = self.file.read(count)
        if len(content) < count:
            raise self.fault(f"{what}: it became shorter")
        self.at += count
        return content

    def number(self, format: str, what: str) -> Any:
        size = struct.calcsize(f"<{format}")
        return struct.unpack(f"<{format}", self.bytes(size, what))[0]

    def string(self, what: str) -> str:
        content = self.bytes(self.number("Q", what), what)
        try:
            return content.decode()
        except UnicodeDecodeError as error:
            raise self.fault(f"{what}: no UTF-8 ({error})") from error

    def count(self, most: int, what: str) -> int:
        count = self.number("Q", what)
        if count > most:
            raise self.fault(f"{count:,} {what}, more than {most:,}")
        return count

    def value(self, kind: int, key: str) -> Any:
        """A value of metadata."""
        if kind == STRING:
            return self.string(key)
        if kind in NUMBERS:
            return self.number(NUMBERS[kind], key)
        if kind != ARRAY:
            raise self.fault(f"{key!r:.80}: there is no type {kind}")
        inner, count = self.number("I", key), self.number("Q", key)
        if inner == STRING:
            self.strings += count
            if self.strings > MAX_STRINGS:
                raise self.fault(f"{key!r:.80}: {count:,} strings are too many")
            return [self.string(key) for _ in range(count)]
        if inner not in NUMBERS:
            raise self.fault(f"{key!r:.80}: a list of type {inner}, which is not read")
        dtype = np.dtype(f"<{NUMBERS[inner]}")
        return np.frombuffer(self.bytes(count * dtype.itemsize, key), dtype)


def _read(reader: _Reader) -> File:
    if (magic := reader.bytes(4, "magic number")) != MAGIC:
        raise reader.fault(f"it begins with {magic!r}")
    if (version := reader.number("I", "version")) not in VERSIONS:
        versions = " and ".join(map(str, VERSIONS))
        raise reader.fault(f"version {version}; read are {versions}, little-endian")
    tensors = reader.count(MAX_ENTRIES, "tensors")
    entries, metadata = reader.count(MAX_ENTRIES, "entries of metadata"), {}
    for _ in range(entries):
        key = reader.string("a key")
        if key in metadata:
            raise reader.fault(f"{key!r:.80}: there twice")
        metadata[key] = reader.value(reader.number("I", key), key)
    described = [_describe(reader) for _ in range(tensors)]
    alignment = metadata.get("general.alignment", ALIGNMENT)
    if not isinstance(alignment, int) or not 0 < alignment <= 2**16:
        raise reader.fault(f"general.alignment: {alignment!r:.80}")
    begin = -(-reader.at // alignment) * alignment
    placed = [
        Tensor(reader.path, name, shape, q, begin + offset)
        for name, shape, q, offset in described
    ]
    by_name = {tensor.name: tensor for tensor in placed}
    if len(by_name) < len(placed):
        raise reader.fault("two tensors have one name")
    end = begin
    for tensor in sorted(placed, key=lambda tensor: tensor.offset):
        if tensor.offset < end or tensor.offset % alignment:
            raise reader.fault(f"{tensor.name!r:.80}: overlaps another, or lies oddly")
        end = tensor.offset + tensor.stored_bytes
        if end > reader.size:
            raise reader.fault(
                f"{tensor.name!r:.80}: ends at {end:,}, the file at {reader.size:,}"
            )
    return File(reader.path, metadata, by_name)


def _describe(reader: _Reader) -> tuple[str, tuple[int, ...], Quantisation, int]:
    """(name, shape, quantisation, offset) of a tensor."""
    name = reader.string("the name of a tensor")
    if not 0 < (dims := reader.number("I", name)) <= MAX_DIMS:
        raise reader.fault(f"{name!r:.80}: {dims} dimensions")
    sizes = [reader.number("Q", name) for _ in range(dims)]
    if not 0 < math.prod(sizes) < 2**48:
        raise reader.fault(f"{name!r:.80}: of {' x '.join(map(str, sizes))} numbers")
    q = quantisation(reader.path, reader.number("I", name), name)
    if sizes[0] % q.block:
        raise reader.fault(
            f"{name!r:.80}: rows of {sizes[0]} are no blocks of {q.block}"
        )
    return name, tuple(reversed(sizes)), q, reader.number("Q", name)


def quantisation(path: pathlib.Path, number: int, name: str) -> Quantisation:
    """The quantisation of that number.

    Raises:
      ConfigError: the library does not dequantise it; names the tensor.
    """
    try:
        return _quantisation(number)
    except (ValueError, KeyError, NotImplementedError) as error:
        raise errors.ConfigError(
            f"{path}: {name!r:.80} has a quantisation that the package gguf does not "
            f"read ({' '.join(str(error).split()):.80}); take a file in another, such "
            "as Q8_0, or a newer package"
        ) from error


@functools.cache
def _quantisation(number: int) -> Quantisation:
    gguf, kind = _library(), _kind(number)
    block, size = gguf.GGML_QUANT_SIZES[kind]
    gguf.quants.dequantize(np.zeros((1, size), np.uint8), kind)  # raises if it cannot
    return Quantisation(number, kind.name, block, size)


def _kind(number: int):
    return _library().GGMLQuantizationType(number)


def _library():
    """The package gguf."""
    try:
        import gguf
    except ImportError as error:
        raise errors.ConfigError(
            "GGUF files need the extra gguf: pip install alignjax[gguf]"
        ) from error
    return gguf


@dataclasses.dataclass(frozen=True)
class Slot:
    """Where in a file that is being written a tensor goes."""

    path: pathlib.Path
    quantisation: Quantisation
    offset: int

    def write(self, array: np.ndarray, at: int = 0) -> None:
        """Writes whole rows of a float32 tensor, from its element `at` on."""
        q = self.quantisation
        if q.name in PLAIN:
            stored = np.ascontiguousarray(array.astype(PLAIN[q.name], copy=False))
        else:
            stored = _library().quants.quantize(array, _kind(q.number))
        data = memoryview(stored.reshape(-1).view(np.uint8))
        with open(self.path, "r+b", buffering=0) as file:
            file.seek(self.offset + q.stored_bytes(at))
            while data:
                data = data[file.write(data) :]


def named(name: str) -> Quantisation:
    """The quantisation of that name, such as Q8_0. Raises ConfigError."""
    return _quantisation(int(_library().GGMLQuantizationType[name]))


def create(
    path: pathlib.Path,
    metadata: dict[str, tuple[int, Any]],
    tensors: dict[str, tuple[tuple[int, ...], Quantisation]],
) -> dict[str, Slot]:
    """Makes a file whose tensors are yet to be written; it has its full length at once.

    Args:
      metadata: `{key: (number of its type, value)}`, where lists have the type of their
        elements.
      tensors: `{name: (shape, quantisation)}`.
    """
    header = [MAGIC, struct.pack("<IQQ", VERSIONS[-1], len(tensors), len(metadata))]
    for key, (kind, value) in metadata.items():
        header += [_string(key), *_value(kind, value)]
    offsets, end = {}, 0
    for name, (shape, q) in tensors.items():
        offsets[name] = end
        sizes = struct.pack(f"<I{len(shape)}Q", len(shape), *reversed(shape))
        header += [_string(name), sizes, struct.pack("<IQ", q.number, end)]
        end += -(-q.stored_bytes(math.prod(shape)) // ALIGNMENT) * ALIGNMENT
    content = b"".join(header)
    content += b"\0" * (-len(content) % ALIGNMENT)
    with open(path, "wb") as file:
        file.write(content)
        file.flush()
        if end and hasattr(os, "posix_fallocate"):
            os.posix_fallocate(file.fileno(), len(content), end)
        elif end:  # macOS
            os.truncate(file.fileno(), len(content) + end)
    return {
        name: Slot(path, q, len(content) + offsets[name])
        for name, (_, q) in tensors.items()
    }


def _string(text: str) -> bytes:
    content = text.encode()
    return struct.pack("<Q", len(content)) + content


def _value(kind: int, value: Any) -> Iterator[bytes]:
    if isinstance(value, list):
        yield struct.pack("<IIQ", ARRAY, kind, len(value))
        if kind == STRING:
            yield from map(_string, value)
        else:
            yield struct.pack(f"<{len(value)}{NUMBERS[kind]}", *value)
        return
    yield struct.pack("<I", kind)
    yield _string(value) if kind == STRING else struct.pack(f"<{NUMBERS[kind]}", value)
