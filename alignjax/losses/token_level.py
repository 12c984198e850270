# SPDX-License-Identifier: Apache-2.0
"""Preference losses that look below the sum of a response: lengths, tokens, vocabulary.

Symbols as in `preference`; n is the number of tokens. What they read of a response
beyond its total are fields of `LogProbs`.
"""

from __future__ import annotations

import functools

import jax.numpy as jnp
from jax import lax

from alignjax.bounds import Fraction, Noise, NonNegative, Positive
from alignjax.losses import catalogue, links, scores
from alignjax.types import LogProbs

loss = functools.partial(catalogue.register, catalogue.PREFERENCE)


@loss(margin=True)
def r_dpo(policy, reference, *, beta: Positive = 0.1, alpha: float = 0.01):
    """R-DPO, arXiv:2403.19159: -log s(beta D + alpha (n_w - n_l)).

    Optimal for the reward less alpha a token, so the part of a preference that length
    explains is not learned.
    """
    offset_B = alpha * scores.difference(policy.length)
    return links.logistic(scores.log_ratio(policy, reference), beta, offset=offset_B)


@loss()
def ln_dpo(policy, reference, *, beta: Positive = 5.0, label_smoothing: Noise = 0.0):
    """Length-normalised DPO, arXiv:2411.15124: -log s(beta (c/n_w - r/n_l))."""
    score_B2 = scores.mean_log_ratio(policy, reference)
    return links.logistic(score_B2, beta, label_smoothing=label_smoothing)


@loss(needs=("head",))
def ld_dpo(policy, reference, *, beta: Positive = 0.1, alpha: Fraction = 0.5):
    """LD-DPO, arXiv:2409.06411: DPO in which tokens past min(n_w, n_l) count alpha.

    Under policy and reference alike. At alpha 1 it is `dpo`.
    """
    return links.logistic(scores.head_log_ratio(policy, reference, alpha), beta)


@loss(needs=("sample",))
def sampo(policy, reference, *, beta: Positive = 0.1):
    """SamPO, arXiv:2406.10957: DPO over min(n_w, n_l) tokens drawn from each response.

    So both log-ratios have as many terms. `LogProbs.sample` has the draw.
    """
    return links.logistic(policy.sample - reference.sample, beta)


@loss(needs=("reference_kl",))
def tdpo1(policy, reference, *, beta: Positive = 0.1):
    """TDPO-1, arXiv:2404.11999: -log s(beta [D - (K_l - K_w)]).

    K is a response's `reference_kl`, the summed KL(reference || policy) at its tokens.
    """
    score_B2 = scores.log_ratio(policy, reference) + policy.reference_kl
    return links.logistic(score_B2, beta)


@loss(needs=("reference_kl",))
def tdpo2(policy, reference, *, beta: Positive = 0.1, alpha: NonNegative = 0.5):
    """TDPO-2, arXiv:2404.11999: -log s(beta [D - alpha (K_l - sg K_w)]).

    As `tdpo1`, with no gradient through the chosen response's KL.
    """
    kw_B, kl_B = jnp.moveaxis(policy.reference_kl, -1, 0)
    kl_B2 = jnp.stack([lax.stop_gradient(kw_B), kl_B], -1)
    score_B2 = scores.log_ratio(policy, reference) + alpha * kl_B2
    return links.logistic(score_B2, beta)


@loss(needs=("collision",))
def wpo(
    policy,
    reference,
    *,
    beta: Positive = 0.01,
    link: str = "logistic",
    link_options: dict | None = None,
):
    """WPO, arXiv:2406.11827: u_w u_l (-log s(beta D)), or any other link.

    u = exp(mean_t [log p_t - log sum_v p_t(v)^2]), without a gradient: pairs weigh as
    much as they are likely under the policy. TRL's too.
    """
    weight_B = scores.exp(_on_policy(policy))
    score_B2 = scores.log_ratio(policy, reference)
    return weight_B * links.LINKS.find(link)(score_B2, beta, **(link_options or {}))


@loss(needs=("collision",))
def wpo_authors(policy, reference, *, beta: Positive = 0.01):
    """WPO as coded, arXiv:2406.11827: `wpo` whose weight u_w u_l is at most 1."""
    weight_B = jnp.exp(jnp.minimum(_on_policy(policy), 0.0))
    return weight_B * links.logistic(scores.log_ratio(policy, reference), beta)


def _on_policy(policy: LogProbs):
    """log u_w u_l of WPO."""
    likely_B2 = (policy.total - policy.collision) / jnp.maximum(policy.length, 1)
    return lax.stop_gradient(likely_B2.sum(-1))
