# SPDX-License-Identifier: Apache-2.0
"""Scores of responses, computed from log-probabilities: [..., 2] for pairs.

A score is the implicit reward divided by beta; a link (`losses.links`) turns the two
scores of a pair into a loss.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from alignjax import registry
from alignjax.types import LogProbs

# Likelihood ratios are clipped at e^40: beyond it there is nothing to learn, and
# float32 holds its square. TRL clips its alpha-divergence at e^80, whose square is
# infinite.
LARGEST_EXPONENT = 40.0


def exp(x: jax.Array) -> jax.Array:
    """e^x, clipped at `LARGEST_EXPONENT`, so without a gradient beyond it."""
    return jnp.exp(jnp.minimum(x, LARGEST_EXPONENT))


def difference(x_B2: jax.Array) -> jax.Array:
    """The chosen response's value less the rejected one's."""
    return x_B2[..., 0] - x_B2[..., 1]


def weighted_mean(x_B, weight_B=None):
    """The mean over the rows of a batch that count; 0 where none does."""
    if weight_B is None:
        return x_B.mean()
    return (x_B * weight_B).sum() / jnp.maximum(weight_B.sum(), 1e-9)


def log_ratio(policy: LogProbs, reference: LogProbs) -> jax.Array:
    """log(policy / reference) of the whole response."""
    return policy.total - reference.total


def mean_log_ratio(policy: LogProbs, reference: LogProbs) -> jax.Array:
    """log(policy / reference) a token; 0 for an empty response."""
    return log_ratio(policy, reference) / jnp.maximum(policy.length, 1)


def head_log_ratio(policy: LogProbs, reference: LogProbs, tail) -> jax.Array:
    """log(policy / reference) in which tokens past the shorter length count `tail`."""
    head = policy.head - reference.head
    return head + tail * (log_ratio(policy, reference) - head)


def log_odds(logp: jax.Array) -> jax.Array:
    """log p/(1 - p) of log p, with log p held below -1e-6: the odds of certainty."""
    logp = jnp.minimum(logp, -1e-6)
    return logp - jnp.log(-jnp.expm1(logp))


# f'(u), u = policy / reference, of the f-divergences that keep a policy near its
# reference: increasing functions of the log-ratio log u, less the papers' constant at
# u = 1, so that links of each side may follow them too. All but the last are of
# arXiv:2309.16240, the last of arXiv:2407.13399.
DIVERGENCES = registry.Registry("divergence")


@DIVERGENCES.register
def reverse_kl(log_ratio):
    """KL(policy || reference): log u, so that f-DPO is DPO."""
    return log_ratio


@DIVERGENCES.register
def forward_kl(log_ratio):
    """KL(reference || policy): 1 - 1/u."""
    return alpha(log_ratio, 1.0)


@DIVERGENCES.register
def jensen_shannon(log_ratio):
    """The Jensen-Shannon divergence: log 2u/(1 + u), at most log 2."""
    return jnp.log(2.0) + jax.nn.log_sigmoid(log_ratio)


@DIVERGENCES.register
def alpha(log_ratio, alpha):
    """The alpha-divergence: (1 - u^-alpha)/alpha, from reverse (0) to forward (1) KL.

    TRL's coefficient is 1 - alpha.
    """
    power = jnp.minimum(-alpha * log_ratio, LARGEST_EXPONENT)
    return -jnp.expm1(power) / alpha


@DIVERGENCES.register
def chi_squared(log_ratio):
    """Chi-squared plus reverse KL: u - 1 + log u, which holds down large ratios."""
    return jnp.expm1(jnp.minimum(log_ratio, LARGEST_EXPONENT)) + log_ratio


def divergence_score(log_ratio, divergence: str, order: float | None) -> jax.Array:
    """The score under a divergence by name; only the alpha-divergence has an `order`.

    Raises:
      ValueError: an unknown divergence, or an alpha that is missing or has no use.
    """
    try:
        score = DIVERGENCES.find(divergence)
    except ValueError as error:
        raise ValueError(f"divergence: {error}") from error
    if (score is alpha) != (order is not None):
        verb = "needs" if score is alpha else "has no"
        raise ValueError(f"alpha: divergence {divergence!r} {verb} alpha")
    return score(log_ratio) if order is None else score(log_ratio, order)
