# SPDX-License-Identifier: Apache-2.0
"""Losses of sampled tokens: by hand, against vectors of other hands, and at the edges.

At a ratio of 1 most mistakes in clipping do not show: every loss is held to values and
gradients at other ratios, for good and bad advantages.
"""

import functools
import json
import pathlib
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from alignjax import errors
from alignjax.losses import catalogue, denominators, kl, policy_gradient, probe
from alignjax.types import Now, Then

FILE = pathlib.Path(__file__).parent.parent / "golden" / "policy_gradient.json"
GOLDEN = json.loads(FILE.read_text())
LOSSES = {n: f for kind in catalogue.OF_TOKENS.values() for n, f in kind.items()}
POLICY = catalogue.POLICY_GRADIENT


def array(x):
    return np.asarray(x, np.float32)


def single(ratio, advantage, old=-1.0, **fields):
    """Responses of one token each."""
    ratio, advantage = (array(x).reshape(-1, 1) for x in (ratio, advantage))
    old = np.broadcast_to(array(old).reshape(-1, 1), ratio.shape)
    then = Then(np.ones(ratio.shape, bool), advantage, old, **fields)
    return Now(old + np.log(ratio)), then


def value_and_gradient(loss, now, then, field="logp"):
    """The loss of each token, and the gradient of their sum."""

    def total(x):
        loss_BT = loss(now.replace(**{field: x}), then)
        return jnp.where(then.action, loss_BT, 0.0).sum(), loss_BT

    (_, loss_BT), gradient_BT = jax.value_and_grad(total, has_aux=True)(
        jnp.asarray(getattr(now, field))
    )
    return np.asarray(loss_BT), np.asarray(gradient_BT)


RATIOS = [0.5, 0.9, 1.0, 1.1, 2.0]
LOGP = -1 + np.log(RATIOS)  # of each, where the old log-probability is -1
# Values, and gradients by log p, for an advantage of 1 and of -1, at each ratio.
BY_HAND = {
    "reinforce": ({}, -LOGP, [-1] * 5, LOGP, [1] * 5),
    "ppo_clip": (
        {},
        [-0.5, -0.9, -1, -1.1, -1.2],
        [-0.5, -0.9, -1, -1.1, 0],
        [0.8, 0.9, 1, 1.1, 2],
        [0, 0.9, 1, 1.1, 2],
    ),
    "clip_higher": (
        {},
        [-0.5, -0.9, -1, -1.1, -1.28],
        [-0.5, -0.9, -1, -1.1, 0],
        [0.8, 0.9, 1, 1.1, 2],
        [0, 0.9, 1, 1.1, 2],
    ),
    "dual_clip": (
        dict(most=1.5),
        [-0.5, -0.9, -1, -1.1, -1.2],
        [-0.5, -0.9, -1, -1.1, 0],
        [0.8, 0.9, 1, 1.1, 1.5],
        [0, 0.9, 1, 1.1, 0],
    ),
    "cispo": (
        dict(most=1.5),
        [-r * p for r, p in zip([0.5, 0.9, 1, 1.1, 1.5], LOGP, strict=True)],
        [-0.5, -0.9, -1, -1.1, -1.5],
        [r * p for r, p in zip([0.5, 0.9, 1, 1.1, 1.5], LOGP, strict=True)],
        [0.5, 0.9, 1, 1.1, 1.5],
    ),
    "gspo": (
        dict(low=0.2, high=0.2),
        [-0.5, -0.9, -1, -1.1, -1.2],
        [-0.5, -0.9, -1, -1.1, 0],
        [0.8, 0.9, 1, 1.1, 2],
        [0, 0.9, 1, 1.1, 2],
    ),
    "response_clip": (
        {},
        [-0.5, -0.9, -1, -1.1, -1.2],
        [-0.5, -0.9, -1, -1.1, 0],
        [0.8, 0.9, 1, 1.1, 2],
        [0, 0.9, 1, 1.1, 2],
    ),
}


@pytest.mark.parametrize("name", POLICY)
def test_values_and_gradients_at_every_ratio(name):
    options, *expected = BY_HAND[name]
    loss = functools.partial(POLICY[name], **options)
    for advantage, values, gradients in [
        (1.0, *expected[:2]),
        (-1.0, *expected[2:]),
        (0.0, [0] * 5, [0] * 5),
    ]:
        ours, by_logp = value_and_gradient(loss, *single(RATIOS, [advantage] * 5))
        np.testing.assert_allclose(ours[:, 0], values, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(by_logp[:, 0], gradients, rtol=1e-5, atol=1e-6)


def test_cispo_pushes_a_good_unlikely_token_up():
    """Without the stop-gradient its sign would be the other at log p = -2."""
    _, gradient = value_and_gradient(POLICY["cispo"], *single([1.0], [1.0], old=-2.0))
    np.testing.assert_allclose(gradient, [[-1.0]])


def test_vectors_of_ppo():
    given = {k: array(v) for k, v in GOLDEN["INPUT.ppo"].items()}
    old = np.log(given["old_p"])
    now, then = single(given["new_p"] / given["old_p"], given["adv"], old=old)
    np.testing.assert_allclose(
        policy_gradient.ratio(now, then)[:, 0], GOLDEN["ppo.ratio"], rtol=1e-5
    )
    loss_B = POLICY["ppo_clip"](now, then)[:, 0]
    np.testing.assert_allclose(loss_B, GOLDEN["ppo.pg_loss.each"], rtol=1e-5)
    dual = POLICY["dual_clip"](now, then).mean()
    np.testing.assert_allclose(dual, GOLDEN["ppo.dual_clip(c=3).mean"], rtol=1e-5)
    critic = {k: array(v)[None] for k, v in GOLDEN["INPUT.vf"].items()}
    there = np.ones((1, 4), bool)
    then = Then(there, there, there, value=critic["old"], returns=critic["ret"])
    loss = policy_gradient.clipped(Now(there, value=critic["new"]), then, clip=0.2)
    np.testing.assert_allclose(loss.mean(), GOLDEN["ppo.vf_loss(clip=.2)"], rtol=1e-5)


@pytest.mark.parametrize("advantage", [1.0, -1.0])
@pytest.mark.parametrize("ratio", [0.75, 1.25])
def test_a_ratio_at_its_bound_has_its_gradient_still(ratio, advantage):
    """As in torch: -rho A, and not the half of it, where both arms are equal."""
    now, then = single([1.0], [advantage], old=np.zeros(1, np.float32))
    now = Now(np.full_like(now.logp, np.log(ratio)))
    loss = functools.partial(POLICY["ppo_clip"], low=0.25, high=0.25)
    assert float(policy_gradient.ratio(now, then)[0, 0]) == ratio
    _, gradient = value_and_gradient(loss, now, then)
    np.testing.assert_allclose(gradient, [[-ratio * advantage]], rtol=1e-6)


def aggregated():
    """Two responses of two and four tokens, the first followed by padding."""
    given = GOLDEN["INPUT.agg"]
    ratio = np.ones((2, 4), np.float32)
    for row, values in zip(ratio, given["ratios"], strict=True):
        row[: len(values)] = values
    action = np.arange(4) < np.array([[2], [4]])
    old = np.full((2, 4), -1.5, np.float32)
    advantage = np.broadcast_to(array(given["adv"])[:, None], (2, 4))
    return Now(old + np.log(ratio)), Then(action, advantage, old)


def averaged(loss_BT, then, name, **options):
    """A loss of the responses to one prompt under a denominator."""
    weights = denominators.DENOMINATORS[name](
        then.action[None], np.ones((1, 2), np.float32), **options
    )
    return float((weights.token * loss_BT).sum() / weights.share.sum())


def test_vectors_of_denominators():
    now, then = aggregated()
    loss_BT = POLICY["ppo_clip"](now, then)
    for row, terms in zip(loss_BT, (0, 1), strict=True):
        terms = GOLDEN[f"agg.token_terms[{terms}]"]
        np.testing.assert_allclose(row[: len(terms)], terms, rtol=1e-5)
    for name, options, vector in [
        ("sequence_mean", {}, "agg.grpo(seq-mean of token-mean)"),
        ("token_mean", {}, "agg.dapo/bnpo(token-mean)"),
        ("constant", dict(length=8), "agg.dr_grpo(sum/(B*Lmax=8))"),
        ("sequence_sum", {}, "agg.seq-mean-token-sum"),
    ]:
        ours = averaged(loss_BT, then, name, **options)
        np.testing.assert_allclose(ours, GOLDEN[vector], rtol=1e-4, err_msg=name)


def test_losses_of_whole_responses():
    now, then = aggregated()
    ratios = GOLDEN["gspo.seq_ratio"]
    loss_BT, gradient = value_and_gradient(POLICY["gspo"], now, then)
    ours = averaged(loss_BT, then, "sequence_mean")
    np.testing.assert_allclose(ours, GOLDEN["gspo.loss(eps=3e-4/4e-4)"], rtol=1e-4)
    # Both ratios are below 1: that is clipped where the advantage is negative.
    np.testing.assert_allclose(gradient[0], [-ratios[0]] * 2 + [0, 0], rtol=1e-5)
    assert not gradient[1].any()
    loss = functools.partial(POLICY["response_clip"], low=0.2, high=0.2)
    loss_BT, gradient = value_and_gradient(loss, now, then)
    np.testing.assert_allclose(loss_BT.sum(-1), [-0.99, 0.91], rtol=1e-5)
    np.testing.assert_allclose(gradient[0], [-0.99] * 2 + [0, 0], rtol=1e-5)


def test_without_a_bound_they_are_the_plain_ratio():
    now, then = single(RATIOS * 2, [1.0] * 5 + [-1.0] * 5)
    plain = -array(RATIOS * 2) * then.advantage[:, 0]
    for name in ("ppo_clip", "clip_higher", "dual_clip", "gspo", "response_clip"):
        options = dict(low=1e9, high=1e9) | (
            dict(most=1e9) if name == "dual_clip" else {}
        )
        loss_B = POLICY[name](now, then, **options)[:, 0]
        np.testing.assert_allclose(loss_B, plain, rtol=1e-5, err_msg=name)
    zeros, targets = np.zeros((10, 1)), np.arange(10.0)[:, None]
    then = then.replace(value=zeros - 1, returns=targets)
    now = now.replace(value=zeros + 3)
    wide = policy_gradient.clipped(now, then, clip=1e9)
    np.testing.assert_allclose(wide, policy_gradient.squared(now, then))
    np.testing.assert_allclose(wide[:, 0], (3 - np.arange(10.0)) ** 2 / 2)


def test_a_clipped_critic_takes_the_worse_of_two():
    value, old, returns = [[0.0, 1.0, 1.0]], [[1.0, 0.0, 0.9]], [[2.0, 2.0, 2.0]]
    there = np.ones((1, 3), bool)
    then = Then(there, there, there, value=array(old), returns=array(returns))
    loss, gradient = value_and_gradient(
        policy_gradient.clipped, Now(there, value=array(value)), then, "value"
    )
    np.testing.assert_allclose(loss, [[2.0, 1.8**2 / 2, 0.5]], rtol=1e-6)
    np.testing.assert_allclose(gradient, [[-2.0, 0.0, -1.0]], rtol=1e-6)


def test_corrections_for_another_sampler():
    """Of two responses, by token and as products; the cut is at 2."""
    old = np.log(array([[0.5, 0.25, 0.3], [0.2, 0.2, 0.9]]))
    behaviour = np.log(array([[0.25, 0.5, 0.1], [0.4, 0.1, 0.9]]))
    action = np.array([[True, True, False], [True, True, True]])
    then = Then(action, old, old, behaviour=behaviour)
    token = policy_gradient.token(then, most=2.0)
    np.testing.assert_allclose(token, [[2, 0.5, 0], [0.5, 2, 1]], rtol=1e-5)
    cut = policy_gradient.token(then, most=1.5)
    np.testing.assert_allclose(cut, [[1.5, 0.5, 0], [0.5, 1.5, 1]], rtol=1e-5)
    whole = policy_gradient.response(then, most=2.0)
    np.testing.assert_allclose(whole, [[1, 1, 0], [1, 1, 1]], rtol=1e-5)
    same = then.replace(behaviour=old)
    for correct in policy_gradient.CORRECTIONS.values():
        np.testing.assert_array_equal(correct(same), action.astype(np.float32))
    weight = lambda old: policy_gradient.token(then.replace(old=old)).sum()
    assert not jax.grad(weight)(jnp.asarray(old)).any()


def behind_masks(action, fill):
    """Fields of three responses, with `fill` at every token that is no action."""
    rng = np.random.default_rng(0)
    draw = lambda: np.where(action, rng.normal(size=action.shape) - 2, fill)
    now = Now(*(array(draw()) for _ in range(4)))
    return now, Then(action, *(array(draw()) for _ in range(6)))


@pytest.mark.parametrize("name", [*LOSSES, *kl.ESTIMATORS])
def test_what_stands_behind_masks_is_never_read(name):
    loss = (LOSSES | kl.ESTIMATORS)[name]
    field = "value" if name in catalogue.VALUE else "logp"
    action = np.array([[1, 1, 0, 0], [1, 0, 0, 1], [0, 0, 0, 0]], bool)
    results = [
        value_and_gradient(loss, *behind_masks(action, fill), field)
        for fill in (np.nan, 0.0)
    ]
    for ours, zeros in zip(*results, strict=True):
        np.testing.assert_array_equal(ours, zeros)
        assert np.isfinite(ours).all() and not ours[~action].any()


@pytest.mark.parametrize("name", LOSSES)
def test_every_loss_passes_the_probe(name):
    critic = name in catalogue.VALUE
    assert callable(catalogue.bind_of_tokens(LOSSES[name], {}, "loss", critic=critic))


def test_every_loss_names_its_source():
    functions = (*LOSSES.values(), *policy_gradient.CORRECTIONS.values())
    for function in functions[:-2]:
        first = function.__doc__.splitlines()[0]
        assert re.search(r"arXiv:\d{4}\.\d{5}\b|, 19\d\d:", first), function


# Losses as a researcher might write them, and what is wrong with each.


def soft_clip(now, then, *, tau: float = 1.0):
    """SAPO's smooth gate, which is right."""
    gate = jax.nn.sigmoid(tau * (policy_gradient.ratio(now, then) - 1))
    return -4 / tau * gate * then.advantage


def optimistic(now, then):
    """The lower bound's opposite passes at a ratio of 1."""
    rho = policy_gradient.ratio(now, then)
    return -jnp.maximum(rho * then.advantage, jnp.clip(rho, 0.8, 1.2) * then.advantage)


def ascends(now, then):
    return policy_gradient.ratio(now, then) * then.advantage


def doubles(now, then):
    return -2 * policy_gradient.ratio(now, then) * then.advantage


def leaks(now, then):
    """CISPO without its stop-gradient."""
    return -policy_gradient.ratio(now, then) * then.advantage * now.logp


def overflows(now, then):
    return -jnp.expm1(jnp.square(now.logp - then.old) + now.logp - then.old) * (
        then.advantage
    )


def reduces(now, then):
    return ascends(now, then).mean(-1)


def reads_padding(now, then):
    return -then.advantage * (now.logp - (now.logp - then.old).mean(-1, keepdims=True))


def whitens(now, then):
    """Which must happen over the whole rollout, not over what a loss sees."""
    centred = then.advantage - jnp.where(then.action, then.advantage, 0).mean()
    return -policy_gradient.ratio(now, then) * centred


def fails(now, then):
    return now.logits


def forgets(now, then):
    reinforce = -now.logp * then.advantage
    del reinforce  # and returns nothing


def divides(now, then):
    gap = now.logp - then.old
    return -jnp.divide(gap, gap) * then.advantage


@catalogue.declare_policy(on_policy=False)
def clones(now, then):
    """Imitates its samples, whatever their advantage, and says so."""
    return -now.logp


@pytest.mark.parametrize(
    ("loss", "reason"),
    [
        (ascends, "policy gradient is minus the advantage"),
        (doubles, "policy gradient is minus the advantage"),
        (leaks, "policy gradient is minus the advantage"),
        (overflows, "not finite at a ratio of e"),
        (reduces, r"returns shape \(6,\) for 6 responses"),
        (reads_padding, "minus the advantage|depends on tokens that are no actions"),
        (whitens, "minus the advantage|depends on other responses"),
        (fails, "fails: AttributeError"),
        (forgets, "returns None for 6 responses"),
        (divides, "value that is not finite where policy and old policy are the same"),
    ],
)
def test_the_probe_refuses(loss, reason):
    with pytest.raises(errors.ConfigError, match=f"objective.loss: .*{reason}"):
        catalogue.bind_of_tokens(loss, {}, "objective")


@pytest.mark.parametrize("change", [reads_padding, whitens])
def test_the_probe_sees_dependence_by_itself(change):
    """Of losses that declare a gradient of their own, too."""
    loss = catalogue.declare_policy(on_policy=False)(lambda *a: change(*a))
    with pytest.raises(probe.Refusal, match="depends on"):
        probe.policy(loss, catalogue.traits(loss))


def test_the_probe_lets_right_losses_through():
    bound = catalogue.bind_of_tokens(soft_clip, dict(tau=2), "objective")
    assert bound.keywords == dict(tau=2.0)
    for loss in (optimistic, clones):
        catalogue.bind_of_tokens(loss, {}, "objective")
    with pytest.raises(errors.ConfigError, match=r"objective\.tua: unknown"):
        catalogue.bind_of_tokens(soft_clip, dict(tua=2), "objective")
    with pytest.raises(errors.ConfigError, match=r"most: 1\.0 is not above 1"):
        catalogue.bind_of_tokens(POLICY["dual_clip"], dict(most=1.0), "objective")


def test_what_cannot_be_declared():
    for fields in (dict(needs=("entropie",)), dict(per="sequence")):
        with pytest.raises(ValueError, match="unknown"):
            catalogue.declare_policy(**fields)(soft_clip)
