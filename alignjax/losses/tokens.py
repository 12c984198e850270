# SPDX-License-Identifier: Apache-2.0
"""What losses want of each token: choices among tokens, and sums over the vocabulary.

They make the optional fields of `LogProbs`. Those of logits are of one position, so a
caller may go through time in chunks.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp


def collision(logits: jax.Array) -> jax.Array:
    """log sum_v p(v)^2, float32 [...], of logits [..., V]; for `LogProbs.collision`."""
    return jax.nn.logsumexp(2 * jax.nn.log_softmax(logits, axis=-1), axis=-1)


def reference_kl(policy_logits: jax.Array, reference_logits: jax.Array) -> jax.Array:
    """KL(reference || policy) at each position, float32 [...], of logits [..., V]."""
    policy = jax.nn.log_softmax(policy_logits, axis=-1)
    reference = jax.nn.log_softmax(reference_logits, axis=-1)
    return (jnp.exp(reference) * (reference - policy)).sum(-1)


def first(counts_B2T: jax.Array) -> jax.Array:
    """Which tokens `LogProbs.head` sums: the first m of each response, m the shorter.

    Args:
      counts_B2T: bool, true for the tokens of the responses.

    Returns:
      bool [B, 2, T].
    """
    counts_B2T = counts_B2T.astype(bool)
    rank_B2T = jnp.cumsum(counts_B2T, -1) - 1
    return counts_B2T & (rank_B2T < _shorter(counts_B2T))


def drawn(counts_B2T: jax.Array, key: jax.Array) -> jax.Array:
    """Which tokens `LogProbs.sample` sums: m drawn without replacement; as `first`."""
    return smallest(counts_B2T, jax.random.uniform(key, counts_B2T.shape))


def smallest(counts_B2T: jax.Array, order_B2T: jax.Array) -> jax.Array:
    """As `drawn`, of numbers drawn from [0, 1): the m smallest of each response's."""
    counts_B2T = counts_B2T.astype(bool)
    order_B2T = jnp.where(counts_B2T, order_B2T, 2.0)
    rank_B2T = jnp.argsort(jnp.argsort(order_B2T, axis=-1), axis=-1)
    return counts_B2T & (rank_B2T < _shorter(counts_B2T))


def _shorter(counts_B2T):
    return counts_B2T.sum(-1).min(-1)[..., None, None]
