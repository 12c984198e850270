# SPDX-License-Identifier: Apache-2.0
"""Batches of a rollout: their order, and the loss that is learned from them."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from alignjax import errors
from alignjax.distributed import sharding
from alignjax.experiment import build
from alignjax.experiment import rollouts as online
from alignjax.losses import denominators
from alignjax.objectives import policy_gradient
from alignjax.rollouts import source
from alignjax.training import step
from alignjax.types import Sequences, TrainState
from tests.rollouts import small


def test_the_loss_follows_the_section_of_rollouts(folder):
    """Temperature and KL are named once, where responses are drawn."""
    kl = {"place": "loss", "estimator": "k2", "coefficient": 0.3}
    fields = dict(rollouts__temperature=1.3, rollouts__kl=kl)
    c = build.check(small.section(folder, **fields)).config
    options = dict(temperature=1.3, kl_estimator="k2", kl_coefficient=0.3)
    assert online.objective_section(c) == {**c.objective, **options}
    plain = build.check(small.section(folder)).config  # whose KL is in the rewards
    section = {**plain.objective, "temperature": 1.0}
    assert online.objective_section(plain) == section


def test_the_gradient_does_not_depend_on_microbatches(experiment, made):
    """Of responses of other lengths, under a denominator that differs between parts."""
    run, state, frozen = experiment
    counts = np.ones((8, 4), np.float32)
    counts[:3, 1:] = 0
    weights = denominators.token_mean(made[0].then.action, counts)
    host = functools.partial(np.asarray, dtype=np.float32)
    batch = made[0].replace(token=host(weights.token), share=host(weights.share))
    grads = []
    for parts in (1, 2, 4):
        train_step = step.make_train_step(
            run.objective, optax.sgd(1.0), microbatches=parts
        )
        begun = TrainState(
            jnp.int32(0), state.params, optax.sgd(1.0).init(state.params)
        )
        with sharding.use(run.mesh, run.rules):
            after, _ = jax.jit(train_step)(begun, frozen, batch, jax.random.key(0))
        moved = jax.tree.map(lambda a, b: np.asarray(a - b), after.params, state.params)
        grads.append(jax.tree.leaves(moved))
    for other in grads[1:]:
        for a, b in zip(other, grads[0], strict=True):
            np.testing.assert_allclose(a, b, rtol=0, atol=1e-5)
    assert max(np.abs(x).max() for x in grads[0]) > 1e-3


def test_text_is_learned_beside_responses_that_teach_nothing(experiment):
    """The division is by the responses that count, of which there are none."""
    run, state, frozen = experiment
    equal = small.with_rewards(experiment, lambda responses: [1.0] * len(responses))
    settings = dataclasses.replace(equal.settings, redraws=1)
    rollouts = dataclasses.replace(equal, settings=settings)
    row = dataclasses.asdict(Sequences.of([[1, 2, 3]] * 8, length=4))
    ptx = source.Pretraining(lambda rows: row, batch_size=8, coefficient=0.5)
    batches = source.Source(rollouts, frozen, 0, ptx)
    with sharding.use(run.mesh, run.rules):
        batch = batches(0, State(state))
    assert not np.asarray(batch.token).any()
    assert float(batch.share.sum()) == pytest.approx(1)
    assert float(batch.pretraining.weights.sum()) == pytest.approx(0.5)


class State:
    """As much of a state as a source of batches reads."""

    def __init__(self, state):
        self.params, self.extra = state.params, {}


def test_each_prompt_is_learned_once_an_epoch(experiment):
    run, state, frozen = experiment
    settings = dataclasses.replace(run.rollouts.settings, minibatches=3, epochs=2)
    rollouts = dataclasses.replace(run.rollouts, settings=settings)
    batches = source.Source(rollouts, frozen, seed=7)
    with sharding.use(run.mesh, run.rules):
        drawn = [batches(step, State(state)) for step in range(6, 12)]
    seen = [np.asarray(batch.responses.index[:, 0]) for batch in drawn]
    # Advantages are of the whole rollout, and no minibatch changes them.
    whole, _, _ = small.make(experiment, rollouts, number=1)
    row = {int(n): i for i, n in enumerate(whole.responses.index[:, 0])}
    for batch, numbers in zip(drawn, seen, strict=True):
        rows = [row[int(n)] for n in numbers]
        expected = whole.then.advantage[rows]
        np.testing.assert_allclose(batch.then.advantage, expected, atol=1e-6)
    for epoch in (seen[:3], seen[3:]):
        assert sorted(np.concatenate(epoch)) == list(range(24, 48))
    assert not np.array_equal(seen[0], seen[3])
    assert batches.figures(6)["rollout/length"] > 0 and batches.figures(7) == {}
    again = source.Source(rollouts, frozen, seed=7)
    with pytest.raises(errors.CheckpointError, match="within rollout"):
        again(8, State(state))


def test_corrections_weigh_the_loss_and_not_the_entropy(experiment, made):
    """As on a sampler whose log-probs are others; the denominator stays."""
    run, state, frozen = experiment
    cut = {"name": "token", "most": 1.5}
    objective = policy_gradient.make(run.model, entropy=0.5, correction=cut)
    batch, rng = made[0], np.random.default_rng(0)
    gap = rng.normal(size=batch.token.shape).astype(np.float32)
    then = batch.then.replace(behaviour=batch.then.old - gap)
    with sharding.use(run.mesh, run.rules):
        loss, means = objective.loss(
            state.params, frozen, batch.replace(then=then), None, True
        )
    weight = np.minimum(np.exp(gap), 1.5)
    expected = -(batch.token * weight * batch.then.advantage).sum()
    expected -= 0.5 * float(means["entropy"].total)
    assert float(loss.total) == pytest.approx(expected, rel=1e-3)
    assert float(loss.weight) == batch.share.sum()
    mean = weight[batch.then.action].mean()
    assert float(means["correction"].value()) == pytest.approx(mean, rel=1e-5)


def test_the_loss_is_the_sum_of_weighted_tokens_over_the_shares(experiment, made):
    run, state, frozen = experiment
    with sharding.use(run.mesh, run.rules):

        def loss(**changes):
            batch = made[0].replace(**changes)
            return run.objective.loss(state.params, frozen, batch, None, True)[0]

        batch = made[0]
        token = batch.token * (1 + (batch.then.advantage > 0))
        plain = loss(token=token, share=3 * batch.share)
    # The policy is the one that drew: each token's loss is minus its advantage.
    expected = -float((token * batch.then.advantage).sum())
    assert abs(expected) > 1
    assert float(plain.total) == pytest.approx(expected, rel=1e-3)
    assert float(plain.weight) == 3 * batch.share.sum()
