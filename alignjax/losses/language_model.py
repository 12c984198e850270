# SPDX-License-Identifier: Apache-2.0
"""Losses of next-token prediction: one value per token, never reduced."""

from __future__ import annotations

import jax
import jax.numpy as jnp


def token_logp(logits: jax.Array, targets: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Log-probability of each target, and the log-normaliser of its logits.

    Args:
      logits: float32 [..., V].
      targets: int32 [...].

    Returns:
      `(logp, logz)`, float32 [...], with logp = logits[target] - logz and
      logz = log sum exp logits.
    """
    logz = jax.nn.logsumexp(logits, axis=-1)
    picked = jnp.take_along_axis(logits, targets[..., None], axis=-1)[..., 0]
    return picked - logz, logz


def cross_entropy(logp: jax.Array) -> jax.Array:
    """-log p(target), in nats a token."""
    return -logp


def z_loss(logz: jax.Array) -> jax.Array:
    """log(Z)^2, which keeps logits from drifting; PaLM, arXiv:2204.02311 section 5."""
    return jnp.square(logz)


def dft(logp: jax.Array) -> jax.Array:
    """DFT, arXiv:2508.05629: -sg(p) log p, so that unlikely targets do not shout."""
    return -jax.lax.stop_gradient(jnp.exp(logp)) * logp
