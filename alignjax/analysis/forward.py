# SPDX-License-Identifier: Apache-2.0
"""Checked token ids as rows, and what a model computes of them, compiled."""

from __future__ import annotations

import functools

import jax
import numpy as np

from alignjax import errors, types
from alignjax.analysis import placement


def rows(model: types.Model, tokens) -> types.Sequences:
    """Token ids [T] or [B, T] as rows of one document each; see `Sequences.of`.

    Under a mesh there are rows of zeros behind them, so that it divides their number.

    Raises:
      ConfigError: rows of different lengths, ids outside the vocabulary, which an
        embedding would clip in silence, or more inputs than the model's context.
    """
    try:
        tokens = np.asarray(tokens)
    except ValueError as error:
        raise errors.ConfigError(
            "tokens: rows of different lengths; give one row at a time"
        ) from error
    if tokens.ndim not in (1, 2):
        raise errors.ConfigError(f"tokens: shape {tokens.shape} is not [T] or [B, T]")
    if not np.issubdtype(tokens.dtype, np.integer):
        raise errors.ConfigError(f"tokens: {tokens.dtype}, not integers")
    c, T = model.config, tokens.shape[-1]
    if tokens.size and (tokens.min() < 0 or tokens.max() >= c.vocab_size):
        raise errors.ConfigError(
            f"tokens: ids from {tokens.min()} to {tokens.max()} in a vocabulary of "
            f"{c.vocab_size}"
        )
    if not 0 < T <= c.max_length:
        raise errors.ConfigError(
            f"tokens: {T} tokens, where the model takes 1 to {c.max_length}"
        )
    tokens_BT = np.atleast_2d(tokens)
    more = placement.rows(len(tokens_BT)) - len(tokens_BT)
    return types.Sequences.of(np.pad(tokens_BT, ((0, more), (0, 0))), last=True)


@functools.partial(jax.jit, static_argnums=0)
def logits(model: types.Model, params, rows: types.Sequences) -> jax.Array:
    """float32 [B, T, V]."""
    return model.unembed(params, model.hidden(params, rows))


@functools.partial(jax.jit, static_argnums=(0, 3))
def hidden(model: types.Model, params, rows, every_layer: bool) -> jax.Array:
    """[B, T, D], or of every layer [L + 1, B, T, D]."""
    return model.hidden(params, rows, every_layer=every_layer)


@functools.partial(jax.jit, static_argnums=0)
def unembed(model: types.Model, params, x_BTD) -> jax.Array:
    """float32 [B, T, V] of hidden states [B, T, D] before the last norm."""
    return model.unembed(params, model.norm(params, x_BTD))
