# SPDX-License-Identifier: Apache-2.0
"""The layers that decoders are made of: norms, MLPs, heads for scores.

Parameters are float32 and named by their axes where they are made; compute happens in
the dtype of the input, except for norms, which are float32 throughout.
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
    offset: float = 0.0  # added to the scale, which is initially 1 with it

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        named = lambda init: nn.with_logical_partitioning(init, (self.axis,))
        y = x.astype(jnp.float32)
        if self.kind == "layernorm":
            y -= y.mean(-1, keepdims=True)
        y *= lax.rsqrt(jnp.square(y).mean(-1, keepdims=True) + self.epsilon)
        initial = nn.initializers.constant(1.0 - self.offset)
        scale = self.param("scale", named(initial), x.shape[-1:])
        y *= self.offset + scale if self.offset else scale
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


ACTIVATIONS: dict[str, tuple[Callable, bool]] = {  # name: (function, gated?)
    "swiglu": (jax.nn.silu, True),
    "geglu": (lambda x: jax.nn.gelu(x, approximate=True), True),
    "geglu_exact": (lambda x: jax.nn.gelu(x, approximate=False), True),
    "gelu": (lambda x: jax.nn.gelu(x, approximate=True), False),
    "gelu_exact": (lambda x: jax.nn.gelu(x, approximate=False), False),
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
