# SPDX-License-Identifier: Apache-2.0
"""Algorithms where the right answer is known: three actions, and two tokens of three.

A prompt has three responses of one token, with known rewards. The policy that is best
under a KL penalty is the reference tilted by the reward, and an algorithm is right if
it gets there. Expected gradients are sums over all groups of samples.
"""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from alignjax.losses import advantages, catalogue, kl, policy_gradient
from alignjax.losses.advantages import ADVANTAGES, Outcome
from alignjax.types import Now, Then

POLICY = catalogue.POLICY_GRADIENT
REWARD = np.array([1.0, 0.0, -1.0])
REFERENCE = np.log([0.5, 0.3, 0.2])
THETA = np.array([0.3, -0.2, 0.1])
BETA = 2.0


@pytest.fixture(autouse=True)
def double_precision():
    with jax.enable_x64(True):
        yield


def objective(theta, reward=REWARD):
    """E r - beta KL(policy || reference)."""
    log_p = jax.nn.log_softmax(theta)
    return (jnp.exp(log_p) * (reward - BETA * (log_p - REFERENCE))).sum()


def outcome_of(actions_GK, theta, k1_coefficient=0.0, reward=REWARD, **fields):
    """What the drawn actions, int [G, K], earned."""
    log_p = jax.nn.log_softmax(jax.lax.stop_gradient(theta))
    k1_GK = kl.k1(log_p, REFERENCE)[actions_GK]
    action = np.ones((*actions_GK.shape, 1), bool)
    earned = advantages.token_rewards(
        jnp.asarray(reward)[actions_GK], action, k1_GK[..., None], k1_coefficient
    )
    yes = np.ones(actions_GK.shape, bool)
    return Outcome(earned, action, yes, yes, **fields)


def loss_of(loss, theta, actions_GK, advantage_GKT):
    """A policy's loss of the drawn actions [G, K], and `Now` and `Then`."""
    log_p = jax.nn.log_softmax(theta)
    logp = log_p[actions_GK][..., None]
    old = jax.lax.stop_gradient(logp)
    reference = jnp.asarray(REFERENCE)[actions_GK][..., None]
    exact = (jnp.exp(log_p) * (log_p - REFERENCE)).sum() * jnp.ones_like(logp)
    then = Then(np.ones(logp.shape, bool), advantage_GKT, old, reference=reference)
    now = Now(logp, kl=exact)
    return loss(now, then)[..., 0], now, then


def ascent(name, loss="reinforce", K=2):
    """The expected gradient over all groups of K samples, KL in the reward, upwards."""
    groups = np.array(list(itertools.product(range(3), repeat=K)))
    often = np.exp(jax.nn.log_softmax(THETA))[groups].prod(-1)
    # A bad critic and any greedy response: baselines that do not see the action.
    fields = dict(value=np.full((*groups.shape, 1), 0.7), greedy=np.full(3**K, -0.4))
    outcome = outcome_of(groups, THETA, BETA, **fields)
    learned = ADVANTAGES[name](outcome).advantage

    def total(theta):
        loss_GK, _, _ = loss_of(POLICY[loss], theta, groups, learned)
        return -(often * loss_GK.mean(-1)).sum()

    return np.asarray(jax.grad(total)(jnp.asarray(THETA)))


def test_expected_gradients_over_all_groups():
    exact = np.asarray(jax.grad(objective)(jnp.asarray(THETA)))
    np.testing.assert_allclose(exact, [0.583149, 0.098195, -0.681344], atol=1e-6)
    for name in ("rloo", "reinforce", "remax", "gae"):
        np.testing.assert_allclose(ascent(name), exact, atol=1e-6, err_msg=name)
    np.testing.assert_allclose(ascent("rloo", K=3), exact, atol=1e-6)
    # Half of it: the baseline sees the response itself, (K-1)/K.
    np.testing.assert_allclose(ascent("dr_grpo"), exact / 2, atol=1e-6)
    grpo = [0.171341, -0.013217, -0.158124]
    np.testing.assert_allclose(ascent("grpo"), grpo, atol=2e-4)


@pytest.mark.parametrize("loss", POLICY)
def test_at_the_first_update_every_loss_is_reinforce(loss):
    exact = np.asarray(jax.grad(objective)(jnp.asarray(THETA)))
    np.testing.assert_allclose(ascent("rloo", loss), exact, atol=1e-6)


def descend(name, loss="ppo_clip", estimator="exact", reward=REWARD, steps=400):
    """The policy after descent on a group as large as a population, KL in the loss."""
    shares = (np.arange(2000) + 0.5) / 2000

    def step(theta, _):
        p = jax.nn.softmax(theta)
        drawn = jnp.searchsorted(jnp.cumsum(p), shares)[None].clip(0, 2)
        fields = dict(greedy=jnp.zeros(1), value=jnp.full((1, 2000, 1), 0.1))
        outcome = outcome_of(drawn, theta, reward=reward, **fields)
        learned = ADVANTAGES[name](outcome).advantage

        def total(theta):
            loss_GK, now, then = loss_of(POLICY[loss], theta, drawn, learned)
            penalty = kl.ESTIMATORS[estimator](now, then)[..., 0]
            return (loss_GK + BETA * penalty).mean()

        return theta - 0.3 * jax.grad(total)(theta), None

    theta, _ = jax.lax.scan(step, jnp.zeros(3), length=steps)
    return np.asarray(jax.nn.softmax(theta))


TILT = [0.661783, 0.240835, 0.097382]
BY_SPREAD = [0.765077, 0.185142, 0.049781]  # tilted by r/(beta sigma)
FORWARD = [0.650458, 0.236464, 0.113078]
FORWARD_BY_SPREAD = [0.709397, 0.202204, 0.088399]


@pytest.mark.parametrize(
    ("name", "optimum"),
    [
        *((n, TILT) for n in ("reinforce", "rloo", "dr_grpo", "remax", "gae")),
        *((n, BY_SPREAD) for n in ("grpo", "batch_std", "reinforce_pp")),
        *((n, BY_SPREAD) for n in ("reinforce_pp_baseline", "gae_whitened")),
    ],
)
def test_every_advantage_reaches_its_optimum(name, optimum):
    np.testing.assert_allclose(descend(name), optimum, atol=2e-3)


@pytest.mark.parametrize(
    "name", ["batch_std", "reinforce_pp", "reinforce_pp_baseline", "gae_whitened"]
)
def test_one_spread_of_reward_and_kl_keeps_the_optimum(name):
    """With the KL in the reward both are divided: the exact gradient but for size."""
    shares = (np.arange(200_000) + 0.5) / 200_000
    p = np.exp(jax.nn.log_softmax(THETA))
    drawn = np.searchsorted(np.cumsum(p), shares)[None].clip(0, 2)
    outcome = outcome_of(drawn, THETA, BETA, value=np.full((*drawn.shape, 1), 0.1))
    learned = ADVANTAGES[name](outcome).advantage
    total = lambda theta: -loss_of(POLICY["reinforce"], theta, drawn, learned)[0].mean()
    gradient = np.asarray(jax.grad(total)(jnp.asarray(THETA)))
    exact = np.asarray(jax.grad(objective)(jnp.asarray(THETA)))
    size = np.linalg.norm(exact) / np.linalg.norm(gradient)
    np.testing.assert_allclose(size * gradient, exact, atol=1e-3)
    assert abs(size - 1) > 0.05


def test_the_optima_are_tilts_of_the_reference():
    p = np.array(BY_SPREAD)
    sigma = np.sqrt(p @ REWARD**2 - (p @ REWARD) ** 2)
    for optimum, beta in ((TILT, BETA), (BY_SPREAD, BETA * sigma)):
        tilted = np.exp(REFERENCE + REWARD / beta)
        np.testing.assert_allclose(optimum, tilted / tilted.sum(), atol=2e-6)


def test_every_advantage_is_tested():
    cases = test_every_advantage_reaches_its_optimum.pytestmark[0].args[1]
    assert {name for name, _ in cases} == set(ADVANTAGES)


@pytest.mark.parametrize(
    ("name", "estimator", "optimum"),
    [
        ("rloo", "k2", TILT),
        ("rloo", "k3_ratio", TILT),
        ("rloo", "k3", FORWARD),
        ("grpo", "k3", FORWARD_BY_SPREAD),  # as published
    ],
)
def test_the_estimator_moves_the_optimum(name, estimator, optimum):
    np.testing.assert_allclose(descend(name, estimator=estimator), optimum, atol=2e-3)


def test_a_spread_takes_the_scale_of_rewards_away():
    by_ten = descend("grpo", reward=10 * REWARD)
    np.testing.assert_allclose(by_ten, BY_SPREAD, atol=2e-3)
    assert descend("rloo", reward=10 * REWARD)[0] > 0.98


def test_ppo_improves_with_every_rollout():
    """Exact advantages, five updates a rollout, the clip holding each near."""

    def rollout(theta, _):
        old = jax.nn.log_softmax(theta)
        p = jnp.exp(old)
        value = (p * REWARD).sum()
        advantage = jnp.asarray(REWARD - value)[:, None]
        then = Then(np.ones((3, 1), bool), advantage, old[:, None])

        def total(theta):
            now = Now(jax.nn.log_softmax(theta)[:, None])
            return (p[:, None] * POLICY["ppo_clip"](now, then)).sum()

        for _ in range(5):
            theta = theta - 1.0 * jax.grad(total)(theta)
        ratio = jnp.exp(jax.nn.log_softmax(theta) - old)
        return theta, (value, ratio[0])

    _, (values, ratios) = jax.lax.scan(rollout, jnp.asarray(THETA), length=8)
    assert (np.diff(values) > 0).all() and values[-1] > 0.9
    assert ratios.max() < 1.5  # without the clip the first rollout alone goes to 2.4


def test_another_sampler_is_corrected():
    """Sampled by other probabilities: with the ratio the gradient is exact per action,
    and a cut leaves out what is known."""
    log_p = jax.nn.log_softmax(jnp.asarray(THETA))
    sampler = jnp.log(jnp.array([0.2, 0.2, 0.6]))
    actions = np.arange(3)[:, None]
    learned = jnp.asarray(REWARD)[:, None, None]

    def gradient(most):
        def total(theta):
            _, now, then = loss_of(POLICY["reinforce"], theta, actions, learned)
            then = then.replace(behaviour=sampler[actions][..., None])
            weight = policy_gradient.token(then, most=most)
            loss = POLICY["reinforce"](now, then)
            return (jnp.exp(sampler) * (weight * loss)[:, 0, 0]).sum()

        return np.asarray(jax.grad(total)(jnp.asarray(THETA)))

    reward = lambda theta: -(jax.nn.softmax(theta) * REWARD).sum()
    exact = np.asarray(jax.grad(reward)(jnp.asarray(THETA)))
    np.testing.assert_allclose(gradient(1e9), exact, atol=1e-7)
    w = np.exp(log_p - sampler)
    scores = np.eye(3) - np.exp(log_p)
    bias = (np.exp(sampler) * (w - np.minimum(w, 1.5)) * REWARD) @ scores
    np.testing.assert_allclose(gradient(1.5), exact + bias, atol=1e-7)
    assert np.abs(bias).max() > 1e-2


@pytest.mark.parametrize("lam", [0.0, 0.5, 1.0])
def test_gae_is_unbiased_where_the_critic_is_right(lam):
    """Two tokens of three words; with a wrong critic lambda must be 1."""
    rng = np.random.default_rng(0)
    theta, reward = jnp.asarray(rng.normal(size=(4, 3))), rng.normal(size=9)
    first, second = np.divmod(np.arange(9), 3)
    states = np.stack([0 * first, 1 + first], -1)
    words = np.stack([first, second], -1)

    def drawn(theta):
        return jax.nn.log_softmax(theta)[states, words]

    mean = lambda theta: (jnp.exp(drawn(theta).sum(-1)) * reward).sum()
    exact = np.asarray(jax.grad(mean)(theta))
    often = np.exp(drawn(theta).sum(-1))
    value = np.zeros((9, 2))
    value[:, 0] = often @ reward
    for a in range(3):
        there = first == a
        value[there, 1] = (often * reward)[there].sum() / often[there].sum()
    action = np.ones((9, 1, 2), bool)
    yes = np.ones((9, 1), bool)
    earned = advantages.token_rewards(reward[:, None], action)

    def gradient(value):
        outcome = Outcome(earned, action, yes, yes, jnp.asarray(value)[:, None])
        learned = advantages.gae(outcome, lam=lam).advantage[:, 0]

        def total(theta):
            then = Then(action[:, 0], learned, drawn(theta))
            loss_BT = POLICY["reinforce"](Now(drawn(theta)), then)
            return -(often * loss_BT.sum(-1)).sum()

        return np.asarray(jax.grad(total)(theta))

    np.testing.assert_allclose(gradient(value), exact, atol=1e-6)
    wrong = value + rng.normal(size=4)[states]
    assert np.allclose(gradient(wrong), exact, atol=1e-6) == (lam == 1.0)
