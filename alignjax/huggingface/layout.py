# SPDX-License-Identifier: Apache-2.0
"""Which part of which of our parameters each of their tensors is.

A family's table has a line for each kind of tensor. Theirs are apart by layer, and by
expert; ours are stacked. Theirs are matrices, mostly [out, in]; ours have an axis for
each of heads and widths, inputs first. Some of theirs are several of ours side by side.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from alignjax.models import decoder_config, names
from alignjax.storage import tensor_files

SCORES = "score.weight"


class Part(NamedTuple):
    """A piece of one of our parameters that a tensor of theirs has.

    Attributes:
      ours: path of the parameter.
      index: where in its stacked axes, such as (layer,) or (layer, expert).
      shape: of the piece, without the stacked axes.
      start, stop: which rows, or columns, of theirs it is; see `Place.axis`.
    """

    ours: str
    index: tuple[int, ...]
    shape: tuple[int, ...]
    start: int
    stop: int


class Place(NamedTuple):
    """One of their tensors.

    Attributes:
      name, shape: as in their files.
      parts: pieces of ours, side by side along `axis`.
      transposed: whether theirs is [out, in].
      axis: of theirs, along which outputs lie.
    """

    name: str
    shape: tuple[int, ...]
    parts: tuple[Part, ...]
    transposed: bool
    axis: int

    def read(self, part: Part, theirs: np.ndarray) -> np.ndarray:
        """The piece of ours in a tensor of theirs; nothing is copied."""
        piece = theirs[(slice(None),) * self.axis + (slice(part.start, part.stop),)]
        return (piece.T if self.transposed else piece).reshape(part.shape)

    def blocks(self, most: int) -> Iterator[tuple[int, list[tuple[str, tuple]]]]:
        """(first element, [(path of ours, index)]) of what theirs is written in.

        A block is whole rows of theirs, and has at most `most` elements or one index of
        ours; where parts lie beside each other in a row it is all of the tensor.
        """
        if self.axis:
            yield 0, [(part.ours, part.index) for part in self.parts]
            return
        row = math.prod(self.shape[1:])
        for part in self.parts:
            matrix = _matrix(part.ours, part.shape)
            # The axis of ours that rows of theirs go along, and how many at each index.
            axis = 0
            if self.transposed:
                inputs = np.cumprod(part.shape).tolist()
                axis = inputs.index(matrix[0]) + 1
            rows = (part.stop - part.start) // part.shape[axis]
            step = max(1, most // max(1, rows * row))
            for start in range(0, part.shape[axis], step):
                taken = (*[slice(None)] * axis, slice(start, start + step))
                at = (part.start + start * rows) * row
                yield at, [(part.ours, (*part.index, *taken))]

    def join(self, pieces: Sequence[np.ndarray]) -> np.ndarray:
        """What of theirs a block of ours is."""
        # The parts of one tensor are alike, so the first may stand for any.
        parts = zip(self.parts, pieces, strict=False)
        flat = [piece.reshape(_matrix(part.ours, piece.shape)) for part, piece in parts]
        if self.axis:
            return np.concatenate(flat, self.axis)
        return tensor_files.copy(flat[0].T) if self.transposed else flat[0]


def shapes(c: decoder_config.DecoderConfig) -> dict[str, tuple[int, ...]]:
    """`{path: shape}` of the parameters that a folder has of a model: no adapters."""
    found = names.shapes(c)
    if c.score_heads:
        found |= {"score/kernel": (c.d_model, c.score_heads)}
    return found


def table(family, c: decoder_config.DecoderConfig) -> list[names.Tensor]:
    """The lines of a family, a module of `models`, for a model with the settings `c`.

    Raises:
      ConfigError: a parameter that the family's folders have no tensor for.
    """
    lines = list(names.tensors(family, c))
    return [*lines, names.Tensor(SCORES, "score/kernel")] if c.score_heads else lines


def places(
    table: Iterable[names.Tensor], shapes: Mapping[str, tuple[int, ...]]
) -> Iterator[Place]:
    """Every tensor of theirs, layer by layer, in the order of the table.

    Args:
      table: `models.names.Tensor` lines.
      shapes: of our parameters, as `shapes` has them.
    """
    layered = lambda line: "{layer}" in line.theirs
    for stacked, lines in itertools.groupby(table, layered):
        lines = list(lines)
        if not stacked:
            yield from (_place(line, (), shapes) for line in lines)
            continue
        for layer in range(shapes[lines[0].leaves[0]][0]):
            for line in lines:
                if "{expert}" not in line.theirs:
                    yield _place(line, (layer,), shapes)
                    continue
                for expert in range(shapes[line.leaves[0]][1]):
                    yield _place(line, (layer, expert), shapes)


def _place(line, index: tuple[int, ...], shapes) -> Place:
    named = dict(zip(("layer", "expert"), index, strict=False))
    pieces = {name: tuple(shapes[name][len(index) :]) for name in line.leaves}
    matrices = [_matrix(name, shape) for name, shape in pieces.items()]
    first = matrices[0]
    transposed = line.transposed and len(first) == 2
    beside = len(line.leaves) > 1 and not transposed
    axis = len(first) - 1 if beside else 0
    parts, end = [], 0
    for (name, shape), matrix in zip(pieces.items(), matrices, strict=True):
        width = matrix[-1] if transposed or beside else matrix[0]
        parts.append(Part(name, index, shape, end, end + width))
        end += width
    rest = first[:1] if transposed else first[1:]
    whole = (*first[:-1], end) if axis else (end, *rest)
    return Place(line.theirs.format(**named), whole, tuple(parts), transposed, axis)


def _matrix(name: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape of a piece of ours as a matrix [in, out], or as a vector.

    Heads and their width are one axis of theirs: of the inputs of the projection `o`,
    and of the outputs of others.
    """
    *_, owner, last = f"/{name}".split("/")
    if last == "kernel" and len(shape) == 3:
        a, b, c = shape
        return (a * b, c) if owner == "o" else (a, b * c)
    if last == "bias":
        return (math.prod(shape),)
    return shape
