# SPDX-License-Identifier: Apache-2.0
"""Next-token prediction: losses per token, never reduced, and statistics of logits.

The functions from `collision` on compute the optional fields of `LogProbs`. Those of
logits are of one position, so a caller may go through time in chunks.
"""

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
