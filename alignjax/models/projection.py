# SPDX-License-Identifier: Apache-2.0
"""The projections of a layer: a kernel of named axes, perhaps a bias and an adapter."""

from __future__ import annotations

import math
import re
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from alignjax.models import dora, quantized

# How a kernel may be given; see `quantized`.
_KERNELS = ("kernel", "kernel_bfloat16", "kernel_int8", "kernel_nf4", "kernel_absmax")


class Lora(NamedTuple):
    """Adapters of low rank (arXiv:2106.09685): x W + scale x A B.

    Attributes:
      rank: of the product of A and B.
      scale: alpha / rank, or alpha / sqrt(rank) (arXiv:2312.03732).
      targets: pattern of the projections that get one, by path: `layers/mlp/up`.
      dropout: on what A is multiplied with.
      dora: whether each output has a magnitude of its own; see `dora`.
    """

    rank: int
    scale: float
    targets: str
    dropout: float
    dora: bool = False


class Projection(nn.Module):
    """Contracts the last `contract` axes of x with a kernel of named axes.

    The kernel is made in float32. One that is not trained may be given in fewer bits.

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
        # As two matrices: XLA:CPU is slower at the gradient of the kernel where that is
        # a sum over two axes of x, batch and time.
        x = x.reshape(math.prod(outer), -1)
        parts = self._kernel(inputs)
        y = quantized.product(x, parts)
        if self._has_adapter():
            y = self._adapted(x, y, parts, inputs)
        x = y.reshape(*outer, *self.features)
        if self.use_bias:
            names = self.axes[self.contract :]
            zeros = nn.with_logical_partitioning(nn.initializers.zeros, names)
            x += self.param("bias", zeros, self.features).astype(x.dtype)
        return x

    def _kernel(self, inputs: tuple[int, ...]) -> dict[str, jax.Array]:
        """The parts of the kernel, as many as it is given in."""
        given = [name for name in _KERNELS if self.has_variable("params", name)]
        if given and given != ["kernel"]:
            return {name: self.get_variable("params", name) for name in given}
        initializer = nn.with_logical_partitioning(
            nn.initializers.normal(self.std), self.axes
        )
        return {"kernel": self.param("kernel", initializer, (*inputs, *self.features))}

    def _has_adapter(self) -> bool:
        if self.lora is None:
            return False
        if not self.is_initializing():
            return self.has_variable("params", "lora_a")
        return re.fullmatch(self.lora.targets, "/".join(self.path)) is not None

    def _adapted(
        self, x: jax.Array, y: jax.Array, parts: dict, inputs: tuple[int, ...]
    ) -> jax.Array:
        """y + scale x A B of matrices x and y = x W, stretched where it is DoRA.

        B begins as zeros, and so does the product.
        """
        rank, split, scale = self.lora.rank, self.contract, self.lora.scale
        named = nn.with_logical_partitioning
        normal = nn.initializers.normal(math.prod(inputs) ** -0.5)
        a_axes, b_axes = (*self.axes[:split], None), (None, *self.axes[split:])
        a = self.param("lora_a", named(normal, a_axes), (*inputs, rank))
        zeros = nn.initializers.zeros
        b = self.param("lora_b", named(zeros, b_axes), (rank, *self.features))
        a, b = a.reshape(-1, rank), b.reshape(rank, -1)
        x = nn.Dropout(self.lora.dropout, deterministic=False)(x)
        y += scale * ((x @ a.astype(x.dtype)) @ b.astype(x.dtype))
        if not self.lora.dora:
            return y
        m = self.param("lora_m", named(zeros, self.axes[split:]), self.features)
        kernel = quantized.widen(parts).reshape(x.shape[-1], -1)
        stretch = dora.stretch(kernel, a, b, m.reshape(-1), scale)
        # Rounded once: in bfloat16 the stretch itself would be off by up to a 256th.
        return (y.astype(jnp.float32) * stretch).astype(y.dtype)
