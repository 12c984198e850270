# SPDX-License-Identifier: Apache-2.0
"""Sums of the parameters of several models, computed where they are sliced.

Models are `{path: leaf that is read when it is sliced}` with equal shapes. Elements are
summed in float64 and rounded once, to the dtype that a leaf has in all of them, or else
to float32. So an average of equal models is that model, bit for bit.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from alignjax.analysis import leaves
from alignjax.storage import lazy

Leaves = Mapping[str, Any]
_BLOCK = 2**20  # elements that are in float64 at a time
_PARALLEL = 1e-6  # sine of an angle below which an arc is its chord
_ROUNDING = 1e-12  # of a weight that is a sum


def average(models: Sequence[Leaves], weights: Sequence[float]) -> dict[str, Any]:
    """The mean with weights that are divided by their sum (arXiv:2203.05482)."""
    shares = np.asarray(weights, np.float64) / np.sum(weights)
    return _linear(models, shares.tolist())


def add(
    base: Leaves, models: Sequence[Leaves], scales: Sequence[float], onto: Leaves
) -> dict[str, Any]:
    """onto + sum of scale x (model - base): task vectors (arXiv:2212.04089)."""
    if onto is base:
        return _linear([base, *models], [1 - sum(scales), *scales])
    return _linear([onto, base, *models], [1.0, -sum(scales), *scales])


def slerp(first: Leaves, second: Leaves, at: float) -> dict[str, Any]:
    """On the arc from the first, at 0, to the second, at 1; layer by layer of a leaf.

    The angle is between the directions of both, and each keeps its norm: sin((1 - t) w)
    / sin(w) of the first and sin(t w) / sin(w) of the second (Shoemake, 1985). Where
    they are parallel, opposite, or zero it is their weighted mean.
    """

    def weights(name: str) -> Callable[[int | None], Sequence[float]]:
        of_layer = {}

        def of(layer: int | None) -> Sequence[float]:
            if layer not in of_layer:
                index = () if layer is None else (layer,)
                difference = leaves.compare(first[name], second[name], index)
                of_layer[layer] = _arc(difference, at)
            return of_layer[layer]

        return of

    return {
        name: _sum_of(name, [first[name], second[name]], weights(name))
        for name in first
    }


def _arc(ends: leaves.Difference, at: float) -> tuple[float, float]:
    norms = np.sqrt(ends.first) * np.sqrt(ends.second)
    angle = np.arccos(np.clip(ends.product / norms, -1, 1)) if norms else 0.0
    if at in (0, 1) or not np.sin(angle) >= _PARALLEL:
        return 1 - at, at
    return tuple(np.sin(np.array([1 - at, at]) * angle) / np.sin(angle))


def ties(
    base: Leaves,
    models: Sequence[Leaves],
    scales: Sequence[float],
    onto: Leaves,
    density: float,
) -> dict[str, Any]:
    """Task vectors without what interferes: TIES (arXiv:2306.01708 Algorithm 1).

    Of each vector the `density` largest elements by magnitude stay, times its scale;
    the sign of their sum is elected, and those that have it are averaged. By layer of a
    leaf, where the paper takes the largest of a whole model, so that a layer will do.
    """

    def change(name: str, index: tuple[int, ...], vectors: list[np.ndarray]):
        largest = [
            s * trimmed(x, density) for s, x in zip(scales, vectors, strict=True)
        ]
        return elected(largest)

    return _by_vectors(base, models, onto, change)


def dare(
    base: Leaves,
    models: Sequence[Leaves],
    scales: Sequence[float],
    onto: Leaves,
    drop: float,
    seed: int,
) -> dict[str, Any]:
    """Task vectors thinned at random: DARE (arXiv:2311.03099 section 3).

    Each element is dropped with probability `drop`, or else divided by 1 - drop, so
    that the expectation is that of `add`. The mask follows from the seed, the leaf, the
    layer and the place of the model.
    """

    def change(name: str, index: tuple[int, ...], vectors: list[np.ndarray]):
        total = 0.0
        for i, (scale, x) in enumerate(zip(scales, vectors, strict=True)):
            key = [seed, zlib.crc32(name.encode()), *index, i]
            total = total + scale * thinned(x, drop, np.random.default_rng(key))
        return total

    return _by_vectors(base, models, onto, change)


def trimmed(vector: np.ndarray, density: float) -> np.ndarray:
    """The share `density` of elements with the largest magnitudes, and zeros."""
    flat = np.abs(vector).reshape(-1)
    count = int(np.ceil(density * flat.size))
    if count >= flat.size:
        return vector
    least = np.partition(flat, flat.size - count)[flat.size - count]
    return np.where(np.abs(vector) >= least, vector, 0.0)


def elected(vectors: Sequence[np.ndarray]) -> np.ndarray:
    """The mean of those elements that have the sign of their sum."""
    sign = np.sign(sum(vectors))
    agree = [(np.sign(x) == sign) & (x != 0) for x in vectors]
    total = sum(np.where(a, x, 0.0) for a, x in zip(agree, vectors, strict=True))
    return total / np.maximum(1, sum(a.astype(np.int64) for a in agree))


def thinned(vector: np.ndarray, drop: float, rng: np.random.Generator) -> np.ndarray:
    """Each element with probability 1 - drop, divided by it, or else 0."""
    return np.where(rng.random(vector.shape) >= drop, vector / (1 - drop), 0.0)


def _linear(models: Sequence[Leaves], weights: Sequence[float]) -> dict[str, Any]:
    return {
        name: _sum_of(name, [model[name] for model in models], lambda layer: weights)
        for name in models[0]
    }


def _sum_of(
    name: str, parents: Sequence[Any], weights: Callable[[int | None], Sequence[float]]
) -> lazy.LazyArray:
    """A leaf whose layers, or all of it, are sums of those of its parents."""
    dtype, shape = _dtype(parents), parents[0].shape
    stacked = leaves.units(name, parents[0])[0][0] is not None

    def read(index) -> np.ndarray:
        if not stacked:
            return _sum([x[index] for x in parents], weights(None), dtype)
        first, rest = index[0], index[1:]
        layer = lambda i: _sum([x[(i, *rest)] for x in parents], weights(i), dtype)
        if not isinstance(first, slice):
            return layer(range(shape[0])[first])
        return np.stack([layer(i) for i in range(shape[0])[first]])

    return lazy.LazyArray(shape, dtype, read)


def _sum(parts: Sequence[Any], weights: Sequence[float], dtype) -> np.ndarray:
    """The weighted sum, rounded once. What has no weight is left out, NaN or not."""
    arrays = [np.asarray(x) for x in parts]
    terms = [(w, x) for w, x in zip(weights, arrays, strict=True) if abs(w) > _ROUNDING]
    out = np.zeros(arrays[0].shape, dtype)
    flat, terms = out.reshape(-1), [(w, x.reshape(-1)) for w, x in terms]
    for start in range(0, flat.size, _BLOCK):
        total = None
        for w, x in terms:
            term = x[start : start + _BLOCK].astype(np.float64) * w
            total = term if total is None else total + term
        if total is not None:
            flat[start : start + _BLOCK] = total.astype(dtype)
    return out


def _by_vectors(
    base: Leaves, models: Sequence[Leaves], onto: Leaves, change: Callable
) -> dict[str, Any]:
    """onto + change(name, index of the layer, float64 task vectors), by layer."""

    def leaf(name: str) -> lazy.LazyArray:
        parents = [onto[name], base[name], *(model[name] for model in models)]
        dtype, shape, last = _dtype(parents), parents[0].shape, {}
        stacked = leaves.units(name, parents[0])[0][0] is not None

        def part(index: tuple[int, ...]) -> np.ndarray:
            if index not in last:
                last.clear()
                start, zero, *others = (x[index].astype(np.float64) for x in parents)
                moved = change(name, index, [x - zero for x in others])
                last[index] = (start + moved).astype(dtype)
            return last[index]

        def read(index) -> np.ndarray:
            if not stacked:
                return part(())[index]
            first, rest = index[0], index[1:]
            if not isinstance(first, slice):
                return part((range(shape[0])[first],))[rest]
            return np.stack([part((i,))[rest] for i in range(shape[0])[first]])

        return lazy.LazyArray(shape, dtype, read)

    return {name: leaf(name) for name in base}


def _dtype(parents: Sequence[Any]) -> np.dtype:
    kinds = {np.dtype(x.dtype) for x in parents}
    return kinds.pop() if len(kinds) == 1 else np.dtype(np.float32)
