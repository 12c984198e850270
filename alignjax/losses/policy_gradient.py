# SPDX-License-Identifier: Apache-2.0
"""Losses of policies and critics: `(now, then, *, ...) -> loss_BT`, never reduced.

One value a token; `denominators` has what they are summed and divided by. The last axis
are the tokens of one response, so that losses of whole responses, declared with
`per="response"`, can add over it; losses with `per="token"` take any arrangement. In
the equations p is the policy's probability of a token, rho = p/p_old, A its advantage,
sg stop_gradient, and |y| the actions of a response.

Where rho is 1, as in the first update of a rollout, the gradient of each by log p is
-A. `probe` holds them to that, and losses from outside too. Values at tokens that are
no actions are 0.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
from jax import lax

from alignjax import registry
from alignjax.bounds import AboveOne, Positive
from alignjax.losses import catalogue
from alignjax.types import Now, Then

loss = functools.partial(
    catalogue.register, catalogue.POLICY_GRADIENT, reference=False, data="responses"
)
value_loss = functools.partial(
    catalogue.register,
    catalogue.VALUE,
    reference=False,
    data="responses",
    needs=("value", "returns"),
)
# Weights of tokens, `(then, *, ...) -> weight_BT`, without a gradient, for a sampler
# whose probabilities differ from those of the program that trains.
CORRECTIONS = registry.Registry("correction")

FURTHEST = 20.0  # exponents of ratios are clipped there; e^20 is 4.9e8


@loss()
def reinforce(now: Now, then: Then):
    """REINFORCE, Williams, 1992: -A log p; doi:10.1007/BF00992696."""
    return -_advantage(then) * jnp.where(then.action, now.logp, 0.0)


@loss()
def ppo_clip(now: Now, then: Then, *, low: Positive = 0.2, high: Positive = 0.2):
    """PPO, arXiv:1707.06347 Eq. 7: max(-rho A, -clip(rho, 1-low, 1+high) A)."""
    return _clipped(ratio(now, then), _advantage(then), low, high)


@loss()
def clip_higher(now: Now, then: Then, *, low: Positive = 0.2, high: Positive = 0.28):
    """DAPO, arXiv:2503.14476 Eq. 8: `ppo_clip` with more room above than below."""
    return ppo_clip(now, then, low=low, high=high)


@loss()
def dual_clip(
    now: Now,
    then: Then,
    *,
    low: Positive = 0.2,
    high: Positive = 0.2,
    most: AboveOne = 3.0,
):
    """Dual-clip PPO, arXiv:1912.09729 Eq. 5: `ppo_clip`, at most -most A where A < 0.

    A bad token that has become much likelier pulls no harder than that.
    """
    advantage_BT = _advantage(then)
    loss_BT = _clipped(ratio(now, then), advantage_BT, low, high)
    bounded_BT = jnp.minimum(loss_BT, -most * advantage_BT)
    return jnp.where(advantage_BT < 0, bounded_BT, loss_BT)


@loss()
def cispo(now: Now, then: Then, *, most: Positive = 5.0):
    """CISPO, arXiv:2506.13585: -sg(min(rho, most)) A log p.

    No token is dropped. `most` is the ratio itself, as in TRL; verl's is 1 + high.
    """
    weight_BT = lax.stop_gradient(jnp.minimum(ratio(now, then), most))
    return weight_BT * reinforce(now, then)


@loss(per="response", denominator="sequence_mean")
def gspo(now: Now, then: Then, *, low: Positive = 3e-4, high: Positive = 4e-4):
    """GSPO, arXiv:2507.18071 Eq. 5: `ppo_clip` of s = exp(mean_t log rho_t).

    Each token has its response's loss: under `denominators.sequence_mean` it is the
    paper's, under `sequence_sum` LUSPO, which counts long responses more. The gradient
    of s reaches every token as 1/|y| of it.
    """
    s_B1 = _exp(_mean(_log_ratio(now, then), then.action))
    return jnp.where(then.action, _clipped(s_B1, _advantage(then), low, high), 0.0)


@loss(per="response")
def response_clip(now: Now, then: Then, *, low: Positive = 0.2, high: Positive = 0.2):
    """RLOO as in TRL, arXiv:2402.14740: `ppo_clip` of prod_t rho_t, over |y| tokens.

    Each token has 1/|y| of it: under `denominators.sequence_sum` it is TRL's.
    """
    count_B1 = jnp.maximum(then.action.sum(-1, keepdims=True), 1)
    ratio_B1 = _exp(_log_ratio(now, then).sum(-1, keepdims=True))
    loss_BT = _clipped(ratio_B1, _advantage(then), low, high)
    return jnp.where(then.action, loss_BT / count_B1, 0.0)


@value_loss()
def squared(now: Now, then: Then):
    """Squared error, arXiv:1506.02438: (V - G)^2/2, G the returns."""
    return _squared(now.value, then)


@value_loss()
def clipped(now: Now, then: Then, *, clip: Positive = 0.2):
    """Clipped, arXiv:2403.17031: max((V-G)^2, (V_old + clip(V-V_old, +-clip) - G)^2)/2.

    `clip` is in units of reward: where rewards are large it holds the critic fast.
    """
    near_BT = then.value + _bounded(now.value - then.value, -clip, clip)
    return jnp.maximum(_squared(now.value, then), _squared(near_BT, then))


@CORRECTIONS.register
def token(then: Then, *, most: Positive = 2.0):
    """min(p_old/p_sampler, most) of each token: truncated importance sampling.

    arXiv:2110.00641 has the ratio, Ionides, 2008, the cut. It corrects each action and
    not the state it was taken in.
    """
    return _corrected(_exp(_gap(then)), then, most)


@CORRECTIONS.register
def response(then: Then, *, most: Positive = 2.0):
    """min(prod_t p_old/p_sampler, most) of each response, for all of its tokens.

    Unbiased but for the cut; its variance grows exponentially with the length.
    """
    ratio_B1 = _exp(_gap(then).sum(-1, keepdims=True))
    return _corrected(ratio_B1, then, most)


def ratio(now: Now, then: Then) -> jax.Array:
    """rho, float32 [..., T]; 1 at tokens that are no actions."""
    return _exp(_log_ratio(now, then))


def _log_ratio(now: Now, then: Then):
    return jnp.where(then.action, now.logp - then.old, 0.0)


def _exp(log_ratio):
    return jnp.exp(jnp.clip(log_ratio, -FURTHEST, FURTHEST))


def _mean(x_BT, action_BT):
    count_B1 = jnp.maximum(action_BT.sum(-1, keepdims=True), 1)
    return x_BT.sum(-1, keepdims=True) / count_B1


def _advantage(then: Then):
    return jnp.where(then.action, then.advantage, 0.0)


def _clipped(ratio, advantage_BT, low, high):
    near = _bounded(ratio, 1 - low, 1 + high)
    return jnp.maximum(-ratio * advantage_BT, -near * advantage_BT)


def _bounded(x, least, most):
    """`x` from `least` to `most`; at a bound it has its gradient still, as in torch."""
    inside = (x >= least) & (x <= most)
    return jnp.where(inside, x, jnp.clip(x, least, most))


def _squared(value_BT, then: Then):
    error_BT = jnp.where(then.action, value_BT - then.returns, 0.0)
    return jnp.square(error_BT) / 2


def _gap(then: Then):
    return jnp.where(then.action, then.old - then.behaviour, 0.0)


def _corrected(ratio, then: Then, most):
    weight_BT = jnp.where(then.action, jnp.minimum(ratio, most), 0.0)
    return lax.stop_gradient(weight_BT)
