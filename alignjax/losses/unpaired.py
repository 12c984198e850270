# SPDX-License-Identifier: Apache-2.0
"""Losses of responses judged one by one: `(policy, reference, *, ...) -> loss_B`.

`LogProbs` are [B] and `desirable_B` is bool [B]. In the equations x is log(policy /
reference) of the response, and log s is `log_sigmoid`; each loss has an equation for
desirable responses and one for undesirable ones. A pair makes two such rows.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
from jax import lax

from alignjax.bounds import NonNegative, Positive
from alignjax.losses import catalogue, scores
from alignjax.types import LogProbs

loss = functools.partial(
    catalogue.register, catalogue.UNPAIRED, data="labels", inputs=("desirable_B",)
)


def kto_baseline(policy: LogProbs, reference: LogProbs, *, weight_B=None):
    """The statistic of `kto`: max(0, mean log(policy/reference) of mismatched rows).

    An estimate of KL(policy || reference) from responses to other prompts, which the
    batch brings with it (`LogProbs.mismatched`).
    """
    ratio_B = policy.mismatched - reference.mismatched
    present_B = jnp.where(policy.mismatched == 0, 0.0, 1.0)
    weight_B = present_B if weight_B is None else weight_B * present_B
    return jnp.maximum(scores.weighted_mean(ratio_B, weight_B), 0.0)


def bco_shift(policy, reference, *, desirable_B, beta, weight_B=None):
    """The statistic of `bco`: the mean of the two kinds' mean rewards.

    Each kind counts alike, however many rows it has; one without rows does not.
    """
    reward_B = beta * scores.log_ratio(policy, reference)
    weight_B = jnp.ones_like(reward_B) if weight_B is None else weight_B
    kinds = [weight_B * desirable_B, weight_B * ~jnp.asarray(desirable_B, bool)]
    means = jnp.stack([scores.weighted_mean(reward_B, kind) for kind in kinds])
    present = jnp.stack([kind.sum() > 0 for kind in kinds])
    return means.sum() / jnp.maximum(present.sum(), 1)


@loss(needs=("mismatched",), statistic=kto_baseline)
def kto(
    policy,
    reference,
    *,
    desirable_B,
    statistic,
    beta: Positive = 0.1,
    desirable_weight: NonNegative = 1.0,
    undesirable_weight: NonNegative = 1.0,
):
    """KTO, arXiv:2402.01306: 1 - s(beta (x - z)); undesirable, 1 - s(beta (z - x)).

    Times the weight of its kind. z is the statistic, no gradient. The weights balance
    the kinds: desirable rows times their weight should be 1 to 4/3 of undesirable rows
    times theirs.
    """
    ratio_B = scores.log_ratio(policy, reference) - lax.stop_gradient(statistic)
    loss_B = jax.nn.sigmoid(-beta * _sign(desirable_B) * ratio_B)
    return loss_B * jnp.where(desirable_B, desirable_weight, undesirable_weight)


@loss(statistic=bco_shift)
def bco(policy, reference, *, desirable_B, statistic, beta: Positive = 0.1):
    """BCO, arXiv:2404.04656: -log s(beta x - d); undesirable, -log s(d - beta x).

    d is the statistic, no gradient; the authors keep a running mean of it. Their
    weights for prompts of unlike distributions are not here.
    """
    reward_B = beta * scores.log_ratio(policy, reference)
    shifted_B = reward_B - lax.stop_gradient(statistic)
    return -jax.nn.log_sigmoid(_sign(desirable_B) * shifted_B)


@loss()
def apo_zero_unpaired(
    policy,
    reference,
    *,
    desirable_B,
    beta: Positive = 0.1,
    desirable_weight: NonNegative = 1.0,
    undesirable_weight: NonNegative = 1.0,
):
    """APO-zero, arXiv:2408.06266: 1 - s(beta x); undesirable, s(beta x).

    Times the weight of its kind.
    """
    ratio_B = scores.log_ratio(policy, reference)
    loss_B = jax.nn.sigmoid(-beta * _sign(desirable_B) * ratio_B)
    return loss_B * jnp.where(desirable_B, desirable_weight, undesirable_weight)


def _sign(desirable_B):
    return jnp.where(desirable_B, 1, -1)
