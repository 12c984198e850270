# SPDX-License-Identifier: Apache-2.0
"""Next-token prediction: losses per token, never reduced."""

from __future__ import annotations

import jax
import jax.numpy as jnp


def cross_entropy(logp: jax.Array) -> jax.Array:
    """-log p(target), in nats a token."""
    return -logp


def z_loss(logz: jax.Array) -> jax.Array:
    """log(Z)^2, which keeps logits from drifting; PaLM, arXiv:2204.02311 section 5."""
    return jnp.square(logz)


def dft(logp: jax.Array) -> jax.Array:
    """DFT, arXiv:2508.05629: -sg(p) log p, so unlikely targets weigh little."""
    return -jax.lax.stop_gradient(jnp.exp(logp)) * logp
