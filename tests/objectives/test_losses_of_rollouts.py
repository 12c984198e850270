# SPDX-License-Identifier: Apache-2.0
"""The loss of a rollout on a model to follow by hand: each term, and what is left out.

Whatever stands behind masks is not a number here.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from alignjax import errors
from alignjax.losses import denominators
from alignjax.objectives import policy_gradient
from alignjax.types import Frozen, Rollout, Then
from tests.objectives import batches, subject

K, ROOM, ROWS = 3, 8, 6  # the last row is padding
GROUPS = batches.groups(ROWS - 1, subject.V, K=K, values=False)


def words():
    """The token before each token of a response, and that token: int [6, 3, 8]."""
    before, token = np.zeros((2, ROWS, K, ROOM), int)
    for g, group in enumerate(GROUPS):
        for k, response in enumerate(group.responses):
            n = len(response)
            token[g, k, :n] = response
            before[g, k, :n] = [group.prompt[-1], *response[:-1]]
    return before, token


def table(params, temperature):
    """log p(token | the one before)."""
    return jax.nn.log_softmax(params["embed"] @ params["head"] / temperature)


def near(seed):
    """Parameters not far from those that are trained."""
    moved = lambda a, b: a + 0.1 * b
    return jax.tree.map(moved, subject.params(), subject.params(seed))


@functools.cache
def rollout(layout="padded", temperature=1.0) -> Rollout:
    """All responses count but one, as under a denominator of tokens."""
    responses = batches.make(GROUPS, layout, subject.T, rows=ROWS, per_row=1)
    action = np.arange(ROOM) < responses.lengths[:, 0, :, None]
    rng = np.random.default_rng(0)
    noise = lambda: rng.normal(size=action.shape)
    old, reference = (np.array(table(near(i), temperature))[words()] for i in (1, 2))
    fields = (noise(), old, old + noise() / 3, reference, noise(), noise())
    then = Then(action, *(np.where(action, x, np.nan) for x in fields))
    counts = np.ones((ROWS, K), np.float32)
    counts[1, 2] = 0
    weights = denominators.token_mean(action, counts)
    made = Rollout(responses, then, weights.token, weights.share)
    return jax.tree.map(jnp.asarray, made)


def learned(batch):
    return np.asarray(batch.then.action & (batch.token > 0))


@pytest.mark.parametrize(("layout", "temperature"), [("padded", 0.7), ("shared", 1.3)])
def test_every_term_and_metric_by_hand(layout, temperature):
    """PPO with a correction, less entropy, plus KL, all at one temperature."""
    batch = rollout(layout, temperature)
    there = learned(batch)
    objective = policy_gradient.make(
        subject.model(),
        entropy=0.2,
        correction={"name": "token", "most": 1.1},
        chunk=5,
        temperature=temperature,
        kl_estimator="exact",
        kl_coefficient=0.3,
    )

    def by_hand(params):
        log_p, log_q = (table(x, temperature) for x in (params, near(2)))
        before, _ = words()
        entropy = -(jnp.exp(log_p) * log_p).sum(-1)[before]
        kl = (jnp.exp(log_p) * (log_p - log_q)).sum(-1)[before]
        then = jax.tree.map(lambda x: jnp.where(there, x, 0), batch.then)
        log_ratio = log_p[words()] - then.old
        ratio, A = jnp.exp(log_ratio), then.advantage
        weight = jnp.minimum(jnp.exp(then.old - then.behaviour), 1.1)
        surrogate = jnp.maximum(-ratio * A, -jnp.clip(ratio, 0.8, 1.2) * A)
        each = weight * surrogate - 0.2 * entropy + 0.3 * kl
        figures = {
            "entropy": entropy,
            "ratio": ratio,
            "kl/old": 1 / ratio - 1 + log_ratio,
            "kl/loss": kl,
            "correction": weight,
            "advantage/abs": jnp.abs(A),
        }
        mean = lambda x, of=there: jnp.where(of, x, 0).sum() / of.sum()
        figures = {name: mean(x) for name, x in figures.items()}
        figures["clipped/up"] = mean(ratio > 1.2, there & (A > 0))
        figures["clipped/down"] = mean(ratio < 0.8, there & (A < 0))
        return mean(each), figures

    def ours(params):
        frozen = Frozen(reference=near(2))
        loss, means = objective.loss(params, frozen, batch, None, True)
        return loss.value(), {k: x.value() for k, x in means.items()}

    grad = lambda f: jax.jit(jax.value_and_grad(f, has_aux=True))(subject.params())
    (value, figures), gradient = grad(ours)
    (expected, named), slope = grad(by_hand)
    np.testing.assert_allclose(value, expected, rtol=1e-5)
    assert set(figures) == set(named)
    assert 0 < named["clipped/up"] < 1 and 0 < named["clipped/down"] < 1
    for name, x in named.items():
        np.testing.assert_allclose(figures[name], x, rtol=1e-4, err_msg=name)
    for a, b in zip(*map(jax.tree.leaves, (gradient, slope)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)


def test_a_batch_of_which_nothing_counts_has_no_figures_and_no_gradient():
    batch = rollout()
    batch = batch.replace(token=0 * batch.token, share=0 * batch.share)
    objective = policy_gradient.make(subject.model(), entropy=0.2, chunk=100)

    def total(params):
        frozen = Frozen(reference=near(2))
        loss, means = objective.loss(params, frozen, batch, None, True)
        return loss.total, [loss.weight, *jax.tree.leaves(means)]

    gradient, sums = jax.jit(jax.grad(total, has_aux=True))(subject.params())
    assert not any(np.asarray(x).any() for x in sums)
    assert not any(np.asarray(x).any() for x in jax.tree.leaves(gradient))


def test_a_critic_learns_from_what_counts_alone():
    """A mean over actions, of the value of the state before each."""
    params, batch = subject.params(0, heads=1), rollout()
    critic = policy_gradient.critic(subject.model(heads=1))
    learn = jax.jit(lambda params: critic.loss(params, Frozen(), batch, None, True))
    loss, means = learn(params)
    there, before = learned(batch), words()[0]
    value = np.asarray(params["embed"] @ params["scores"])[before, 0][there]
    expected = np.square(value - np.asarray(batch.then.returns)[there]).mean() / 2
    np.testing.assert_allclose(loss.value(), expected, rtol=1e-5)
    np.testing.assert_allclose(means["value"].value(), value.mean(), rtol=1e-5)


@pytest.mark.parametrize("heads", [0, 2])
def test_a_critic_has_one_head(heads):
    with pytest.raises(errors.ConfigError, match=r"critic\.run: .*heads"):
        policy_gradient.critic(subject.model(heads))
