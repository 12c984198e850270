# SPDX-License-Identifier: Apache-2.0
"""Parameters in the tensors of a folder: where each piece is, read when it is sliced.

A family's table has a line for each kind of tensor. Tensors are apart by layer, and by
expert; parameters are stacked. Tensors are matrices, mostly [out, in]; parameters have
an axis for each of heads and widths, inputs first. Some tensors hold several parameters
side by side.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from alignjax import errors, trees
from alignjax.models import decoder, decoder_config, families, lora
from alignjax.models.tensor_names import Tensor
from alignjax.storage import lazy, tensor_files

SCORES = "score.weight"
FLOATS = ("float32", "bfloat16", "float16")


class Part(NamedTuple):
    """A piece of a parameter, within a tensor.

    Attributes:
      path: of the parameter.
      index: of the piece in the stacked axes: (layer,) or (layer, expert), or ().
      shape: of the piece, without the stacked axes.
      start, stop: rows, or columns, of the tensor; see `Place.axis`.
    """

    path: str
    index: tuple[int, ...]
    shape: tuple[int, ...]
    start: int
    stop: int


class Place(NamedTuple):
    """One tensor of a folder.

    Attributes:
      name, shape: as in its file.
      parts: pieces of parameters, side by side along `axis`.
      transposed: whether the tensor is [out, in].
      axis: of the tensor, along which outputs lie.
    """

    name: str
    shape: tuple[int, ...]
    parts: tuple[Part, ...]
    transposed: bool
    axis: int

    def read(self, part: Part, tensor: np.ndarray) -> np.ndarray:
        """The piece of a parameter in the tensor; a view of it."""
        piece = tensor[(slice(None),) * self.axis + (slice(part.start, part.stop),)]
        return (piece.T if self.transposed else piece).reshape(part.shape)

    def blocks(self, most: int) -> Iterator[tuple[int, list[tuple[str, tuple]]]]:
        """(first element, [(path of a parameter, index)]) of what is written at once.

        A block is whole rows of the tensor, and has at most `most` elements or one
        index of a parameter; where parts lie beside each other in a row it is all of
        the tensor.
        """
        if self.axis:
            yield 0, [(part.path, part.index) for part in self.parts]
            return
        row = math.prod(self.shape[1:])
        for part in self.parts:
            matrix = matrix_shape(part.path, part.shape)
            # The axis of the parameter along which rows of the tensor lie.
            axis = 0
            if self.transposed:
                inputs = np.cumprod(part.shape).tolist()
                axis = inputs.index(matrix[0]) + 1
            rows = (part.stop - part.start) // part.shape[axis]
            step = max(1, most // max(1, rows * row))
            for start in range(0, part.shape[axis], step):
                index = (*[slice(None)] * axis, slice(start, start + step))
                first = (part.start + start * rows) * row
                yield first, [(part.path, (*part.index, *index))]

    def join(self, pieces: Sequence[np.ndarray]) -> np.ndarray:
        """The rows of the tensor that a block of parameters makes."""
        # The parts of one tensor are alike, so the first may stand for any.
        parts = zip(self.parts, pieces, strict=False)
        flat = [
            piece.reshape(matrix_shape(part.path, piece.shape)) for part, piece in parts
        ]
        if self.axis:
            return np.concatenate(flat, self.axis)
        return tensor_files.copy(flat[0].T) if self.transposed else flat[0]


def shapes(c: decoder_config.DecoderConfig) -> dict[str, tuple[int, ...]]:
    """`{path: shape}` of the parameters that a folder has of a model: no adapters."""
    abstract = decoder.abstract(decoder.build(c.without_extras()))
    by_path = {path: leaf.shape for path, leaf in trees.named_leaves(abstract).items()}
    if c.score_heads:
        by_path["score/kernel"] = (c.d_model, c.score_heads)
    return by_path


def table(family: families.Family, c: decoder_config.DecoderConfig) -> list[Tensor]:
    """The lines of a family's table that a model has.

    Raises:
      ConfigError: a parameter for which the family's folders have no tensor.
    """
    paths = set(shapes(c))
    scores = Tensor(SCORES, "score/kernel")
    lines = [x for x in (*family.tensors, scores) if paths.issuperset(x.paths)]
    if missing := paths - {path for line in lines for path in line.paths}:
        raise errors.ConfigError(
            f"model: checkpoints of {family.architecture} have no tensor for "
            f"{', '.join(sorted(missing))}"
        )
    return lines


def count(table: Iterable[Tensor], shapes: Mapping[str, tuple[int, ...]]) -> int:
    """How many tensors `places` has."""
    stacked = lambda line: shapes[line.paths[0]][: line.name.count("{")]
    return sum(math.prod(stacked(line)) for line in table)


def places(
    table: Iterable[Tensor], shapes: Mapping[str, tuple[int, ...]]
) -> Iterator[Place]:
    """Every tensor of a folder, layer by layer, in the order of the table.

    Args:
      table: as `table` returns it.
      shapes: of parameters, as `shapes` returns them.
    """
    for _, lines in itertools.groupby(table, lambda line: "{layer}" in line.name):
        indexed = [  # by (), (layer,) or (layer, expert)
            (index, line)
            for line in lines
            for index in np.ndindex(shapes[line.paths[0]][: line.name.count("{")])
        ]
        for index, line in sorted(indexed, key=lambda pair: pair[0][:1]):
            yield _place(line, index, shapes)


def _place(line: Tensor, index: tuple[int, ...], shapes) -> Place:
    numbers = dict(zip(("layer", "expert"), index, strict=False))
    pieces = {path: tuple(shapes[path][len(index) :]) for path in line.paths}
    matrices = [matrix_shape(path, shape) for path, shape in pieces.items()]
    first = matrices[0]
    transposed = line.transposed and len(first) == 2
    beside = len(line.paths) > 1 and not transposed
    axis = len(first) - 1 if beside else 0
    parts, end = [], 0
    for (path, shape), matrix in zip(pieces.items(), matrices, strict=True):
        width = matrix[-1] if transposed or beside else matrix[0]
        parts.append(Part(path, index, shape, end, end + width))
        end += width
    rest = first[:1] if transposed else first[1:]
    whole = (*first[:-1], end) if axis else (end, *rest)
    return Place(line.name.format(**numbers), whole, tuple(parts), transposed, axis)


def matrix_shape(path: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape of a piece of a parameter as a matrix [in, out], or as a vector.

    Heads and their width are one axis of a tensor: of the inputs of the projection `o`,
    and of the outputs of others.
    """
    *_, owner, last = f"/{path}".split("/")
    if last == "kernel" and len(shape) == 3:
        a, b, c = shape
        return (a * b, c) if owner == "o" else (a, b * c)
    if last == "bias":
        return (math.prod(shape),)
    return shape


# `{index along the stacked axes: (tensor, its place, the part)}` of a parameter.
Pieces = Mapping[tuple[int, ...], tuple[tensor_files.Tensor, Place, Part]]


def stacked(shape: tuple[int, ...], dtype, pieces: Pieces) -> lazy.LazyArray:
    """A parameter in the tensors of a folder.

    Only the bytes of the part that is sliced are read, and one tensor is mapped at a
    time; the part is an array of its own.
    """
    axes = len(next(iter(pieces)))

    def read(index) -> np.ndarray:
        lead, rest = index[:axes], index[axes:]
        indices = [_indices(i, n) for i, n in zip(lead, shape[:axes], strict=True)]
        counts = tuple(map(len, indices))
        inner = np.broadcast_to(np.int8(0), shape[axes:])[rest].shape
        out = np.empty((*counts, *inner), dtype)
        for target in np.ndindex(counts):
            source = tuple(x[i] for x, i in zip(indices, target, strict=True))
            tensor, place, part = pieces[source]
            # An index of its own keeps a scalar an array that can be written to.
            into = out[(*target, ...)]
            tensor_files.copy_to(into, place.read(part, tensor.view())[(*rest, ...)])
        return out[tuple(0 if isinstance(i, int) else slice(None) for i in lead)]

    return lazy.LazyArray(shape, dtype, read)


def _merged(
    parts: Mapping[str, Any], c: decoder_config.DecoderConfig
) -> lazy.LazyArray:
    """A kernel with its adapter merged into it, float32, read layer by layer."""
    kernel = parts["kernel"]

    def layer(i: int) -> np.ndarray:
        one = lambda leaf: np.asarray(leaf[i : i + 1]).astype(np.float32)
        arrays = {name: one(leaf) for name, leaf in parts.items()}
        return np.asarray(lora.merge(arrays, c)["kernel"][0])

    def read(index) -> np.ndarray:
        first, rest = index[0], index[1:]
        if not isinstance(first, slice):
            return layer(first % kernel.shape[0])[rest]
        layers = range(*first.indices(kernel.shape[0]))
        return np.stack([layer(i)[rest] for i in layers])

    return lazy.LazyArray(kernel.shape, np.float32, read, stored=kernel.dtype)


def merge(leaves: Mapping[str, Any], c: decoder_config.DecoderConfig) -> dict[str, Any]:
    """`lora.merge` of parameters by path that are read when they are sliced."""
    merged = {}
    for path, leaf in leaves.items():
        owner, _, last = path.rpartition("/")
        if last.startswith("lora_"):
            continue
        if last == "kernel" and f"{owner}/lora_a" in leaves:
            names = ("kernel", "lora_a", "lora_b", "lora_m")
            parts = {x: leaves.get(f"{owner}/{x}") for x in names}
            leaf = _merged({k: x for k, x in parts.items() if x is not None}, c)
        merged[path] = leaf
    return merged


def _indices(index: int | slice, size: int) -> range:
    if isinstance(index, slice):
        return range(*index.indices(size))
    if not -size <= index < size:
        raise IndexError(f"index {index} of an axis of {size}")
    return range(index % size, index % size + 1)
