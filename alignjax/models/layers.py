# SPDX-License-Identifier: Apache-2.0
"""The layers that decoders are made of: norms, MLPs, heads for scores, noise.

Parameters are float32 and named by their axes where they are made; compute happens in
the dtype of the input, except for norms, which are float32 throughout.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from alignjax.models import projection


def light(function: Callable) -> Callable:
    """`function` of arrays, of which the backward pass keeps the 16-bit inputs alone.

    It computes in float32, and a gradient of it would keep that, several times the size
    of what went in. Functions of float32 arrays are as they were.
    """
    recomputed = jax.checkpoint(function)

    @functools.wraps(function)
    def run(x, *others):
        return (recomputed if x.dtype.itemsize == 2 else function)(x, *others)

    return run


class Norm(nn.Module):
    """RMSNorm (arXiv:1910.07467) or LayerNorm (arXiv:1607.06450) over the last axis."""

    kind: str  # "rmsnorm" or "layernorm"
    epsilon: float = 1e-6
    axis: str | None = None  # name of the normalised axis
    offset: float = 0.0  # added to the scale, which is initially 1 with it

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        named = lambda init: nn.with_logical_partitioning(init, (self.axis,))
        initial = nn.initializers.constant(1.0 - self.offset)
        parameters = [self.param("scale", named(initial), x.shape[-1:])]
        if self.kind == "layernorm":
            zeros = named(nn.initializers.zeros)
            parameters.append(self.param("bias", zeros, x.shape[-1:]))
        return light(self._normalised)(x, *parameters)

    def _normalised(self, x, scale, bias=None):
        y = x.astype(jnp.float32)
        if self.kind == "layernorm":
            y -= y.mean(-1, keepdims=True)
        y *= lax.rsqrt(jnp.square(y).mean(-1, keepdims=True) + self.epsilon)
        y *= self.offset + scale if self.offset else scale
        return (y if bias is None else y + bias).astype(x.dtype)


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
        initializer = projection.normal((D + 1) ** -0.5, ("embed", None))
        kernel = self.param("kernel", initializer, (D, self.heads))
        # Costs next to nothing, and losses depend on differences of scores.
        x_BTD = x_BTD.astype(jnp.float32)
        return jnp.matmul(x_BTD, kernel, precision="highest")


ACTIVATIONS: dict[str, tuple[Callable, bool]] = {  # name: (function, gated?)
    "swiglu": (jax.nn.silu, True),
    "geglu": (lambda x: jax.nn.gelu(x, approximate=True), True),
    "geglu_exact": (lambda x: jax.nn.gelu(x, approximate=False), True),
    "gelu": (lambda x: jax.nn.gelu(x, approximate=True), False),
    "gelu_exact": (lambda x: jax.nn.gelu(x, approximate=False), False),
}


def activate(name: str, x: jax.Array, up: jax.Array | None = None) -> jax.Array:
    """The activation of x, times `up` where it is gated."""
    function = ACTIVATIONS[name][0]
    if up is None:
        return light(function)(x)
    return light(lambda x, up: function(x) * up)(x, up)


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
        gated = ACTIVATIONS[self.activation][1]
        make = functools.partial(
            projection.Projection, use_bias=self.use_bias, lora=self.lora
        )
        inner = functools.partial(make, (self.d_ff,), ("embed", "mlp"), std=self.std)
        names = ("gate", "up") if gated else ("up",)
        h_BTF = activate(self.activation, *(inner(name=name)(x_BTD) for name in names))
        down = make(x_BTD.shape[-1:], ("mlp", "embed"), std=self.out_std, name="down")
        return down(h_BTF)


def document_lengths(segment_ids_BT, positions_BT, branches_BT=None) -> jax.Array:
    """Tokens of the sequence that each token is part of, int32 [B, T].

    A sequence is a document, whatever else is packed into the row. A document that
    branches is as many sequences as it has branches, each with the beginning that they
    share; the beginning itself counts as part of the longest.
    """
    pairs = lambda x_BT: (x_BT[:, :, None], x_BT[:, None, :])  # queries, keys
    query, key = pairs(segment_ids_BT)
    same_BTT = query == key
    if branches_BT is not None:
        query, key = pairs(branches_BT)
        same_BTT &= (query == 0) | (key == 0) | (query == key)
    return jnp.where(same_BTT, positions_BT[:, None, :], -1).max(-1) + 1


def embedding_noise(key, alpha: float, lengths_BT, segment_ids_BT, D: int) -> jax.Array:
    """NEFTune (arXiv:2310.05914 Algorithm 1): noise on embeddings while training.

    Uniform in [-1, 1] times alpha / sqrt(L D), float32 [B, T, D]; 0 at padding. L are
    the `document_lengths`, as in the authors' code; the length of a padded row, which
    some implementations take, would make the noise depend on the rest of the batch.
    """
    noise_BTD = jax.random.uniform(key, (*lengths_BT.shape, D), minval=-1.0)
    scale_BT = alpha * jax.lax.rsqrt(lengths_BT * float(D))
    return noise_BTD * jnp.where(segment_ids_BT == 0, 0.0, scale_BT)[..., None]
