# SPDX-License-Identifier: Apache-2.0
"""Log-probabilities, entropy and divergence of models on given continuations."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from alignjax.objectives import logprobs
from alignjax.types import Model, Params, Sequences

# Rows of one program; lengths are padded to multiples of `STRIDE`.
ROWS, STRIDE = 32, 64


class Continuation(NamedTuple):
    """Tokens to be measured, `ids`, and the `context` before them; neither is empty."""

    context: Sequence[int]
    ids: Sequence[int]


class Likelihoods(NamedTuple):
    """Sums over each continuation's tokens, in nats, float64 [rows].

    Attributes:
      logp: log p(ids | context).
      reference: the same under the reference.
      entropy: of the model's distribution at each token.
      kl: KL(model || reference) at each token, over the whole vocabulary. Over
        responses that the model drew its mean estimates the same divergence as
        `logp - reference` does, with less variance (arXiv:2504.10637).
      length: the number of tokens.
    """

    logp: np.ndarray
    reference: np.ndarray
    entropy: np.ndarray
    kl: np.ndarray
    length: np.ndarray


def measure(
    model: Model,
    params: Params,
    rows: Sequence[Continuation],
    reference: Params | None = None,
    *,
    progress: Callable[[int], None] = lambda done: None,
) -> Likelihoods:
    """Teacher forcing of every row, under the model and under the reference.

    Args:
      model: of `params`, and of the reference's, which have the same shapes.
      params: parameters of the model to be measured.
      rows: at least one; none longer than the model's context.
      reference: parameters of another model; None for the model itself.
      progress: called with the number of rows that are done.

    Raises:
      ValueError: a row that is too long, or without context or ids.
    """
    for row in rows:
        size = len(row.context) + len(row.ids)
        if not row.context or not row.ids or size > model.config.max_length:
            raise ValueError(
                f"{len(row.context)} tokens of context and {len(row.ids)} to be "
                "measured: need one of each at least and "
                f"{model.config.max_length} at most in all"
            )
    reference = params if reference is None else reference
    order = sorted(range(len(rows)), key=lambda i: sum(map(len, rows[i])))
    sums_FN = np.zeros((4, len(rows)))
    for start in range(0, len(order), ROWS):
        chosen = order[start : start + ROWS]
        batch = pad([rows[i] for i in chosen])
        sums_FB = _sums(model, params, reference, batch)
        sums_FN[:, chosen] = np.asarray(sums_FB)[:, : len(chosen)]
        progress(start + len(chosen))
    return Likelihoods(*sums_FN, np.array([len(row.ids) for row in rows]))


def pad(rows: Sequence[Continuation]) -> Sequences:
    """`ROWS` rows [ROWS, T] of one document each, `weights` 1 at its `ids`."""
    longest = max(len(row.context) + len(row.ids) for row in rows) - 1
    padding = ROWS - len(rows)
    return Sequences.of(
        [[*row.context, *row.ids] for row in rows] + [[]] * padding,
        prompts=[len(row.context) for row in rows] + [0] * padding,
        length=-(-longest // STRIDE) * STRIDE,
    )


@functools.partial(jax.jit, static_argnums=0)
def _sums(model: Model, params, reference, batch: Sequences):
    tokens = logprobs.tokens(
        model, params, batch, needs=("entropy", "kl"), reference=reference
    )
    figures = tokens.logp, tokens.reference_logp, tokens.entropy, tokens.kl
    # Where, not times: the figures of padding may not be finite.
    counts_BT = batch.weights > 0
    return jnp.stack([jnp.where(counts_BT, x_BT, 0.0).sum(-1) for x_BT in figures])
