# SPDX-License-Identifier: Apache-2.0
"""The projections of a layer: a kernel of named axes, perhaps a bias and an adapter.

Adapters are LoRA's (arXiv:2106.09685), and perhaps DoRA's (arXiv:2402.09353): the
magnitude of each output apart from its direction. Its Eq. 5 is
W' = m (W + s A B) / |W + s A B|, norms over the inputs of each output, and m begins as
|W|. What is learned here is m - |W|, which begins as zero: then the factor of W is
exactly 1 at first, however a device sums, and no optimizer without weight decay can
tell the difference.
"""

from __future__ import annotations

import math
import re
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from alignjax.models import quantized

# A kernel, or its parts in fewer bits; see `quantized`.
_KERNELS = ("kernel", "kernel_bfloat16", "kernel_int8", "kernel_nf4", "kernel_absmax")


def normal(std: float, axes: tuple[str | None, ...]):
    """An initializer of a parameter with names for its axes."""
    return nn.with_logical_partitioning(nn.initializers.normal(std), axes)


class Lora(NamedTuple):
    """Adapters of low rank (arXiv:2106.09685): x W + scale x A B.

    Attributes:
      rank: of the product of A and B.
      scale: alpha / rank, or alpha / sqrt(rank) (arXiv:2312.03732).
      targets: pattern of the projections that get one, by path: `layers/mlp/up`.
      dropout: rate on the input of A.
      dora: whether each output has a magnitude of its own.
    """

    rank: int
    scale: float
    targets: str
    dropout: float
    dora: bool = False


class Projection(nn.Module):
    """Contracts the last `contract` axes of x with a kernel of named axes.

    The kernel is made in float32. One that is not trained may come in fewer bits.

    Attributes:
      features: sizes of the output's axes.
      axes: names of the kernel's axes, inputs first.
      contract: the number of trailing axes of x to sum over.
      std: standard deviation of the kernel at initialisation.
      use_bias: whether to add a bias, initially zero.
      lora: of the adapter, if the projection is one of its targets. It is made with the
        parameters, and left out where they have none.
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
        """The kernel, or its parts in fewer bits, by name."""
        names = [name for name in _KERNELS if self.has_variable("params", name)]
        if names and names != ["kernel"]:
            return {name: self.get_variable("params", name) for name in names}
        shape = (*inputs, *self.features)
        return {"kernel": self.param("kernel", normal(self.std, self.axes), shape)}

    def _has_adapter(self) -> bool:
        if self.lora is None:
            return False
        if not self.is_initializing():
            return self.has_variable("params", "lora_a")
        return re.fullmatch(self.lora.targets, "/".join(self.path)) is not None

    def _adapted(
        self, x: jax.Array, y: jax.Array, parts: dict, inputs: tuple[int, ...]
    ) -> jax.Array:
        """y + scale x A B of matrices x and y = x W, times the factor of DoRA.

        B begins as zeros, and so does the product.
        """
        rank, split, scale = self.lora.rank, self.contract, self.lora.scale
        zeros = lambda axes: nn.with_logical_partitioning(nn.initializers.zeros, axes)
        a_axes, out_axes = (*self.axes[:split], None), self.axes[split:]
        random = normal(math.prod(inputs) ** -0.5, a_axes)
        a = self.param("lora_a", random, (*inputs, rank))
        b = self.param("lora_b", zeros((None, *out_axes)), (rank, *self.features))
        a, b = a.reshape(-1, rank), b.reshape(rank, -1)
        x = nn.Dropout(self.lora.dropout, deterministic=False)(x)
        y += scale * ((x @ a.astype(x.dtype)) @ b.astype(x.dtype))
        if not self.lora.dora:
            return y
        m = self.param("lora_m", zeros(out_axes), self.features)
        kernel = quantized.widen(parts).reshape(x.shape[-1], -1)
        factor = dora_factor(kernel, a, b, m.reshape(-1), scale)
        # Rounded once: in bfloat16 the factor itself would be off by up to a 256th.
        return (y.astype(jnp.float32) * factor).astype(y.dtype)


def dora_factor(
    kernel_IO: jax.Array, a_IR: jax.Array, b_RO: jax.Array, m_O: jax.Array, scale: float
) -> jax.Array:
    """float32 [O], m' / |W + s A B| where m' = |W| + m_O, of float32 arrays.

    The norm counts as constant in the backward pass, as in section 4.3; a gradient goes
    to `m_O` alone. The sum W + s A B is not made: its squared norm is that of W times
    1 + e, and e follows from A^T W and A^T A. A norm of 0 counts as 1.
    """
    kernel_IO, a_IR, b_RO = lax.stop_gradient((kernel_IO, a_IR, b_RO))
    norm_O = jnp.sqrt(jnp.square(kernel_IO.astype(jnp.float32)).sum(0))
    norm_O = jnp.where(norm_O == 0, 1.0, norm_O)
    dot = lambda x, y: jnp.matmul(x, y, precision="highest")
    mixed_O = (b_RO * dot(a_IR.T, kernel_IO)).sum(0)
    square_O = (b_RO * dot(dot(a_IR.T, a_IR), b_RO)).sum(0)
    e_O = (2 * scale * mixed_O + scale**2 * square_O) / jnp.square(norm_O)
    # Only rounding could make it less, where adapters undo all of W.
    share_O = jnp.maximum(1 + e_O, jnp.finfo(jnp.float32).eps)
    return (1 + m_O / norm_O) / jnp.sqrt(share_O)
