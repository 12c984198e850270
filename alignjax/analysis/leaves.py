# SPDX-License-Identifier: Apache-2.0
"""Figures of parameters, by leaf and by layer: of one run, and of two that differ.

Leaves are read in pieces and summed in float64, so that memory for a few pieces will
do; the singular values of a change need the matrix of one layer.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from alignjax.huggingface import layout
from alignjax.storage import lazy

PIECE_BYTES = 4 * 2**20  # of a leaf that is not in chunks, read at a time
_BLOCK = 2**18  # elements that are in float64 at a time


class Summary(NamedTuple):
    """The elements of a leaf or a layer: sums that add up.

    Attributes:
      size: number of elements, all that follows is of the finite ones.
      finite, zeros: how many are finite, and 0.
      total, squares: sums of the elements and of their squares.
      least, most: the extreme elements.
    """

    size: int = 0
    finite: int = 0
    zeros: int = 0
    total: float = 0.0
    squares: float = 0.0
    least: float = math.inf
    most: float = -math.inf

    def plus(self, other: Summary) -> Summary:
        sums = [a + b for a, b in zip(self[:5], other[:5], strict=True)]
        return Summary(*sums, min(self.least, other.least), max(self.most, other.most))

    def figures(self) -> dict[str, float]:
        """What a reader wants of it, by name."""
        mean = self.total / max(1, self.finite)
        variance = self.squares / max(1, self.finite) - mean**2
        return {
            "size": self.size,
            "norm": math.sqrt(self.squares),
            "mean": mean,
            "std": math.sqrt(max(0.0, variance)),
            "min": self.least,
            "max": self.most,
            "zeros": self.zeros / max(1, self.size),
            "nonfinite": self.size - self.finite,
        }


class Difference(NamedTuple):
    """What leads from one leaf or layer to another: sums that add up.

    Attributes:
      size, changed: number of elements, and of those whose value is another.
      first, second, moved: sums of squares of both, and of the second minus the first.
      product: of both, summed.
      largest: magnitude of the largest change.
    """

    size: int = 0
    changed: int = 0
    first: float = 0.0
    second: float = 0.0
    moved: float = 0.0
    product: float = 0.0
    largest: float = 0.0

    def plus(self, other: Difference) -> Difference:
        sums = [a + b for a, b in zip(self[:6], other[:6], strict=True)]
        return Difference(*sums, float(np.fmax(self.largest, other.largest)))

    def figures(self) -> dict[str, float]:
        """Change as a share of the first's norm, largest change, cosine, share changed.

        The share is infinite where the first is 0; the cosine of zeros is 1.
        """
        share = math.inf if self.moved else 0.0
        norms = math.sqrt(self.first) * math.sqrt(self.second)
        return {
            "share": math.sqrt(self.moved / self.first) if self.first else share,
            "largest": self.largest,
            "cosine": self.product / norms if norms else float(not self.moved),
            "changed": self.changed / max(1, self.size),
        }


def units(name: str, leaf: Any) -> list[tuple[int | None, tuple[int, ...]]]:
    """(layer or None, index along the first axes) of the parts of a leaf.

    Leaves below `layers` have one layer after the other on their first axis.
    """
    if "layers" in name.split("/") and len(leaf.shape):
        return [(layer, (layer,)) for layer in range(leaf.shape[0])]
    return [(None, ())]


def summarise(leaf: Any, index: tuple[int, ...] = ()) -> Summary:
    """The summary of a leaf that can be sliced, or of a part of it."""
    sums = Summary()
    for box in lazy.boxes(leaf, PIECE_BYTES, index):
        flat = np.asarray(leaf[box]).reshape(-1)
        for start in range(0, flat.size, _BLOCK):
            x = flat[start : start + _BLOCK].astype(np.float64)
            size, x = x.size, x[np.isfinite(x)]
            bounds = (float(x.min()), float(x.max())) if x.size else ()
            zeros = x.size - np.count_nonzero(x)
            sums = sums.plus(
                Summary(size, x.size, zeros, float(x.sum()), float(x @ x), *bounds)
            )
    return sums


def compare(first: Any, second: Any, index: tuple[int, ...] = ()) -> Difference:
    """How a leaf that can be sliced, or a part of it, differs from one of its shape."""
    sums = Difference()
    guide = first if lazy.chunk_of(first) else second
    for box in lazy.boxes(guide, PIECE_BYTES, index):
        sides = [np.asarray(leaf[box]).reshape(-1) for leaf in (first, second)]
        for start in range(0, sides[0].size, _BLOCK):
            x, y = (side[start : start + _BLOCK].astype(np.float64) for side in sides)
            moved, same = y - x, (x == y) | (np.isnan(x) & np.isnan(y))
            squares = (float(v @ v) for v in (x, y, moved))
            largest = float(np.abs(moved).max(initial=0.0))
            changed = x.size - int(np.count_nonzero(same))
            part = Difference(x.size, changed, *squares, float(x @ y), largest)
            sums = sums.plus(part)
    return sums


def spectrum(
    name: str, first: Any, second: Any, index: tuple[int, ...] = ()
) -> list[np.ndarray]:
    """float64, descending: singular values of the change of each matrix in a part.

    A layer has one matrix [in, out], or one an expert; what is no matrix has none.
    """
    shape = first.shape[len(index) :]
    experts = [()]
    if "moe" in name.split("/") and len(shape) == 3:
        experts, shape = [(i,) for i in range(shape[0])], shape[1:]
    matrix = layout.matrix_shape(name, tuple(shape))
    if len(matrix) != 2:
        return []
    values = []
    for expert in experts:
        a, b = (np.asarray(x[(*index, *expert)], np.float32) for x in (first, second))
        values.append(singular_values((b - a).reshape(matrix)))
    return values


def singular_values(matrix: np.ndarray) -> np.ndarray:
    """float64, descending; those below 1e-7 of the largest are rounding, and are 0.

    From the eigenvalues of the smaller product with its transpose, several times faster
    than a decomposition of the matrix.
    """
    x = np.asarray(matrix, np.float64)
    squares = np.linalg.eigvalsh(x @ x.T if len(x) < len(x.T) else x.T @ x)[::-1]
    return np.sqrt(np.where(squares > 1e-14 * max(squares[0], 0.0), squares, 0.0))


def ranks(values: np.ndarray, rank: int) -> dict[str, float]:
    """What singular values say of a matrix's rank; all 0 of a change that is none.

    `energy` is the share of the first `rank` of the sum of squares, `stable_rank` is
    that sum over the largest square, and `entropy_rank` exp(H) of the values as shares
    of their sum (Roy and Vetterli, 2007).
    """
    total = float(values @ values)
    if not total:
        return {"energy": 0.0, "stable_rank": 0.0, "entropy_rank": 0.0}
    shares = values[values > 0] / values.sum()
    return {
        "energy": float(values[:rank] @ values[:rank]) / total,
        "stable_rank": total / float(values[0]) ** 2,
        "entropy_rank": float(np.exp(-(shares * np.log(shares)).sum())),
    }


def mismatches(first: Mapping[str, Any], second: Mapping[str, Any]) -> list[str]:
    """Lines for the leaves that one of two runs lacks, or has of another shape."""
    lines = []
    for name in {**first, **second}:
        a, b = first.get(name), second.get(name)
        if a is None or b is None:
            lines.append(f"{name}: only in the {'second' if a is None else 'first'}")
        elif tuple(a.shape) != tuple(b.shape):
            lines.append(f"{name}: {list(a.shape)} and {list(b.shape)}")
    return lines


class Part(NamedTuple):
    """How a layer of a leaf, or with the layer None all of it, differs from another.

    `ranks` is that of each of its matrices, where they were asked for.
    """

    layer: int | None
    difference: Difference
    ranks: list[dict[str, float]]

    def figures(self) -> dict[str, float]:
        """Those of the difference, and the means of those of its matrices."""
        means = {
            key: sum(x[key] for x in self.ranks) / len(self.ranks)
            for key in (self.ranks[0] if self.ranks else ())
        }
        return {**self.difference.figures(), **means}


def differences(
    first: Mapping[str, Any], second: Mapping[str, Any], rank: int | None = None
) -> Iterator[tuple[str, list[Part]]]:
    """Each leaf that both have, with a part for each layer and one for all of it.

    Args:
      first, second: `{path: leaf that is read when it is sliced}`.
      rank: of `ranks`; None computes no singular values.
    """
    for name, a in first.items():
        b = second.get(name)
        if b is None or tuple(a.shape) != tuple(b.shape):
            continue
        parts = []
        for layer, index in units(name, a):
            values = [] if rank is None else spectrum(name, a, b, index)
            figures = [ranks(x, rank) for x in values]
            parts.append(Part(layer, compare(a, b, index), figures))
        whole = functools.reduce(Difference.plus, (part.difference for part in parts))
        every = [figures for part in parts for figures in part.ranks]
        layers = parts if parts[0].layer is not None else []
        yield name, [*layers, Part(None, whole, every)]
