# SPDX-License-Identifier: Apache-2.0
"""A first look at functions of sampled tokens, before there is a model or a rollout.

A loss from outside the package is run on a few made-up responses. What would make a
long run worthless is refused then: a gradient that is not the policy gradient at the
first update, numbers that are not finite far from it, and a loss that depends on
padding or on other responses, whose result would change with the layout of a batch.
Advantages and normalizers have to give arrays of the right shapes, and finite numbers.
"""

from __future__ import annotations

from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np

from alignjax.losses import advantages
from alignjax.types import Now, Then

FAR = 20.0  # the largest log-ratio at which a loss must be finite
B, T = 6, 5  # responses, and the room of each; neither is the length of one


class Refusal(ValueError):
    """What is wrong with a function, in words that follow its name."""


def reason(error: Exception) -> str:
    """What follows the name of a function that failed, in whatever way."""
    text = str(error).partition("\n")[0]
    is_ours = isinstance(error, Refusal)
    return text if is_ours else f"fails: {type(error).__name__}: {text}"


def policy(loss, traits) -> None:
    """Refuses a loss `(now, then) -> loss_BT` of a policy.

    Args:
      loss: with its options bound.
      traits: its `catalogue.Traits`.

    Raises:
      Refusal: with the reason.
    """
    now, then = _responses()
    old = now.replace(logp=then.old)
    _check_shape(loss(old, then))
    _check_finite(loss, "logp", old, then, "where policy and old policy are the same")
    gradient_BT = np.asarray(_gradient(loss, "logp", old, then))
    expected_BT = np.where(then.action, -then.advantage, 0.0)
    if traits.on_policy and not np.allclose(gradient_BT, expected_BT, atol=1e-5):
        b, t = np.unravel_index(np.abs(gradient_BT - expected_BT).argmax(), (B, T))
        raise Refusal(
            f"has the gradient {gradient_BT[b, t]:.6g} by log p of an action of "
            f"advantage {then.advantage[b, t]:.6g} where policy and old policy are the "
            "same; the policy gradient is minus the advantage. Declare on_policy=False "
            "if that is meant (losses.catalogue.declare_policy)"
        )
    for sign in (-1, 1):
        far = now.replace(logp=then.old + sign * FAR)
        least = far.logp[then.action].min()
        where = f"at a ratio of e^{sign * FAR:.0f}, where log p is {least:.0f}"
        _check_finite(loss, "logp", far, then, where)
    _check_rows(loss, "logp", now, then)


def value(loss, traits) -> None:
    """Refuses a loss `(now, then) -> loss_BT` of a critic; see `policy`."""
    del traits
    now, then = _responses()
    _check_shape(loss(now, then))
    for sign in (-1, 1):
        far = now.replace(value=then.returns + sign * 1e6)
        _check_finite(loss, "value", far, then, "where a value is off by 1e6")
    _check_rows(loss, "value", now, then)


def advantage(function, samples: int) -> None:
    """Refuses an advantage `outcome -> Advantages`.

    Args:
      function: with its options bound.
      samples: responses to a prompt.

    Raises:
      Refusal: with the reason.
    """
    outcome = _outcome(samples)
    result = function(outcome)
    shapes = {"advantage": outcome.action.shape, "weight": outcome.scored.shape}
    if getattr(result, "returns", None) is not None:
        shapes["returns"] = outcome.action.shape
    _check_fields(result, shapes, "advantages.Advantages")
    for name, shape in shapes.items():
        there = outcome.action if len(shape) == 3 else True
        if not np.isfinite(np.asarray(getattr(result, name))[there]).all():
            raise Refusal(f"has {name} that is not finite; it may read padding")
    groups = len(outcome.scored)
    if (shape := jnp.shape(getattr(result, "scale", 1.0))) not in ((), (groups, 1)):
        raise Refusal(
            f"has a scale of shape {list(shape)}; one number, or [{groups}, 1] for "
            f"{groups} prompts"
        )


def normalizer(function, start: Mapping[str, float], samples: int) -> None:
    """Refuses a normalizer `(outcome, running) -> Normalized`; see `advantage`.

    Args:
      start: the numbers that it declares.
    """
    _normalized_twice(function, start, _outcome(samples))


def changes(function, start: Mapping[str, float], advantage, samples: int) -> bool:
    """Whether a normalizer changes what an advantage makes of a second rollout."""
    outcome = _outcome(samples)
    reward_GKT = _normalized_twice(function, start, outcome).reward
    before, after = map(advantage, (outcome, outcome._replace(reward=reward_GKT)))
    of = lambda result: (result.advantage, result.returns)
    same = lambda x, y: np.allclose(x, y, rtol=1e-3, atol=1e-5, equal_nan=True)
    pairs = zip(of(before), of(after), strict=True)
    return not all(x is None or same(x, y) for x, y in pairs)


def check_normalized(normalized, outcome, start: Mapping) -> None:
    """Refuses what a normalizer gives.

    Raises:
      Refusal: rewards of another shape; numbers that it does not declare; something
        that is not finite; or a scale that is not one number above 0.
    """
    shape = jnp.shape(outcome.reward)
    _check_fields(normalized, {"reward": shape, "scale": ()}, "normalizers.Normalized")
    there = np.asarray(outcome.action & outcome.scored[..., None])
    kept, scale = normalized.running, float(normalized.scale)
    if not np.isfinite(np.asarray(normalized.reward)[there]).all():
        raise Refusal("gives rewards that are not finite; it may read padding")
    if not (np.isfinite(scale) and scale > 0):
        raise Refusal(f"has divided by {scale:g}, which is not above 0")
    if not isinstance(kept, Mapping) or set(kept) != set(start):
        names = sorted(kept) if isinstance(kept, Mapping) else repr(kept)
        raise Refusal(f"keeps {names}, and declares {sorted(start)}")
    if not all(jnp.ndim(x) == 0 and np.isfinite(float(x)) for x in kept.values()):
        raise Refusal(f"keeps {dict(kept)!r:.200}, which are not all finite numbers")


def _normalized_twice(function, start: Mapping[str, float], outcome):
    """What a normalizer makes of a rollout that comes twice, the second time."""
    try:
        running = {name: np.float32(x) for name, x in start.items()}
    except (TypeError, ValueError) as error:
        raise Refusal(f"declares {start!r:.200}, which are not all numbers") from error
    for _ in range(2):
        normalized = function(outcome, running)
        check_normalized(normalized, outcome, running)
        running = normalized.running
    return normalized


def _outcome(samples: int):
    """Of five prompts: one whose rewards are equal, and responses without a reward.

    Also one without an action, one whose words a tool wrote, and NaN behind masks.
    """
    rng = np.random.default_rng(0)
    draw = lambda *shape: rng.normal(size=shape).astype(np.float32)
    lengths_GK = rng.integers(1, T, (5, samples))
    lengths_GK[3, 0] = 0
    action_GKT = np.arange(T) < lengths_GK[..., None]
    action_GKT[4, 0] = [True, False, True, False, False]
    score_GK = 1 + 3 * draw(5, samples)
    score_GK[1] = 0.5
    score_GK[2, 0] = np.nan
    k1_GKT = np.where(action_GKT, 0.1 * draw(5, samples, T), np.nan)
    reward_GKT = advantages.token_rewards(score_GK, action_GKT, k1_GKT, 0.1)
    scored_GK = np.isfinite(score_GK)
    return advantages.Outcome(
        reward=jnp.where(action_GKT, reward_GKT, jnp.nan),
        action=jnp.asarray(action_GKT),
        scored=jnp.asarray(scored_GK),
        learned=jnp.asarray(scored_GK),
        value=jnp.where(action_GKT, draw(5, samples, T), jnp.nan),
        after=jnp.zeros(score_GK.shape),
        greedy=jnp.asarray(draw(5)),
    )


def _check_fields(result, shapes: Mapping[str, tuple], kind: str) -> None:
    for name, shape in shapes.items():
        if not hasattr(result, name):
            raise Refusal(f"returns {type(result).__name__}, where {kind} is returned")
        if (other := jnp.shape(getattr(result, name))) != shape:
            raise Refusal(
                f"has the shape {list(other)} for {name}, which has {list(shape)}"
            )


def _responses() -> tuple[Now, Then]:
    """Responses of other lengths, with a tool's words in one, after an update or two.

    All actions of a response have one advantage, as losses of responses need.
    """
    rng = np.random.default_rng(0)
    draw = lambda *shape: rng.normal(size=shape).astype(np.float32)
    action_BT = np.arange(T) < np.array([3, 4, 1, 2, 4, 3])[:, None]
    action_BT[1, 1] = False
    logp = lambda: -1 - np.abs(draw(B, T))
    advantage_BT = np.broadcast_to(draw(B, 1), (B, T)).copy()
    then = Then(action_BT, advantage_BT, logp(), *(logp() for _ in range(2)))
    then = then.replace(value=draw(B, T), returns=draw(B, T))
    near = then.old + 0.1 * draw(B, T)
    return Now(near, np.abs(draw(B, T)), np.abs(draw(B, T)), draw(B, T)), then


def _total(loss, field, x, now, then):
    return jnp.where(then.action, loss(now.replace(**{field: x}), then), 0.0).sum()


def _gradient(loss, field, now, then):
    """Of the sum over actions, by a field of `now`."""
    x = jnp.asarray(getattr(now, field))
    return jax.grad(lambda x: _total(loss, field, x, now, then))(x)


def _check_shape(loss_BT) -> None:
    shape = None if loss_BT is None else jnp.shape(loss_BT)
    if shape != (B, T):
        what = "None" if shape is None else f"shape {shape}"
        raise Refusal(
            f"returns {what} for {B} responses of {T} tokens; it must return one value "
            f"a token, {(B, T)}, and not reduce them"
        )


def _check_finite(loss, field, now, then, where: str) -> None:
    for name, x in (
        ("value", loss(now, then)),
        ("gradient", _gradient(loss, field, now, then)),
    ):
        if not np.isfinite(np.asarray(x)[then.action]).all():
            raise Refusal(f"has a {name} that is not finite {where}")


def _check_rows(loss, field, now, then) -> None:
    """Neither padding nor other responses may change the loss of a response."""
    rng, action_BT = np.random.default_rng(1), then.action
    results = lambda now, then: (loss(now, then), _gradient(loss, field, now, then))

    def changed(x, there_BT):
        """`x` with other numbers where `there_BT`."""
        if x.dtype == bool:
            return x
        return np.where(there_BT, x - rng.uniform(1, 2, x.shape), x).astype(x.dtype)

    before = results(now, then)
    others_BT = np.arange(B)[:, None] > 1
    for what, there_BT, same_BT in (
        ("tokens that are no actions", ~action_BT, action_BT),
        ("other responses", others_BT, action_BT & ~others_BT),
    ):
        change = lambda x, there_BT=there_BT: changed(x, there_BT)
        after = results(*jax.tree.map(change, (now, then)))
        for a, b in zip(before, after, strict=True):
            a, b = np.asarray(a)[same_BT], np.asarray(b)[same_BT]
            if not np.allclose(a, b, rtol=1e-5, atol=1e-6):
                raise Refusal(
                    f"depends on {what}, so that its result would change with the "
                    "layout of a batch; take statistics in an advantage, over the "
                    "whole rollout"
                )
