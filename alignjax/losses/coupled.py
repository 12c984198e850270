# SPDX-License-Identifier: Apache-2.0
"""Preference losses whose terms depend on the other pairs of the batch.

Each has a statistic of the whole global batch, computed without gradients and passed to
every microbatch, so that neither microbatches nor devices change what is learned.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from alignjax.bounds import Noise, NonNegative, Positive, Share
from alignjax.losses import catalogue, links, preference, reference_free, scores
from alignjax.types import LogProbs

loss = functools.partial(catalogue.register, catalogue.PREFERENCE)


def matched(x_B, y_B, weight_B=None):
    """For each of `x_B` the one of `y_B` with the same rank; 0 for padding rows."""
    if weight_B is None:
        weight_B = jnp.ones_like(x_B)
    last = lambda z_B: jnp.where(weight_B > 0, z_B, jnp.inf)
    rank_B = jnp.argsort(jnp.argsort(last(x_B)))
    return jnp.where(weight_B > 0, jnp.sort(last(y_B))[rank_B], 0.0)


def aot_quantiles(policy: LogProbs, reference: LogProbs, *, weight_B=None):
    """The statistic of `aot`, [B]: the reference margin of the policy margin's rank."""
    margin_B = scores.difference(policy.total)
    return matched(margin_B, scores.difference(reference.total), weight_B)


def aot_unpaired_quantiles(policy, reference, *, weight_B=None):
    """The statistic of `aot_unpaired`, [B, 2]: the other side's log-ratio by rank."""
    c_B, r_B = jnp.moveaxis(scores.log_ratio(policy, reference), -1, 0)
    pairs = matched(c_B, r_B, weight_B), matched(r_B, c_B, weight_B)
    return jnp.stack(pairs, -1)


@loss(statistic=aot_quantiles, margin=True)
def aot(
    policy, reference, *, statistic, beta: Positive = 0.01, label_smoothing: Noise = 0.0
):
    """AOT of pairs, arXiv:2406.05882: -log s(beta (sort(lw - ll) - sort(ref))_i).

    The policy's margins lw - ll should dominate the reference's, rank by rank. A value
    belongs to the pair of its policy margin.
    """
    del reference  # its margins are in the statistic
    margin_B = scores.difference(policy.total) - lax.stop_gradient(statistic)
    return links.cross_entropy(beta * margin_B, label_smoothing)


@loss(statistic=aot_unpaired_quantiles)
def aot_unpaired(
    policy, reference, *, statistic, beta: Positive = 0.01, label_smoothing: Noise = 0.0
):
    """AOT unpaired, arXiv:2406.05882: -log s(beta (sort(c) - sort(r))_i).

    The value belongs to the pair of the chosen response; the gradient goes to both.
    """
    c_B, r_B = jnp.moveaxis(scores.log_ratio(policy, reference), -1, 0)
    other_B2 = lax.stop_gradient(statistic)
    cost = lambda z_B: links.cross_entropy(beta * z_B, label_smoothing)
    value_B, of_rejected_B = cost(c_B - other_B2[..., 0]), cost(other_B2[..., 1] - r_B)
    # The same sum in another order, so it counts by its gradient alone.
    return value_B + of_rejected_B - lax.stop_gradient(of_rejected_B)


def bco_pair_shift(policy, reference, *, beta, weight_B=None):
    """The statistic of `bco_pair`: [mean beta c + mean beta r]/2 over the batch."""
    reward_B2 = beta * scores.log_ratio(policy, reference)
    return scores.weighted_mean(reward_B2.mean(-1), weight_B)


@loss(statistic=bco_pair_shift)
def bco_pair(policy, reference, *, statistic, beta: Positive = 0.01):
    """BCO of pairs, arXiv:2404.04656: -log s(beta c - d) - log s(d - beta r).

    The shift d is the mean reward over both sides; the authors keep a running mean of
    it, here it is this batch's.
    """
    score_B2 = scores.log_ratio(policy, reference)
    return links.bco(score_B2, beta, shift=lax.stop_gradient(statistic))


@loss(statistic=reference_free.mean_chosen_length)
def rpo_trl(
    policy, reference, *, statistic, beta: Positive = 0.01, eta: NonNegative = 0.005
):
    """Regularised PO as in TRL, arXiv:2405.16436: `dpo` + eta `nll_token`."""
    nll_B = reference_free.nll_token(policy, reference, statistic=statistic)
    return preference.dpo(policy, reference, beta=beta) + eta * nll_B


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

    Written as a mixture in a config, each term has a metric too.
    """
    quality_B = bco_pair(policy, reference, statistic=statistic, beta=beta)
    return (
        preference_weight * preference.dpo(policy, reference, beta=beta)
        + quality_weight * quality_B
        + generation_weight * reference_free.nll_mean(policy, reference)
    )


class BetaStatistic(NamedTuple):
    """The statistic of `beta_dpo`.

    Attributes:
      excess: a scalar, the mean log-ratio margin of the pairs kept, less `center`.
      weight_B: 0 for pairs left out; the others' are equal and keep the batch's sum.
    """

    excess: jax.Array
    weight_B: jax.Array


def beta_statistic(
    policy, reference, *, drop, center=None, spread=None, key=None, weight_B=None
) -> BetaStatistic:
    """The pairs that `beta_dpo` keeps, and their mean margin.

    Args:
      policy, reference: [B, 2].
      drop: the share of pairs left out.
      center, spread: mean and standard deviation of margins; the authors keep running
        ones (decay 0.9). This batch's own where None.
      key: samples the kept pairs without replacement; the likeliest ones where None.
      weight_B: 0 for rows that pad the batch.
    """
    margin_B = scores.difference(scores.log_ratio(policy, reference))
    weight_B = jnp.ones_like(margin_B) if weight_B is None else weight_B
    if center is None:
        center = scores.weighted_mean(margin_B, weight_B)
    if spread is None:
        variance_B = jnp.square(margin_B - center)
        spread = jnp.sqrt(scores.weighted_mean(variance_B, weight_B))
    usual_B = -0.5 * jnp.square((margin_B - center) / jnp.maximum(spread, 1e-6))
    if key is not None:  # Gumbel's top k is a draw without replacement
        usual_B = usual_B + jax.random.gumbel(key, usual_B.shape, usual_B.dtype)
    usual_B = jnp.where(weight_B > 0, usual_B, -jnp.inf)
    count = (weight_B > 0).sum()
    kept = jnp.maximum(jnp.floor((1 - drop) * count + 1e-6), 1)
    rank_B = jnp.argsort(jnp.argsort(-usual_B))
    keep_B = jnp.where((rank_B < kept) & (weight_B > 0), 1.0, 0.0)
    excess = scores.weighted_mean(margin_B, keep_B) - center
    return BetaStatistic(excess, keep_B * count / jnp.maximum(keep_B.sum(), 1))


@loss(statistic=beta_statistic, margin=True)
def beta_dpo(
    policy,
    reference,
    *,
    statistic,
    beta: Positive = 0.1,
    sensitivity: NonNegative = 0.6,
    drop: Share = 0.2,
):
    """beta-DPO, arXiv:2407.08639: `dpo` whose beta is beta (1 + sensitivity excess).

    `excess` is by how much the batch's mean margin exceeds the usual; a share `drop` of
    the pairs, likeliest those with unusual margins, is left out. beta is at least 1e-3.
    """
    del drop  # the statistic has applied it
    excess, weight_B = lax.stop_gradient(tuple(statistic))
    beta = jnp.maximum(beta * (1 + sensitivity * excess), 1e-3)
    return weight_B * preference.dpo(policy, reference, beta=beta)
