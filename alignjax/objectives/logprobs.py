# SPDX-License-Identifier: Apache-2.0
"""Log-probabilities of tokens: one primitive for training, evaluation, analysis."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from alignjax.losses import language_model
from alignjax.types import Model, Params, Sequences

# Logits of one chunk are [B, chunk, V] float32; this many positions of one row at once.
CHUNK = 128


def token_logps(
    model: Model, params: Params, sequences: Sequences, key=None, *, chunk: int = CHUNK
) -> tuple[jax.Array, jax.Array]:
    """Log-probability of each target, without ever holding the logits of all of them.

    Args:
      model: what to ask.
      params: its parameters.
      sequences: rows [B, T].
      key: turns dropout on.
      chunk: positions of each row whose logits exist at one time. The values and the
        gradients do not depend on it; T need not be a multiple of it.

    Returns:
      `(logp_BT, logz_BT)`, float32: the log-probability of each target in nats, and the
      log-normaliser of its logits.
    """
    x_BTD = model.hidden(params, sequences, key)

    @jax.checkpoint
    def chunk_logps(chunk):
        x_BCD, targets_BC = chunk
        return language_model.token_logp(model.unembed(params, x_BCD), targets_BC)

    B, T, _ = x_BTD.shape
    count = -(-T // chunk)
    if count == 1:
        return chunk_logps((x_BTD, sequences.targets))
    size = -(-T // count)  # as even as can be: the padding is less than `count`
    padding = count * size - T
    x_BTD = jnp.pad(x_BTD, ((0, 0), (0, padding), (0, 0)))
    targets_BT = jnp.pad(sequences.targets, ((0, 0), (0, padding)))
    split = lambda x: x.reshape(B, count, size, *x.shape[2:]).swapaxes(0, 1)
    logps = jax.lax.map(chunk_logps, (split(x_BTD), split(targets_BT)))
    join = lambda x: x.swapaxes(0, 1).reshape(B, count * size)[:, :T]
    return jax.tree.map(join, logps)
