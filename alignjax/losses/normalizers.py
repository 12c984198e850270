# SPDX-License-Identifier: Apache-2.0
"""Normalizers: what is done to the rewards of a rollout before there are advantages.

A normalizer is `(outcome, running, *, ...) -> Normalized`, of an `advantages.Outcome`,
whose rewards have the KL in them where that is part of the reward. `running` are
numbers that it keeps from one rollout to the next, and a checkpoint has them; `declare`
says their names and what they are before the first rollout. R is the reward of a
response, the sum of those of its tokens. A response without a reward is left out of
every statistic, and what stands behind masks is never read.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp

from alignjax import registry
from alignjax.bounds import Fraction, Positive
from alignjax.losses import advantages

NORMALIZERS = registry.Registry("normalizer")


class Normalized(NamedTuple):
    """The rewards that advantages are of.

    Attributes:
      reward: float32 [G, K, T], in the place of `Outcome.reward`.
      running: float32 numbers by name, those that `declare` has.
      scale: what rewards were divided by, one number.
    """

    reward: jax.Array
    running: Mapping[str, jax.Array | float] = {}
    scale: jax.Array | float = 1.0


class Traits(NamedTuple):
    """What a normalizer keeps and needs.

    Attributes:
      start: the numbers that it keeps, as they are before the first rollout.
      per: "token", where it moves the reward of each token, which only advantages of
        tokens may follow: one of responses would learn their sum, a length; else
        "response".
    """

    start: Mapping[str, float] = {}
    per: Literal["response", "token"] = "response"


def traits(function: Callable) -> Traits:
    """Those of a normalizer; the default ones where it declares none."""
    return getattr(function, "normalizer", Traits())


def declare(start: Mapping[str, float] | None = None, per: str = "response"):
    """A decorator that attaches `Traits`, also outside the package."""

    def decorate(function):
        function.normalizer = Traits(dict(start or {}), per)
        return function

    return decorate


def register(*arguments, **keywords):
    """`declare`, and an entry in `NORMALIZERS` under the function's own name."""
    return lambda f: declare(*arguments, **keywords)(NORMALIZERS.register(f))


@register(per="token")
def whitened_tokens(
    outcome: advantages.Outcome,
    running,
    *,
    epsilon: Positive = 1e-8,
    ddof: Literal[0, 1] = 0,
) -> Normalized:
    """m + (r - m)/sqrt(v + epsilon) of each token, arXiv:2403.17031: the mean stays.

    m and v are mean and variance over the actions of the rollout that are learned from,
    most of which have no reward but the KL. With `ddof` 1 the variance is that of TRL.
    R becomes R/s + |y| m (1 - 1/s), s the deviation: lengths are rewarded too.
    """
    there_GKT = outcome.action & outcome.scored[..., None]
    counts_GKT = there_GKT & outcome.learned[..., None]
    x_GKT = jnp.where(there_GKT, outcome.reward, 0.0)
    mean, _, variance = advantages.moments(x_GKT, counts_GKT, ddof)
    scale = jnp.sqrt(variance + epsilon)
    differ = advantages.differ(x_GKT, counts_GKT)
    white_GKT = jnp.where(there_GKT, mean + (x_GKT - mean) / scale, 0.0)
    return Normalized(
        jnp.where(differ, white_GKT, x_GKT), {}, jnp.where(differ, scale, 1.0)
    )


@register({"count": 0.0, "mean": 0.0, "variance": 0.0})
def running_scale(
    outcome: advantages.Outcome,
    running,
    *,
    decay: Fraction = 1.0,
    epsilon: Positive = 1e-8,
) -> Normalized:
    """R/sqrt(v + epsilon), v the variance of all R so far, those of the rollout too.

    With `decay` below 1 what was before a rollout counts so much less after it; with 0
    each rollout has a scale of its own. A rollout whose rewards are all equal is then
    left out, as it tells no scale. Rewards that were all equal so far stay as they are.
    Moments of parts are put together as in Chan, Golub and LeVeque, 1979.
    """
    total_GK, there_GK = advantages.totals(outcome), advantages.rewarded(outcome)
    if decay < 1:
        there_GK &= advantages.differ(total_GK, there_GK)
        decay = jnp.where(there_GK.any(), decay, 1.0)
    mean, _, variance = advantages.moments(total_GK, there_GK, ddof=0)
    count = there_GK.sum().astype(jnp.float32)
    whole = decay * running["count"] + count
    share = count / jnp.maximum(whole, 1e-30)
    apart = jnp.where(count > 0, mean - running["mean"], 0.0)
    mean = running["mean"] + share * apart
    variance = (1 - share) * running["variance"] + share * variance
    variance = variance + share * (1 - share) * jnp.square(apart)
    tie = advantages.TIE * jnp.maximum(1.0, jnp.abs(mean))
    scale = jnp.where(variance > jnp.square(tie), jnp.sqrt(variance + epsilon), 1.0)
    kept = {"count": whole, "mean": mean, "variance": variance}
    return Normalized(outcome.reward / scale, kept, scale)


@register({"above": 0.0})
def moving_baseline(
    outcome: advantages.Outcome, running, *, start: float = 0.0, decay: Fraction = 0.9
) -> Normalized:
    """R - b, where b becomes decay b + (1 - decay) mean R after each rollout.

    It is `start` in the first one. It depends on no response that it is taken from, so
    that the gradient of REINFORCE stays that of the expected reward (Williams, 1992).
    What is kept is b - start.
    """
    total_GK, there_GK = advantages.totals(outcome), advantages.rewarded(outcome)
    mean, *_ = advantages.moments(total_GK, there_GK, ddof=0)
    above = running["above"]
    moved = decay * above + (1 - decay) * (mean - start)
    last_GKT = advantages.last_actions(outcome.action) & there_GK[..., None]
    reward_GKT = outcome.reward - jnp.where(last_GKT, start + above, 0.0)
    return Normalized(reward_GKT, {"above": jnp.where(there_GK.any(), moved, above)})
