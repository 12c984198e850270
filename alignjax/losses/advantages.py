# SPDX-License-Identifier: Apache-2.0
"""Advantages: how much better than expected each token of a response turned out.

An advantage is `(outcome, *, ...) -> Advantages`, of all responses of a rollout, so
that no mean or spread depends on how the rollout is later cut into minibatches. Arrays
are [G, K, T]: G prompts, K responses to each, T tokens of a response, padded. In the
equations R_i is the reward of a response, the sum of its tokens' rewards; mu and sigma
are mean and standard deviation over the responses to a prompt that have a reward. Where
these are all equal, advantages are exactly 0.

A response without a reward, or without an action, is left out of every statistic and
has weight 0; one that had nothing to be compared with has weight 0 too. Advantages and
returns of weight 0 are 0. What stands behind masks is never read.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from alignjax import registry
from alignjax.bounds import Fraction, Positive

ADVANTAGES = registry.Registry("advantage")

End = Literal["terminal", "bootstrap", "masked"]
# Rewards closer than this, relative to the largest of them and 1, are equal: what is
# left of their differences is rounding, which no small spread may magnify.
TIE = 1e-6


class Outcome(NamedTuple):
    """What became of a rollout.

    Attributes:
      reward: float32 [G, K, T], of each token; see `token_rewards`.
      action: bool [G, K, T], the tokens that the policy drew, terminators included; not
        padding, nor what a tool wrote in between.
      scored: bool [G, K], the responses that have a reward.
      learned: bool [G, K], those to learn from.
      value: float32 [G, K, T], a critic's V(s_t) of the state in which a token was
        drawn, or None.
      after: float32 [G, K], the value of the state after the last token; 0 where the
        response ended there.
      greedy: float32 [G], the reward of the policy's greedy response, NaN where it has
        none; or None.
    """

    reward: jax.Array
    action: jax.Array
    scored: jax.Array
    learned: jax.Array
    value: jax.Array | None = None
    after: jax.Array | float = 0.0
    greedy: jax.Array | None = None


class Advantages(NamedTuple):
    """What a policy and its critic learn from.

    Attributes:
      advantage: float32 [G, K, T], 0 at tokens that are no actions.
      weight: float32 [G, K], 1 for the responses that count, else 0.
      returns: float32 [G, K, T], the critic's targets, or None.
      scale: float32 [G, 1] or one number, what rewards were divided by; with the KL in
        the loss, its coefficient times this is the penalty in rewards for a nat.
    """

    advantage: jax.Array
    weight: jax.Array
    returns: jax.Array | None = None
    scale: jax.Array | float = 1.0


class Requirements(NamedTuple):
    """What an advantage needs, and what it is of.

    Attributes:
      responses: to a prompt, at least.
      fields: of `Outcome`.
      per: "response", where all tokens of a response have one advantage, or "token".
    """

    responses: int = 1
    fields: tuple[str, ...] = ()
    per: Literal["response", "token"] = "response"


def requirements(function: Callable) -> Requirements:
    """Those of an advantage; the default ones where it declares none."""
    return getattr(function, "requirements", Requirements())


def declare(
    responses: int = 1,
    fields: tuple[str, ...] = (),
    per: Literal["response", "token"] = "response",
):
    """A decorator that attaches `Requirements`, also outside the package."""

    def decorate(function):
        function.requirements = Requirements(responses, fields, per)
        return function

    return decorate


def register(*arguments, **keywords):
    """`declare`, and an entry in `ADVANTAGES` under the function's own name."""
    return lambda f: declare(*arguments, **keywords)(ADVANTAGES.register(f))


def token_rewards(score_GK, action_GKT, k1_GKT=None, coefficient=0.0) -> jax.Array:
    """Rewards of tokens: the score at the last action, less coefficient times k1.

    Args:
      score_GK: the weighted sum of the rewards of each response; NaN where there is
        none.
      action_GKT: bool, the sampled tokens.
      k1_GKT: float32, log(policy / reference) of each token, in nats, under the policy
        that drew it, where the KL is part of the reward.
      coefficient: of the KL, beta.

    Returns:
      float32 [G, K, T], 0 at tokens that are no actions.
    """
    last_GKT = last_actions(action_GKT)
    score_GK1 = jnp.where(jnp.isfinite(score_GK), score_GK, 0.0)[..., None]
    reward_GKT = jnp.where(last_GKT, score_GK1, 0.0).astype(jnp.float32)
    if k1_GKT is None:
        return reward_GKT
    return reward_GKT - jnp.where(action_GKT, coefficient * k1_GKT, 0.0)


def last_actions(action_GKT) -> jax.Array:
    """bool [G, K, T], the last action of each response."""
    later_GKT = jnp.cumsum(action_GKT[..., ::-1], axis=-1)[..., ::-1]
    return action_GKT & (later_GKT == 1)


def rewarded(outcome: Outcome) -> jax.Array:
    """bool [G, K], the responses that have a reward, and an action that earned it."""
    return outcome.scored & outcome.action.any(-1)


def totals(outcome: Outcome) -> jax.Array:
    """R, float32 [G, K]; 0 for the responses without a reward."""
    total_GK = jnp.where(outcome.action, outcome.reward, 0.0).sum(-1)
    return jnp.where(outcome.scored, total_GK, 0.0)


def moments(x, there, ddof) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Of `x` where `there`: its mean, x - mean, else 0, and its variance.

    Never a difference of two large squares; exactly 0 where all are equal.
    """
    count = there.sum().astype(jnp.float32)
    one = jnp.where(there.any(), x.reshape(-1)[there.reshape(-1).argmax()], 0.0)
    above = jnp.where(there, x - one, 0.0)
    mean_above = above.sum() / jnp.maximum(count, 1)
    centred = jnp.where(there, above - mean_above, 0.0)
    variance = jnp.square(centred).sum() / jnp.maximum(count - ddof, 1)
    return one + mean_above, centred, variance


def differ(x, there, axis=None) -> jax.Array:
    """bool, whether the numbers that are there differ; an `axis` is kept."""
    largest = jnp.where(there, x, -jnp.inf).max(axis, keepdims=axis is not None)
    least = jnp.where(there, x, jnp.inf).min(axis, keepdims=axis is not None)
    scale = jnp.maximum(1.0, jnp.maximum(jnp.abs(largest), jnp.abs(least)))
    return largest - least > TIE * scale


def with_end(outcome: Outcome, truncated_GK, end: End, after_GK=None) -> Outcome:
    """`outcome` with one of three meanings for the responses that were cut off.

    "terminal": the room is a part of the task, and nothing comes after it. "bootstrap":
    the critic's value of the state after the last token comes after it. "masked":
    nothing is learned from them, in the loss and its denominator; their rewards count
    in the statistics of their group all the same.

    Args:
      outcome: as if every response had ended.
      truncated_GK: bool, the responses that did not end by themselves.
      end: which of the three.
      after_GK: float32, V(s_{T+1}), for "bootstrap".
    """
    if end == "bootstrap":
        return outcome._replace(after=jnp.where(truncated_GK, after_GK, 0.0))
    if end == "masked":
        return outcome._replace(learned=outcome.learned & ~truncated_GK)
    return outcome


@register()
def reinforce(outcome: Outcome, *, baseline: float = 0.0) -> Advantages:
    """REINFORCE, Williams, 1992: R_i - b, with a constant baseline b."""
    return _of_responses(outcome, totals(outcome) - baseline)


@register(responses=2)
def rloo(outcome: Outcome) -> Advantages:
    """RLOO, arXiv:2402.14740: R_i less the mean of the prompt's other responses.

    That is K/(K-1) (R_i - mu), in which the baseline does not depend on the response.
    """
    centred_GK, count_G1 = _centred(outcome)
    scale_G1 = count_G1 / jnp.maximum(count_G1 - 1, 1)
    return _of_groups(outcome, scale_G1 * centred_GK, count_G1)


@register(responses=2)
def grpo(
    outcome: Outcome, *, epsilon: Positive = 1e-4, ddof: Literal[0, 1] = 1
) -> Advantages:
    """GRPO, arXiv:2402.03300: (R_i - mu)/(sigma + epsilon).

    The paper does not say which standard deviation; with `ddof` 1 its square is divided
    by K - 1, as in TRL. Division by sigma gives each prompt a KL coefficient of its
    own, sigma times the one that is set.
    """
    centred_GK, count_G1 = _centred(outcome)
    square_G1 = jnp.square(centred_GK).sum(-1, keepdims=True)
    sigma_G1 = jnp.sqrt(square_G1 / jnp.maximum(count_G1 - ddof, 1))
    scale_G1 = sigma_G1 + epsilon
    advantages = _of_groups(outcome, centred_GK / scale_G1, count_G1)
    return advantages._replace(scale=scale_G1)


@register(responses=2)
def dr_grpo(outcome: Outcome) -> Advantages:
    """Dr. GRPO, arXiv:2503.20783: R_i - mu; (K-1)/K times `rloo`.

    The other half of the method is a denominator, `denominators.constant`.
    """
    return _of_groups(outcome, *_centred(outcome))


@register(responses=2)
def batch_std(
    outcome: Outcome, *, epsilon: Positive = 1e-4, ddof: Literal[0, 1] = 1
) -> Advantages:
    """Group mean and batch std, arXiv:2508.08221: (R_i - mu)/(s + epsilon).

    s is the standard deviation over the rewards of all prompts that something is
    learned from: one scale, so prompts of other difficulty are not weighted otherwise.
    """
    centred_GK, count_G1 = _centred(outcome)
    there_GK = rewarded(outcome) & outcome.learned.any(-1, keepdims=True)
    *_, variance = moments(totals(outcome), there_GK, ddof)
    scale = jnp.sqrt(variance) + epsilon
    return _of_groups(outcome, centred_GK / scale, count_G1)._replace(scale=scale)


@register(per="token")
def reinforce_pp(
    outcome: Outcome,
    *,
    gamma: Fraction = 1.0,
    epsilon: Positive = 1e-8,
    ddof: Literal[0, 1] = 0,
) -> Advantages:
    """REINFORCE++, arXiv:2501.03262: sum_s>=t gamma^(s-t) r_s, whitened.

    Over all actions of the rollout that are learned from; the KL belongs in the rewards
    r (`kl.PLACES`).
    """
    plain = _of_responses(outcome, 0.0)
    counts_GKT = outcome.action & (plain.weight > 0)[..., None]
    white = _whitened(_to_go(outcome, gamma), counts_GKT, epsilon, ddof)
    return plain._replace(advantage=white[0], scale=white[1])


@register(responses=2)
def reinforce_pp_baseline(
    outcome: Outcome, *, epsilon: Positive = 1e-8, ddof: Literal[0, 1] = 0
) -> Advantages:
    """REINFORCE++-baseline, arXiv:2501.03262: R_i - mu, whitened over the rollout.

    A response is one value; verl whitens one for each token, in which long responses
    count more.
    """
    centred_GK, count_G1 = _centred(outcome)
    plain = _of_groups(outcome, centred_GK, count_G1)
    white_GK, scale = _whitened(centred_GK, plain.weight > 0, epsilon, ddof)
    # Where a group's rewards are equal, the mean of all is a residue of rounding.
    differ_G1 = differ(totals(outcome), rewarded(outcome), -1)
    white_GK = jnp.where(differ_G1, white_GK, 0.0)
    return _of_groups(outcome, white_GK, count_G1)._replace(scale=scale)


@register(fields=("greedy",))
def remax(outcome: Outcome) -> Advantages:
    """ReMax, arXiv:2310.10505: R_i less the reward of the greedy response.

    Where that has no reward there is nothing to compare with, and nothing is learned.
    """
    greedy_G1 = outcome.greedy[:, None]
    learned_GK = outcome.learned & jnp.isfinite(greedy_G1)
    advantage_GK = totals(outcome) - greedy_G1
    return _of_responses(outcome._replace(learned=learned_GK), advantage_GK)


@register(fields=("value",), per="token")
def gae(outcome: Outcome, *, gamma: Fraction = 1.0, lam: Fraction = 0.95) -> Advantages:
    """GAE, arXiv:1506.02438 Eq. 16: A_t = d_t + gamma lam A_t+1, returns A_t + V_t.

    d_t = r_t + gamma V_t+1 - V_t. Tokens in between that are no actions are passed
    over: the next action is the next step. After the last one stands `Outcome.after`.
    """
    weight_GK = _of_responses(outcome, 0.0).weight
    counts_GKT = outcome.action & (weight_GK > 0)[..., None]
    action_TGK = jnp.moveaxis(counts_GKT, -1, 0)
    first = lambda x_GKT: jnp.moveaxis(x_GKT.astype(jnp.float32), -1, 0)
    behind = lambda x_GKT: jnp.where(action_TGK, first(x_GKT), 0.0)
    reward_TGK, value_TGK = behind(outcome.reward), behind(outcome.value)

    def step(later, now):
        reward_GK, value_GK, action_GK = now
        next_value_GK, next_advantage_GK = later
        delta_GK = reward_GK + gamma * next_value_GK - value_GK
        advantage_GK = delta_GK + gamma * lam * next_advantage_GK
        here = (value_GK, advantage_GK)
        keep = lambda new, old: jnp.where(action_GK, new, old)
        later = jax.tree.map(keep, here, later)
        return later, jnp.where(action_GK, advantage_GK, 0.0)

    zero_GK = jnp.zeros(reward_TGK.shape[1:], jnp.float32)
    start = (zero_GK.at[...].set(outcome.after), zero_GK)
    steps = (reward_TGK, value_TGK, action_TGK)
    _, advantage_TGK = lax.scan(step, start, steps, reverse=True)
    advantage_GKT = jnp.moveaxis(advantage_TGK, 0, -1)
    return_GKT = jnp.moveaxis(advantage_TGK + value_TGK, 0, -1)
    return Advantages(advantage_GKT, weight_GK, return_GKT)


@register(fields=("value",), per="token")
def gae_whitened(
    outcome: Outcome,
    *,
    gamma: Fraction = 1.0,
    lam: Fraction = 0.95,
    epsilon: Positive = 1e-8,
    ddof: Literal[0, 1] = 0,
) -> Advantages:
    """GAE as in PPO for text, arXiv:2403.17031: `gae`, its advantages whitened.

    Over all actions of the rollout that are learned from. The returns are not.
    """
    plain = gae(outcome, gamma=gamma, lam=lam)
    counts_GKT = outcome.action & (plain.weight > 0)[..., None]
    white = _whitened(plain.advantage, counts_GKT, epsilon, ddof)
    return plain._replace(advantage=white[0], scale=white[1])


def whiten(x, there, epsilon=1e-8, ddof=0) -> jax.Array:
    """(x - mean)/sqrt(variance + epsilon) where `there`, else 0.

    `x` is float32 and `there` bool, of one shape; the moments are over all of it.
    Exactly 0 where there is no spread. With `ddof` 0 the variance is the biased one of
    arXiv:2403.17031, with 1 that of TRL and verl.
    """
    return _whitened(x, there, epsilon, ddof)[0]


def informative(outcome_GK, scored_GK) -> jax.Array:
    """bool [G], the prompts whose responses differ: dynamic sampling, arXiv:2503.14476.

    `scored_GK` is bool, and `outcome_GK` float32, anything where that is False. It is
    the raw result of the task, before penalties for length and the like, by which
    responses differ that have all failed.
    """
    return differ(outcome_GK, scored_GK, -1)[:, 0]


def _whitened(x, there, epsilon, ddof):
    """See `whiten`; and what it divides by."""
    x = jnp.where(there, x, 0.0)
    _, centred, variance = moments(x, there, ddof)
    white = jnp.where(there, centred * lax.rsqrt(variance + epsilon), 0.0)
    white = jnp.where(differ(x, there), white, 0.0)
    return white, jnp.sqrt(variance + epsilon)


def _to_go(outcome: Outcome, gamma):
    """sum_s>=t gamma^(s-t) r_s over actions, 0 at other tokens, float32 [G, K, T]."""
    zero = jnp.zeros_like(outcome.reward)
    return gae(outcome._replace(value=zero, after=0.0), gamma=gamma, lam=1.0).advantage


def _centred(outcome: Outcome):
    """R - mu where there is a reward, else 0, [G, K]; and how many there are, [G, 1].

    Differences to one of the rewards come first: equal ones then have a mean of 0.
    """
    total_GK, there_GK = totals(outcome), rewarded(outcome)
    count_G1 = there_GK.sum(-1, keepdims=True).astype(jnp.float32)
    one_G1 = jnp.take_along_axis(total_GK, there_GK.argmax(-1)[:, None], axis=-1)
    above_GK = jnp.where(there_GK, total_GK - one_G1, 0.0)
    mean_G1 = above_GK.sum(-1, keepdims=True) / jnp.maximum(count_G1, 1)
    keep_GK = there_GK & differ(total_GK, there_GK, -1)
    return jnp.where(keep_GK, above_GK - mean_G1, 0.0), count_G1


def _of_responses(outcome: Outcome, advantage_GK) -> Advantages:
    """One advantage for all actions of a response."""
    counts_GK = outcome.learned & rewarded(outcome)
    advantage_GK = jnp.where(counts_GK, advantage_GK, 0.0)
    advantage_GKT = jnp.where(outcome.action, advantage_GK[..., None], 0.0)
    return Advantages(advantage_GKT, counts_GK.astype(jnp.float32))


def _of_groups(outcome: Outcome, advantage_GK, count_G1) -> Advantages:
    """As `_of_responses`; one that was compared with no other counts nothing."""
    learned_GK = outcome.learned & (count_G1 > 1)
    return _of_responses(outcome._replace(learned=learned_GK), advantage_GK)
