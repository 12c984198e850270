# SPDX-License-Identifier: Apache-2.0
"""A reference that moves: when, how far, and what the loss then compares with."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from alignjax import errors, objectives, trees, types
from alignjax.training import optim, state, step
from tests.objectives import subject

RATE = 0.5


@pytest.fixture(scope="module")
def objective():
    section = dict(name="preference", loss="dpo", beta=0.5)
    return objectives.build(subject.model(), section)


def start(objective, every, share, params):
    """A step that moves the reference too, and the state that it starts from."""
    copies = optim.moving_copies(None, every, share)
    run = step.make_train_step(objective, optax.sgd(RATE), copies=copies)
    return jax.jit(run), state.begin(params, optax.sgd(RATE), copies)


def reference(state, base=None):
    return optim.with_moving_reference(types.Frozen(base or {}), state.extra).reference


def by_hand(objective, every, share, steps):
    """Losses and references of plain descent, the reference moved outside the step."""
    total = lambda params, frozen: (
        objective.loss(params, frozen, batch, None, True)[0].total
    )
    weight = float(subject.batch().weights.sum())
    batch, ask = subject.batch(), jax.jit(jax.value_and_grad(total))
    params = old = jax.device_get(subject.params())
    for i in range(1, steps + 1):
        loss, grads = ask(params, types.Frozen(reference=old))
        params = jax.tree.map(lambda p, g: p - RATE * g / weight, params, grads)
        if i % every == 0:
            old = {k: share * params[k] + (1 - share) * old[k] for k in old}
        yield loss / weight, old


@pytest.mark.parametrize("every,share", [(1, 0.6), (2, 0.5), (3, 1.0)])
def test_six_steps_are_those_of_a_loop_by_hand(objective, every, share):
    run, state = start(objective, every, share, subject.params())
    frozen, key = types.Frozen(), jax.random.key(0)
    moved, losses = [], []
    for loss, expected in by_hand(objective, every, share, steps=6):
        before = jax.device_get(reference(state))
        state, metrics = run(state, frozen, subject.batch(), key)
        after = jax.device_get(reference(state))
        assert float(metrics["loss"]) == pytest.approx(float(loss), rel=1e-5)
        jax.tree.map(
            lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-6),
            after,
            expected,
        )
        moved.append(not np.array_equal(before["embed"], after["embed"]))
        losses.append(float(metrics["loss"]))
    assert moved == [i % every == 0 for i in range(1, 7)]
    assert losses[0] == pytest.approx(np.log(2), abs=1e-6)
    if share == 1:  # a copy to the last bit, and so the loss is as at first
        jax.tree.map(np.testing.assert_array_equal, after, state.params)
        assert losses[3] == pytest.approx(np.log(2), abs=1e-6)
        assert losses[2] < np.log(2) - 1e-3


def test_the_evaluation_compares_with_where_it_is(objective):
    run, state = start(objective, 2, 1.0, subject.params())
    evaluate = jax.jit(step.make_eval_step(objective))
    for expected in (False, True):
        state, _ = run(state, types.Frozen(), subject.batch(), jax.random.key(0))
        frozen = optim.with_moving_reference(types.Frozen(), state.extra)
        means = evaluate(state.params, frozen, subject.batch())
        same = float(means["loss"].value()) == pytest.approx(np.log(2), abs=1e-6)
        assert same == expected


def test_what_is_not_trained_is_the_same_in_both(objective):
    part, base = trees.partition("embed", subject.params())
    run, state = start(objective, 1, 0.5, part)
    assert state.extra["reference"]["params"].keys() == {"embed"}
    state, _ = run(state, types.Frozen(base), subject.batch(), jax.random.key(0))
    found = reference(state, base)
    assert found["head"] is base["head"]
    middle = (part["embed"] + state.params["embed"]) / 2
    np.testing.assert_allclose(found["embed"], middle, rtol=1e-6)
    assert np.abs(part["embed"] - state.params["embed"]).max() > 1e-3


def test_an_update_that_was_left_out_does_not_count(objective):
    run, state = start(objective, 2, 1.0, subject.params())
    bad = subject.batch().replace(weights=subject.batch().weights * jnp.nan)
    for batch, updates in ((subject.batch(), 1), (bad, 1), (subject.batch(), 2)):
        state, metrics = run(state, types.Frozen(), batch, jax.random.key(0))
        assert float(metrics["skipped"]) == (batch is bad)
        assert int(state.extra["reference"]["updates"]) == updates
    assert int(state.step) == 3
    jax.tree.map(np.testing.assert_array_equal, reference(state), state.params)


def test_a_reference_that_stays_is_left_as_it_is():
    frozen = types.Frozen({}, subject.params(1))
    average = optim.moving_copies(0.9, None, None)["average"]
    extra = {"average": average.init(subject.params())}
    assert optim.with_moving_reference(frozen, extra) is frozen


def test_factors_of_adapters_are_copied_and_never_averaged():
    adapters = {"layers": {"q": {"lora_a": jnp.ones(3), "lora_b": jnp.zeros(3)}}}
    optim.moving_reference(4, 1.0).init(adapters)
    with pytest.raises(
        errors.ConfigError, match=r"reference.update_share: 0.6 .*lora_a"
    ):
        optim.moving_reference(1, 0.6).init(adapters)
