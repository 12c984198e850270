# SPDX-License-Identifier: Apache-2.0
"""The layers that decoders are made of: norms, rotary positions, MLPs.

Parameters are float32 and named by their axes where they are made; compute happens in
the dtype of the input, except for the statistics of norms and for rotations, which
are float32 throughout.
"""

from __future__ import annotations

from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from alignjax.models import projection


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
    lora: projection.Lora | None = None

    @nn.compact
    def __call__(self, x_BTD: jax.Array) -> jax.Array:
        activation, gated = ACTIVATIONS[self.activation]
        project = lambda name: projection.Projection(
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
        return projection.Projection(
            (x_BTD.shape[-1],),
            ("mlp", "embed"),
            std=self.out_std,
            use_bias=self.use_bias,
            lora=self.lora,
            name="down",
        )(h_BTF)
