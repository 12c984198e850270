# SPDX-License-Identifier: Apache-2.0
"""Sums of losses that have a name; `catalogue.combine` makes those of a config.

The likelihood of the chosen response is a loss like the rest, three ways: summed, a
token of its own response, and a token of the whole batch.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp

from alignjax.bounds import NonNegative, Positive
from alignjax.losses import catalogue, links, preference, scores
from alignjax.types import LogProbs

loss = functools.partial(catalogue.register, catalogue.PREFERENCE)


def weighted_mean(x_B, weight_B=None):
    """The mean over the rows of a batch that count; 0 where none does."""
    if weight_B is None:
        return x_B.mean()
    return (x_B * weight_B).sum() / jnp.maximum(weight_B.sum(), 1e-9)


def mean_chosen_length(policy: LogProbs, reference, *, weight_B=None):
    """The statistic of `nll_token`: tokens of a chosen response, on average."""
    return weighted_mean(policy.length[..., 0], weight_B)


def bco_pair_shift(policy, reference, *, beta, weight_B=None):
    """The statistic of `bco_pair`: [mean beta c + mean beta r]/2 over the batch."""
    reward_B2 = beta * scores.log_ratio(policy, reference)
    return weighted_mean(reward_B2.mean(-1), weight_B)


@loss(reference=False)
def nll(policy: LogProbs, reference: LogProbs | None):
    """Likelihood of the chosen response, as in arXiv:2203.02155: -log p(y_w)."""
    return -policy.total[..., 0]


@loss(reference=False, normalised=True)
def nll_mean(policy, reference):
    """Likelihood of the chosen response, arXiv:2404.19733: -log p(y_w)/n_w."""
    return -policy.mean[..., 0]


@loss(reference=False, statistic=mean_chosen_length)
def nll_token(policy, reference, *, statistic):
    """Likelihood of the chosen responses, TRL's `sft`, arXiv:2203.02155 a token.

    -log p(y_w)/(mean n_w), so that the mean over the batch is per token of the batch.
    """
    length = jnp.maximum(jax.lax.stop_gradient(statistic), 1.0)
    return -policy.total[..., 0] / length


@loss(statistic=bco_pair_shift)
def bco_pair(policy, reference, *, statistic, beta: Positive = 0.01):
    """BCO of pairs, arXiv:2404.04656: -log s(beta c - d) - log s(d - beta r).

    The shift d is the mean reward over both sides; the authors keep a running mean of
    it, here it is this batch's.
    """
    score_B2 = scores.log_ratio(policy, reference)
    return links.bco(score_B2, beta, shift=jax.lax.stop_gradient(statistic))


@loss()
def rpo(policy, reference, *, beta: Positive = 0.01, eta: NonNegative = 0.005):
    """Regularised PO, arXiv:2405.16436: `dpo` - eta beta log p(y_w)."""
    nll_B = nll(policy, reference)
    return preference.dpo(policy, reference, beta=beta) + eta * beta * nll_B


@loss(statistic=mean_chosen_length)
def rpo_trl(
    policy, reference, *, statistic, beta: Positive = 0.01, eta: NonNegative = 0.005
):
    """Regularised PO as in TRL, arXiv:2405.16436: `dpo` + eta `nll_token`."""
    nll_B = nll_token(policy, reference, statistic=statistic)
    return preference.dpo(policy, reference, beta=beta) + eta * nll_B


@loss()
def iterative_rpo(policy, reference, *, beta: Positive = 0.1, alpha: NonNegative = 1.0):
    """Iterative reasoning PO, arXiv:2404.19733: `dpo` - alpha log p(y_w)/n_w."""
    nll_B = nll_mean(policy, reference)
    return preference.dpo(policy, reference, beta=beta) + alpha * nll_B


@loss(statistic=bco_pair_shift)
def mpo(
    policy,
    reference,
    *,
    statistic,
    beta: Positive = 0.1,
    preference_weight: NonNegative = 0.8,
    quality_weight: NonNegative = 0.2,
    generation_weight: NonNegative = 1.0,
):
    """Mixed PO, arXiv:2411.10442: .8 `dpo` + .2 `bco_pair` + 1 `nll_mean`.

    As a mixture spelt out in a config its terms are also measured one by one.
    """
    quality_B = bco_pair(policy, reference, statistic=statistic, beta=beta)
    return (
        preference_weight * preference.dpo(policy, reference, beta=beta)
        + quality_weight * quality_B
        + generation_weight * nll_mean(policy, reference)
    )
