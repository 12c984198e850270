# SPDX-License-Identifier: Apache-2.0
"""The projections of a layer: a kernel of named axes, perhaps a bias and an adapter."""

from __future__ import annotations

import math
import re
from typing import NamedTuple

import flax.linen as nn
import jax


class Lora(NamedTuple):
    """Adapters of low rank (arXiv:2106.09685): x W + scale x A B.

    Attributes:
      rank: of the product of A and B.
      scale: alpha / rank, or alpha / sqrt(rank) (arXiv:2312.03732).
      targets: pattern of the projections that get one, by path: `layers/mlp/up`.
      dropout: on what A is multiplied with.
    """

    rank: int
    scale: float
    targets: str
    dropout: float


class Projection(nn.Module):
    """Contracts the last `contract` axes of x with a kernel of named axes.

    Attributes:
      features: sizes of the output's axes.
      axes: names of the kernel's axes, inputs first.
      contract: how many trailing axes of x are summed over.
      std: standard deviation of the kernel at initialisation.
      use_bias: whether to add a bias, initially zero.
      lora: what an adapter is like, if the projection is one of its targets. It is made
        with the parameters, and left out where they have none.
    """

    features: tuple[int, ...]
    axes: tuple[str, ...]
    contract: int = 1
    std: float = 0.02
    use_bias: bool = False
    lora: Lora | None = None

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        split = x.ndim - self.contract
        outer, inputs = x.shape[:split], x.shape[split:]
        initializer = nn.with_logical_partitioning(
            nn.initializers.normal(self.std), self.axes
        )
        kernel = self.param("kernel", initializer, (*inputs, *self.features))
        # As two matrices: XLA:CPU is slower at the gradient of the kernel where that is
        # a sum over two axes of x, batch and time.
        flat = lambda a, rows: a.reshape(rows, -1)
        x = flat(x, math.prod(outer))
        y = x @ flat(kernel.astype(x.dtype), math.prod(inputs))
        if self._has_adapter():
            y += self._adapter(x, inputs)
        x = y.reshape(*outer, *self.features)
        if self.use_bias:
            names = self.axes[self.contract :]
            zeros = nn.with_logical_partitioning(nn.initializers.zeros, names)
            x += self.param("bias", zeros, self.features).astype(x.dtype)
        return x

    def _has_adapter(self) -> bool:
        if self.lora is None:
            return False
        if not self.is_initializing():
            return self.has_variable("params", "lora_a")
        return re.fullmatch(self.lora.targets, "/".join(self.path)) is not None

    def _adapter(self, x: jax.Array, inputs: tuple[int, ...]) -> jax.Array:
        """scale x A B of a matrix x. B begins as zeros, and so does the product."""
        rank, split = self.lora.rank, self.contract
        named = nn.with_logical_partitioning
        normal = nn.initializers.normal(math.prod(inputs) ** -0.5)
        a_axes, b_axes = (*self.axes[:split], None), (None, *self.axes[split:])
        a = self.param("lora_a", named(normal, a_axes), (*inputs, rank))
        zeros = nn.initializers.zeros
        b = self.param("lora_b", named(zeros, b_axes), (rank, *self.features))
        a, b = (p.astype(x.dtype) for p in (a.reshape(-1, rank), b.reshape(rank, -1)))
        x = nn.Dropout(self.lora.dropout, deterministic=False)(x)
        return self.lora.scale * ((x @ a) @ b)
