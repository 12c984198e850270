# SPDX-License-Identifier: Apache-2.0
"""Preference losses of the policy alone: no second model is held or run.

Symbols as in `preference`; lw, ll are the policy's log-probabilities of the chosen and
the rejected response, and mw, ml the same divided by the number of tokens.
"""

from __future__ import annotations

import functools

import jax.numpy as jnp
from jax import lax

from alignjax.bounds import Noise, NonNegative, Positive
from alignjax.losses import catalogue, links, scores
from alignjax.types import LogProbs

loss = functools.partial(catalogue.register, catalogue.PREFERENCE, reference=False)


@loss()
def nll(policy: LogProbs, reference: LogProbs | None):
    """Likelihood of the chosen response, as in arXiv:2203.02155: -log p(y_w)."""
    return -policy.total[..., 0]


@loss(normalised=True)
def nll_mean(policy, reference):
    """Likelihood of the chosen response, arXiv:2404.19733: -log p(y_w)/n_w."""
    return -policy.mean[..., 0]


def mean_chosen_length(policy, reference, *, weight_B=None):
    """The statistic of `nll_token`: tokens of a chosen response, on average."""
    return scores.weighted_mean(policy.length[..., 0], weight_B)


@loss(statistic=mean_chosen_length)
def nll_token(policy, reference, *, statistic):
    """Likelihood of the chosen responses, TRL's `sft`, arXiv:2203.02155 a token.

    -log p(y_w)/(mean n_w), so that the mean over the batch is per token of the batch.
    """
    length = jnp.maximum(lax.stop_gradient(statistic), 1.0)
    return -policy.total[..., 0] / length


@loss(normalised=True)
def orpo(policy, reference, *, odds_weight: NonNegative = 0.1):
    """ORPO, arXiv:2403.07691: -mw - odds_weight log s(log odds(mw) - log odds(ml)).

    odds(m) = e^m/(1 - e^m). TRL and the authors' code take the first term over prompt
    and response; the paper, and this, over the response.
    """
    odds_B2 = scores.log_odds(policy.mean)
    return -policy.mean[..., 0] + odds_weight * links.logistic(odds_B2, 1.0)


@loss()
def cpo(
    policy,
    reference,
    *,
    beta: Positive = 0.1,
    alpha: NonNegative = 1.0,
    label_smoothing: Noise = 0.0,
):
    """CPO, arXiv:2401.08417 Eq. 5: -log s(beta (lw - ll)) - alpha lw."""
    contrast_B = links.logistic(policy.total, beta, label_smoothing=label_smoothing)
    return contrast_B - alpha * policy.total[..., 0]


@loss(statistic=mean_chosen_length)
def cpo_trl(
    policy,
    reference,
    *,
    statistic,
    beta: Positive = 0.1,
    alpha: NonNegative = 1.0,
    label_smoothing: Noise = 0.0,
):
    """CPO as coded, arXiv:2401.08417: as `cpo`, with lw in nats a token of the batch.

    The second term of the authors' code and of TRL is the paper's over the mean length.
    """
    contrast_B = cpo(
        policy, reference, beta=beta, alpha=0.0, label_smoothing=label_smoothing
    )
    nll_B = nll_token(policy, reference, statistic=statistic)
    return contrast_B + alpha * nll_B


@loss(normalised=True)
def simpo(
    policy,
    reference,
    *,
    beta: Positive = 2.0,
    gamma: NonNegative = 1.0,
    label_smoothing: Noise = 0.0,
):
    """SimPO, arXiv:2405.14734 Eq. 6: -log s(beta (mw - ml) - gamma)."""
    return links.logistic(
        policy.mean, beta, offset=-gamma, label_smoothing=label_smoothing
    )


@loss(normalised=True)
def alphapo(
    policy,
    reference,
    *,
    beta: Positive = 2.5,
    gamma: NonNegative = 0.1,
    alpha: NonNegative = 0.25,
):
    """AlphaPO, arXiv:2501.03884: -log s(beta (f(mw) - f(ml)) - gamma).

    f(m) = (1 - e^(-alpha m))/alpha; at alpha 0 it is m, and this is `simpo`.
    """
    score_B2 = scores.alpha(policy.mean, alpha) if alpha else policy.mean
    return links.logistic(score_B2, beta, offset=-gamma)


@loss(normalised=True)
def simper(policy, reference):
    """SimPER, arXiv:2502.00883: e^ml - e^mw, the inverse perplexities."""
    return -scores.difference(scores.exp(policy.mean))


@loss()
def slic(policy, reference, *, delta: Positive = 1.0, nll_weight: NonNegative = 0.1):
    """SLiC-HF, arXiv:2305.10425: max(0, delta - lw + ll) - nll_weight lw.

    The second term is the paper's cross-entropy with the chosen response as the target.
    """
    rank_B = jnp.maximum(0.0, delta - scores.difference(policy.total))
    return rank_B - nll_weight * policy.total[..., 0]
