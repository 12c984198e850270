# SPDX-License-Identifier: Apache-2.0
"""The KL penalty: estimators, where each may stand, and a coefficient that adapts.

With d = log(policy/reference) of a token that the policy drew, k1 = d, k2 = d^2/2 and
k3 = e^-d - 1 + d (joschu.net/blog/kl-approx.html). As values all but k2 have the KL
as their mean; as gradients they part (s is a state, sg stop_gradient):

    reward -= coefficient k1, as reward-to-go: the gradient of the KL of whole
        responses; and so for the sum over a response as its one reward
    loss += exact or k2: of sum_t KL(policy || reference; s_t), states held fixed
    loss += k3_ratio: as k2, and after several updates on the same rollout too
    loss += k3: of the forward sum_t KL(reference || policy; s_t)
    loss += k1: nothing, its expected gradient is 0
    reward -= k2 or k3: vanishes where policy and reference meet
    reward -= exact: lacks each state's own part

The last three lines are refused.
"""

from __future__ import annotations

from typing import Literal

import jax
import jax.numpy as jnp
from jax import lax

from alignjax import registry
from alignjax.bounds import Positive
from alignjax.losses import policy_gradient
from alignjax.types import Now, Then

# In the loss: `(now, then) -> kl_BT`, in nats, with a gradient.
ESTIMATORS = registry.Registry("KL estimator")

Place = Literal["reward", "loss"]
PLACES = {"reward": ("k1",), "loss": ("exact", "k2", "k3", "k3_ratio")}
REFUSED = {
    ("loss", "k1"): "its expected gradient is 0; put k1 in the reward",
    ("reward", "k2"): "its gradient vanishes where policy and reference meet; put k1 "
    "there, or k2 in the loss",
    ("reward", "k3"): "its gradient is that of KL(policy || reference) less that of "
    "KL(reference || policy), which vanishes where they meet; put k1 there",
    ("reward", "exact"): "it lacks the gradient of each state's own KL; put k1 there, "
    "or exact in the loss",
    ("reward", "k3_ratio"): "a reward has no gradient of its own; put k1 there",
}


def check(place: str, estimator: str) -> None:
    """Refuses a pair of place and estimator that is none, or one that misleads.

    Raises:
      ValueError: with the reason.
    """
    if place not in PLACES:
        raise ValueError(f"place: {place!r}; {registry.closest(place, PLACES)}")
    if reason := REFUSED.get((place, estimator)):
        raise ValueError(f"estimator: {estimator} in the {place}: {reason}")
    if estimator not in PLACES[place]:
        near = registry.closest(estimator, PLACES[place])
        raise ValueError(f"estimator: {estimator!r} in the {place}; {near}")


def k1(logp, reference_logp) -> jax.Array:
    """d, of log-probabilities of any shape: unbiased, and of either sign."""
    return logp - reference_logp


def k3_of(log_ratio) -> jax.Array:
    """e^-d - 1 + d of d, of any shape: unbiased, and never below 0.

    Beyond e^20 the exponential goes on as its tangent there, which float32 can hold.
    """
    near = jnp.minimum(-log_ratio, policy_gradient.FURTHEST)
    beyond = jnp.maximum(-log_ratio - policy_gradient.FURTHEST, 0.0)
    return jnp.expm1(near) + jnp.exp(near) * beyond + log_ratio


@ESTIMATORS.register
def k2(now: Now, then: Then) -> jax.Array:
    """d^2/2; biased as a value, and as a gradient that of `exact`, by one sample."""
    return jnp.square(_log_ratio(now, then)) / 2


@ESTIMATORS.register
def k3(now: Now, then: Then) -> jax.Array:
    """e^-d - 1 + d: GRPO, arXiv:2402.03300 Eq. 4; descends KL(reference || policy).

    It is never clipped: it pulls where it is large.
    """
    return k3_of(_log_ratio(now, then))


@ESTIMATORS.register
def k3_ratio(now: Now, then: Then) -> jax.Array:
    """rho (e^-d - 1 + d), rho = policy/old: arXiv:2512.02556, and TRL by default.

    Unbiased, value and gradient, also where the policy is no longer the one that drew.
    The gradient by log p is rho d, written out: of the value it is a difference of two
    numbers of size rho e^-d, of which float32 keeps nothing where d is below -16.
    """
    d_BT, rho_BT = lax.stop_gradient(
        (_log_ratio(now, then), policy_gradient.ratio(now, then))
    )
    logp_BT = jnp.where(then.action, now.logp, 0.0)
    none_BT = logp_BT - lax.stop_gradient(logp_BT)  # 0, with the gradient of log p
    return rho_BT * k3_of(d_BT) + rho_BT * d_BT * none_BT


@ESTIMATORS.register
def exact(now: Now, then: Then) -> jax.Array:
    """KL(policy || reference) over the vocabulary at each state: no sampling noise."""
    return jnp.where(then.action, now.kl, 0.0)


def adapted(
    coefficient, kl, responses, *, target: Positive = 6.0, horizon: Positive = 10_000.0
):
    """The next coefficient, float32, arXiv:1909.08593 section 2.2.

    coefficient (1 + clip(kl/target - 1, -0.2, 0.2) responses/horizon); the paper has a
    gain of 0.1 where its authors' code has responses/horizon, as here.

    Args:
      coefficient: the present one, float32.
      kl: the mean over the rollout's responses of the sum over tokens of k1, in nats.
      responses: how many the rollout had.
      target: nats that the controller holds the KL at.
      horizon: responses in which it moves the coefficient by a fifth.
    """
    error = jnp.clip(kl / target - 1.0, -0.2, 0.2)
    return coefficient * (1.0 + error * responses / horizon)


def _log_ratio(now: Now, then: Then):
    return jnp.where(then.action, now.logp - then.reference, 0.0)
