# SPDX-License-Identifier: Apache-2.0
"""Preference losses of lists of responses: `(policy, reference, *, ...) -> loss_B`.

`LogProbs` are [B, K]; a response of length 0 is absent. In the equations x is
log(policy/reference), q = softmax(beta x) and p = softmax(reward/temperature).
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp

from alignjax.bounds import Positive
from alignjax.losses import catalogue, reward, scores
from alignjax.types import LogProbs

loss = functools.partial(catalogue.register, catalogue.RANKED, data="rankings")


@loss()
def plackett_luce_dpo(policy: LogProbs, reference: LogProbs, *, beta: Positive = 0.1):
    """Listwise DPO, arXiv:2305.18290 App. A.3: `reward.plackett_luce` of beta x.

    The responses stand best first. For two it is `dpo`.
    """
    score_BK = beta * scores.log_ratio(policy, reference)
    return reward.plackett_luce(score_BK, present_BK=policy.length > 0)


@loss(inputs=("reward_BK",))
def infonca(
    policy, reference, *, reward_BK, beta: Positive = 0.01, temperature: Positive = 1.0
):
    """InfoNCA, arXiv:2402.05369: -sum_i p_i log q_i. Two with a sure label: `dpo`."""
    q_BK, p_BK = _log_softmaxes(policy, reference, reward_BK, beta, temperature)
    return -_sum(policy, jnp.exp(p_BK) * q_BK)


@loss(inputs=("reward_BK",))
def nca(
    policy, reference, *, reward_BK, beta: Positive = 0.01, temperature: Positive = 1.0
):
    """NCA, arXiv:2402.05369: -sum_i [p_i log s(beta x_i) + log s(-beta x_i)/K]."""
    z_BK = beta * scores.log_ratio(policy, reference)
    _, p_BK = _log_softmaxes(policy, reference, reward_BK, beta, temperature)
    K_B1 = jnp.maximum((policy.length > 0).sum(-1, keepdims=True), 1)
    drawn_BK = jnp.exp(p_BK) * jax.nn.log_sigmoid(z_BK)
    return -_sum(policy, drawn_BK + jax.nn.log_sigmoid(-z_BK) / K_B1)


@loss(inputs=("reward_BK",))
def exo(
    policy, reference, *, reward_BK, beta: Positive = 0.1, temperature: Positive = 1.0
):
    """EXO, arXiv:2402.00856: KL(q || p), the reverse of InfoNCA's."""
    q_BK, p_BK = _log_softmaxes(policy, reference, reward_BK, beta, temperature)
    return _sum(policy, jnp.exp(q_BK) * (q_BK - p_BK))


def _log_softmaxes(policy, reference, reward_BK, beta, temperature):
    """log q and log p over the responses that are present."""
    present_BK = policy.length > 0
    log_softmax = lambda x_BK: jax.nn.log_softmax(reward.absent(x_BK, present_BK))
    q_BK = log_softmax(beta * scores.log_ratio(policy, reference))
    return q_BK, log_softmax(reward_BK / temperature)


def _sum(policy, x_BK):
    return jnp.where(policy.length > 0, x_BK, 0.0).sum(-1)
