# SPDX-License-Identifier: Apache-2.0
"""Losses on policies small enough to know the answer: three actions and a softmax."""

import itertools
import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from alignjax.losses import preference
from alignjax.types import LogProbs

FILE = pathlib.Path(__file__).parent.parent / "golden" / "objectives.json"
GOLDEN = json.loads(FILE.read_text())
PAIRS = np.array(list(itertools.permutations(range(3), 2)))  # (chosen, rejected)
REWARD = np.array([1.0, 0.0, -1.0])
UNIFORM = np.full(3, 1 / 3)


@pytest.fixture(autouse=True)
def double_precision():
    with jax.enable_x64(True):
        yield


def logprobs(policy):
    """All ordered pairs of actions, as responses of one token."""
    return LogProbs(jnp.log(policy)[PAIRS], jnp.ones(PAIRS.shape))


def wins(probability_KK):
    """How often each ordered pair is drawn with this winner: actions are uniform."""
    return probability_KK[tuple(PAIRS.T)] / 3


def descend(loss, weight_B, rate, steps):
    """The softmax policy that gradient descent on the expected loss reaches."""

    def expected(theta):
        policy = logprobs(jax.nn.softmax(theta))
        return (weight_B * loss(policy, logprobs(jnp.asarray(UNIFORM)))).sum()

    def step(theta, _):
        return theta - rate * jax.grad(expected)(theta), None

    theta, _ = jax.lax.scan(step, jnp.zeros(3), length=steps)
    return jax.nn.softmax(theta)


def bradley_terry():
    return 1 / (1 + np.exp(REWARD - REWARD[:, None]))


def test_dpo_finds_the_optimum_of_rlhf():
    """On all of Bradley and Terry's comparisons: pi ~ ref e^(reward/beta)."""
    loss = lambda p, r: preference.dpo(p, r, beta=0.5)
    policy = descend(loss, wins(bradley_terry()), rate=4.0, steps=2000)
    tilted = np.exp(REWARD / 0.5)
    np.testing.assert_allclose(policy, tilted / tilted.sum(), rtol=1e-6)
    np.testing.assert_allclose(policy, GOLDEN["tab.rlhf_opt(beta=0.5)"], rtol=1e-6)


def test_f_dpo_finds_the_optimum_of_its_divergence():
    """Where the reward is beta f'(pi/ref) up to a constant, as its paper derives."""
    for name, alpha in (("jensen_shannon", None), ("alpha", 0.5)):
        loss = lambda p, r, name=name, alpha=alpha: preference.f_dpo(
            p, r, beta=2.0, divergence=name, alpha=alpha
        )
        policy = descend(loss, wins(bradley_terry()), rate=1.0, steps=4000)
        u = np.asarray(policy) / UNIFORM
        slope = np.log(2 * u / (1 + u)) if alpha is None else (1 - u**-0.5) / 0.5
        np.testing.assert_allclose(np.diff(2.0 * slope), np.diff(REWARD), rtol=1e-5)


@pytest.mark.parametrize("tau", [0.5, 1.0])
def test_ipo_finds_its_closed_form(tau):
    """pi ~ ref e^(p(y beats ref)/tau), for sampled and for certain preferences."""
    loss = lambda p, r: preference.ipo(p, r, beta=tau)
    certain = np.triu(np.ones((3, 3)), 1)
    for table, key in (
        (bradley_terry(), "ipo_opt"),
        (certain, "ipo_opt_deterministic"),
    ):
        policy = descend(loss, wins(table), rate=0.1, steps=1000)
        beats = (table + 0.5 * np.eye(3) * (table[0, 0] == 0)) @ UNIFORM
        closed = UNIFORM * np.exp(beats / tau)
        np.testing.assert_allclose(policy, closed / closed.sum(), rtol=1e-6)
        np.testing.assert_allclose(policy, GOLDEN[f"tab.{key}(tau={tau})"], rtol=1e-6)


def test_certain_preferences_never_stop_dpo():
    """Where IPO has an optimum: every further step takes DPO further."""
    weight_B = wins(np.triu(np.ones((3, 3)), 1))
    loss = lambda p, r: preference.dpo(p, r, beta=0.5)
    rare = [descend(loss, weight_B, 4.0, steps)[2] for steps in (100, 400, 1600)]
    assert rare[0] > 2 * rare[1] > 4 * rare[2]


# What the actions have in common: the chosen one (1) and the rejected one (0) lie along
# a direction on which a third, of which no pair speaks, lies further still.
FEATURES = jnp.array([1.0, 0.0, 3.0])


def displaced(loss, steps=200, rate=0.5):
    """(probabilities, loss at the start, at the end) after descent on a single pair."""
    # The third action is unlikely at first.
    before = jnp.array([0.4, 0.4, 0.2])
    one = lambda p: LogProbs(jnp.log(p)[None, :2], jnp.ones((1, 2)))
    policy = lambda theta: jax.nn.softmax(jnp.log(before) + theta * FEATURES)
    cost = lambda theta: loss(one(policy(theta)), one(before))[0]
    step = lambda theta, _: (theta - rate * jax.grad(cost)(theta), None)
    theta, _ = jax.lax.scan(step, jnp.zeros(()), length=steps)
    return policy(theta), cost(0.0), cost(theta)


def test_dpo_displaces_the_chosen_response():
    """The margin grows while chosen and rejected both lose to what no pair names."""
    after, first, last = displaced(lambda p, r: preference.dpo(p, r, beta=0.1))
    assert last < first < 0.7
    assert after[0] < 0.4 and after[1] < after[0]
    assert after[2] > 0.9


@pytest.mark.parametrize(
    "loss",
    [
        lambda p, r: preference.dpop(p, r, beta=0.1, penalty=5.0),
        lambda p, r: preference.rpo(p, r, beta=0.1, eta=10.0),
    ],
    ids=["dpop", "rpo"],
)
def test_what_is_made_against_displacement_prevents_it(loss):
    after, first, last = displaced(loss)
    assert last <= first
    assert after[0] > 0.39 and after[2] < 0.3


def test_robust_dpo_recovers_what_noise_hides():
    """With labels flipped, its optimum is the clean one's and cDPO's is shrunken."""
    flips = 0.2
    clean = bradley_terry()
    noisy = (1 - flips) * clean + flips * clean.T
    tilted = np.exp(REWARD / 2.0)
    tilted /= tilted.sum()
    run = lambda loss: descend(
        lambda p, r: loss(p, r, beta=2.0, label_smoothing=flips),
        wins(noisy),
        rate=0.3,
        steps=2000,
    )
    np.testing.assert_allclose(run(preference.robust), tilted, rtol=1e-4)
    assert run(preference.dpo)[0] < 0.9 * tilted[0]
