# SPDX-License-Identifier: Apache-2.0
"""Adapters of low rank from what training changed in kernels, by singular values.

The change of a kernel, W - W0 in float32, is cut to its first singular values, and
A = U sqrt(S), B = sqrt(S) V^T are its adapter; the factor of adapters is 1 then. No
product of that rank is nearer (Eckart and Young, 1936).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from alignjax import models, trees
from alignjax.models import decoder

EXACT = 512  # of a smaller side, up to which singular values are computed exactly
_MORE = 10  # columns that are drawn beyond the rank
_ITERATIONS = 2


class Factors(NamedTuple):
    """An adapter [I, R], [R, O] of a change [I, O].

    `energy` is the sum of squares that it has, of `total`.
    """

    a: np.ndarray
    b: np.ndarray
    energy: float
    total: float


def factors(change: np.ndarray, rank: int, *, exact: bool | None = None) -> Factors:
    """The best adapter of a rank.

    Args:
      change: float32 [I, O].
      exact: whether by a whole decomposition, or by a random range with power
        iterations (arXiv:0909.4061 Algorithm 4.4), which is seeded; None leaves it to
        the size.
    """
    x = np.asarray(change, np.float64)
    exact = min(x.shape) <= EXACT if exact is None else exact
    if exact:
        u, s, vt = np.linalg.svd(x, full_matrices=False)
    else:
        draws = np.random.default_rng(0).normal(size=(x.shape[1], rank + _MORE))
        q = np.linalg.qr(x @ draws)[0]
        for _ in range(_ITERATIONS):
            q = np.linalg.qr(x @ np.linalg.qr(x.T @ q)[0])[0]
        u, s, vt = np.linalg.svd(q.T @ x, full_matrices=False)
        u = q @ u
    root = np.sqrt(s[:rank])
    a, b = u[:, :rank] * root, root[:, None] * vt[:rank]
    energy = float(s[:rank] @ s[:rank])
    short = rank - len(root)  # of a matrix that has no such rank
    a, b = np.pad(a, ((0, 0), (0, short))), np.pad(b, ((0, short), (0, 0)))
    return Factors(
        *(f.astype(np.float32) for f in (a, b)), energy, float((x * x).sum())
    )


class Adapters(NamedTuple):
    """Adapters by path, the fields of `model` that go with them, and what they keep.

    `energy` is, of each kernel, the share of the sum of squares of its change.
    """

    leaves: dict[str, np.ndarray]
    fields: dict[str, Any]
    energy: dict[str, float]


def extract(
    leaves: Mapping[str, Any],
    base: Mapping[str, Any],
    section: Mapping[str, Any],
    vocab_size: int,
    rank: int,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Adapters:
    """Adapters that lead from a base to a model of the same shapes.

    Args:
      leaves, base: `{path: leaf that is read when it is sliced}`, without adapters.
      section: `model` of the base's config.
      progress: called with (layers done, layers in all).

    Raises:
      ConfigError: a rank or a model that cannot have adapters.
    """
    fields = {"lora_rank": rank, "lora_alpha": float(rank), "lora_targets": ".*"}
    fields |= {"lora_rslora": False, "lora_dora": False, "base": "float32"}
    model = models.build({**section, **fields}, vocab_size)
    shapes = {
        n: x.shape for n, x in trees.named_leaves(decoder.abstract(model)).items()
    }
    adapters, energy, done = {}, {}, 0
    paths = model.config.projections
    for path in paths:
        kernel, start = leaves[f"{path}/kernel"], base[f"{path}/kernel"]
        a, b = (np.empty(shapes[f"{path}/lora_{x}"], np.float32) for x in "ab")
        sums = np.zeros(2)
        for i in range(kernel.shape[0]):
            change = np.float32(kernel[i]) - np.float32(start[i])
            one = factors(change.reshape(math.prod(a.shape[1:-1]), -1), rank)
            a[i], b[i] = one.a.reshape(a.shape[1:]), one.b.reshape(b.shape[1:])
            sums += one.energy, one.total
            done += 1
            progress(done, len(paths) * kernel.shape[0])
        adapters |= {f"{path}/lora_a": a, f"{path}/lora_b": b}
        energy[path] = float(sums[0] / sums[1]) if sums[1] else 1.0
    return Adapters(adapters, fields, energy)
