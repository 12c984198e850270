# SPDX-License-Identifier: Apache-2.0
"""Rows of tokens put to a model: the programs behind `Run.logits` and `logprobs`."""

from __future__ import annotations

import functools

import jax
import numpy as np

from alignjax import errors, types


def array(tokens) -> np.ndarray:
    """Tokens, [T] or [B, T]. Raises ConfigError where they are neither."""
    try:
        found = np.asarray(tokens)
    except ValueError as error:
        raise errors.ConfigError(
            "tokens: rows of different lengths; ask for one row at a time"
        ) from error
    if found.ndim not in (1, 2):
        raise errors.ConfigError(f"tokens: shape {found.shape} is not [T] or [B, T]")
    return found


def rows(model: types.Model, tokens_BT: np.ndarray) -> types.Sequences:
    """Each row one document, whose tokens are all inputs.

    Raises:
      ConfigError: ids outside the vocabulary, or more than the model's context.
    """
    tokens_BT = checked(model, tokens_BT)
    T = tokens_BT.shape[1]
    limit = model.config.max_length
    if not 0 < T <= limit:
        raise errors.ConfigError(
            f"tokens: {T} tokens, where the model takes 1 to {limit}"
        )
    return types.Sequences.of(tokens_BT, last=True)


def checked(model: types.Model, tokens: np.ndarray) -> np.ndarray:
    """As int32; an embedding would take an id outside of it for another, silently."""
    size = model.config.vocab_size
    if not np.issubdtype(tokens.dtype, np.integer):
        raise errors.ConfigError(f"tokens: {tokens.dtype}, not integers")
    if tokens.size and (tokens.min() < 0 or tokens.max() >= size):
        raise errors.ConfigError(
            f"tokens: ids from {tokens.min()} to {tokens.max()} in a vocabulary of "
            f"{size}"
        )
    return tokens.astype(np.int32)


@functools.lru_cache(maxsize=4)
def logits(model: types.Model):
    """A compiled (params, rows) -> float32 [B, T, V]."""
    return jax.jit(lambda p, rows: model.unembed(p, model.hidden(p, rows)))


@functools.lru_cache(maxsize=4)
def logprobs(model: types.Model):
    """A compiled (params, rows) -> float32 [B, T], of the rows' targets."""
    from alignjax.objectives import logprobs

    return jax.jit(lambda p, rows: logprobs.token_logps(model, p, rows)[0])
