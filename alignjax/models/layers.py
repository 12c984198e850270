# SPDX-License-Identifier: Apache-2.0
"""The layers that decoders are made of: projections, norms, rotary positions, MLPs.

Parameters are float32 and named by their axes where they are made; compute happens in
the dtype of the input, except for the statistics of norms and for rotations, which
are float32 throughout.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax


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


class Norm(nn.Module):
    """RMSNorm (arXiv:1910.07467) or LayerNorm (arXiv:1607.06450) over the last axis."""

    kind: str  # "rmsnorm" or "layernorm"
    epsilon: float = 1e-6
    axis: str | None = None  # name of the normalised axis

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        named = lambda init: nn.with_logical_partitioning(init, (self.axis,))
        y = x.astype(jnp.float32)
        if self.kind == "layernorm":
            y -= y.mean(-1, keepdims=True)
        y *= lax.rsqrt(jnp.square(y).mean(-1, keepdims=True) + self.epsilon)
        y *= self.param("scale", named(nn.initializers.ones), x.shape[-1:])
        if self.kind == "layernorm":
            y += self.param("bias", named(nn.initializers.zeros), x.shape[-1:])
        return y.astype(x.dtype)


class Scores(nn.Module):
    """Scalars of hidden states, one a head, float32 [B, T, heads] throughout.

    Initially as large as hidden states are per dimension (arXiv:1909.08593 section 2.1:
    a standard deviation of 1 / sqrt(D + 1)), and different from head to head, without
    which the heads of an ensemble would stay equal.
    """

    heads: int

    @nn.compact
    def __call__(self, x_BTD: jax.Array) -> jax.Array:
        D = x_BTD.shape[-1]
        initializer = nn.with_logical_partitioning(
            nn.initializers.normal((D + 1) ** -0.5), ("embed", None)
        )
        kernel = self.param("kernel", initializer, (D, self.heads))
        # Of next to no cost, and differences of scores are what is learned from.
        x_BTD = x_BTD.astype(jnp.float32)
        return jnp.matmul(x_BTD, kernel, precision="highest")


def rotations(positions_BT: jax.Array, head_dim: int, theta: float):
    """Cosines and sines of rotary positions, float32 [B, T, head_dim / 2]."""
    exponents = jnp.arange(0, head_dim, 2, dtype=jnp.float32) / head_dim
    angles = positions_BT[..., None].astype(jnp.float32) / theta**exponents
    return jnp.cos(angles), jnp.sin(angles)


def rotate(x_BTNH: jax.Array, cos_sin) -> jax.Array:
    """RoPE (arXiv:2104.09864 Eq. 34), pairing dimension i with i + H/2."""
    cos, sin = (table[..., None, :] for table in cos_sin)
    first, second = jnp.split(x_BTNH.astype(jnp.float32), 2, axis=-1)
    rotated = (first * cos - second * sin, second * cos + first * sin)
    return jnp.concatenate(rotated, axis=-1).astype(x_BTNH.dtype)


ACTIVATIONS: dict[str, tuple[Callable, bool]] = {  # name: (function, gated?)
    "swiglu": (jax.nn.silu, True),
    "geglu": (lambda x: jax.nn.gelu(x, approximate=True), True),
    "gelu": (lambda x: jax.nn.gelu(x, approximate=True), False),
}


class MLP(nn.Module):
    """The feed-forward layer, gated (arXiv:2002.05202 Eq. 5) or plain."""

    d_ff: int
    activation: str
    use_bias: bool
    std: float
    out_std: float
    lora: Lora | None = None

    @nn.compact
    def __call__(self, x_BTD: jax.Array) -> jax.Array:
        activation, gated = ACTIVATIONS[self.activation]
        project = lambda name: Projection(
            (self.d_ff,),
            ("embed", "mlp"),
            std=self.std,
            use_bias=self.use_bias,
            lora=self.lora,
            name=name,
        )
        h_BTF = activation(project("gate" if gated else "up")(x_BTD))
        if gated:
            h_BTF *= project("up")(x_BTD)
        return Projection(
            (x_BTD.shape[-1],),
            ("mlp", "embed"),
            std=self.out_std,
            use_bias=self.use_bias,
            lora=self.lora,
            name="down",
        )(h_BTF)
