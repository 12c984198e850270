# SPDX-License-Identifier: Apache-2.0
"""Log-probabilities, entropy and divergence of models on given continuations."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from alignjax.analysis import scoring
from alignjax.objectives import logprobs
from alignjax.types import Model, Params, Sequences


class Likelihoods(NamedTuple):
    """Sums over each continuation's tokens, in nats, float64 [rows].

    Attributes:
      logp: log p(ids | prompt_ids).
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
    rows: Sequence[scoring.Row],
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
      ValueError: a row that the model cannot score; see `scoring.fault`.
    """
    for row in rows:
        if reason := scoring.fault(row, model.config):
            raise ValueError(reason)
    reference = params if reference is None else reference
    sums_FN, done = np.zeros((4, len(rows))), 0
    for chosen, batch in scoring.batches(rows, model.config.max_length):
        sums_FB = _sums(model, params, reference, batch)
        sums_FN[:, chosen] = np.asarray(sums_FB)[:, : len(chosen)]
        done += len(chosen)
        progress(done)
    return Likelihoods(*sums_FN, np.array([len(row.ids) for row in rows]))


@functools.partial(jax.jit, static_argnums=0)
def _sums(model: Model, params, reference, batch: Sequences):
    tokens = logprobs.tokens(
        model, params, batch, needs=("entropy", "kl"), reference=reference
    )
    figures = tokens.logp, tokens.reference_logp, tokens.entropy, tokens.kl
    # Where, not times: the figures of padding may not be finite.
    counts_BT = batch.weights > 0
    return jnp.stack([jnp.where(counts_BT, x_BT, 0.0).sum(-1) for x_BT in figures])
