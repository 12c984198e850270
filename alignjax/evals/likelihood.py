# SPDX-License-Identifier: Apache-2.0
"""Log-probabilities, entropy and divergence of models on given continuations."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
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
      rows: at least one; none longer than the model's context.
      reference: parameters of the same shapes; None for the model itself.
      progress: called with the number of rows that are done.

    Raises:
      ValueError: a row that is too long, or without context or ids.
    """
    for context, ids in rows:
        limit = model.config.max_length
        if not context or not ids or len(context) + len(ids) > limit:
            raise ValueError(
                f"{len(context)} tokens of context and {len(ids)} to be measured: "
                f"need one of each at least and {limit} at most in all"
            )
    reference = params if reference is None else reference
    sums_FN, done = np.zeros((4, len(rows))), 0
    for chosen, batch in batches(rows):
        sums_FB = _sums(model, params, reference, batch)
        sums_FN[:, chosen] = np.asarray(sums_FB)[:, : len(chosen)]
        done += len(chosen)
        progress(done)
    return Likelihoods(*sums_FN, np.array([len(row.ids) for row in rows]))


def batches(rows: Sequence[Continuation]) -> Iterator[tuple[list[int], Sequences]]:
    """Indices of at most `ROWS` rows of about one length, and `pad` of those rows."""
    order = sorted(range(len(rows)), key=lambda i: sum(map(len, rows[i])))
    for start in range(0, len(order), ROWS):
        chosen = order[start : start + ROWS]
        yield chosen, pad([rows[i] for i in chosen])


def pad(rows: Sequence[Continuation]) -> Sequences:
    """`ROWS` rows [ROWS, T] of one document each, `weights` 1 at its `ids`."""
    longest = max(sum(map(len, row)) for row in rows) - 1
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
