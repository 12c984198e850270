# SPDX-License-Identifier: Apache-2.0
"""Optimizers: who is decayed, what is clipped, what is averaged, what is refused."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from alignjax import errors, types
from alignjax.training import optim, state, step

PARAMS = {
    "embed": jnp.full((4, 3), 2.0),
    "layers": {
        "mlp": {"up": {"kernel": jnp.ones((2, 3, 5))}},
        "o": {"kernel": jnp.ones((2, 2, 4, 3))},
        "norm": {"scale": jnp.ones((2, 3))},
    },
}
ZERO = jax.tree.map(jnp.zeros_like, PARAMS)


def build(rate=0.1, **section):
    return optim.build({"decay": ".*kernel", **section}, rate)


def after(optimizer, grads, steps=1):
    params, state = PARAMS, optimizer.init(PARAMS)
    for _ in range(steps):
        updates, state = optimizer.update(grads, state, params)
        params = optax.apply_updates(params, updates)
    return params, state


@pytest.mark.parametrize("name", ["adamw", "lion", "muon", "sgd", "adafactor"])
def test_decay_follows_the_mask(name):
    decayed, _ = after(build(name=name, weight_decay=0.5), ZERO)
    kernel = decayed["layers"]["mlp"]["up"]["kernel"]
    assert (kernel < 1).all()
    np.testing.assert_array_equal(decayed["embed"], PARAMS["embed"])
    np.testing.assert_array_equal(decayed["layers"]["norm"]["scale"], 1.0)


@pytest.mark.parametrize("name", ["adamw", "lion", "muon", "sgd", "adafactor"])
def test_every_optimizer_descends_a_bowl(name):
    optimizer = build(0.2, name=name, weight_decay=0.0)
    loss = lambda p: sum(jnp.square(x - 0.3).sum() for x in jax.tree.leaves(p))

    def step(carry, _):
        params, state = carry
        updates, state = optimizer.update(jax.grad(loss)(params), state, params)
        return (optax.apply_updates(params, updates), state), None

    params, _ = jax.lax.scan(step, (PARAMS, optimizer.init(PARAMS)), length=60)[0]
    assert loss(params) < 0.2 * loss(PARAMS)


@pytest.mark.parametrize("name", ["adamw", "lion", "muon", "sgd", "adafactor"])
def test_decay_is_in_proportion_to_the_rate(name):
    decayed, _ = after(build(0.01, name=name, weight_decay=0.5), ZERO, steps=2)
    kernel = decayed["layers"]["mlp"]["up"]["kernel"]
    np.testing.assert_allclose(kernel, (1 - 0.01 * 0.5) ** 2, rtol=1e-6)


def test_clips_the_norm_of_the_whole_gradient():
    grads = jax.tree.map(lambda x: 100.0 * jnp.ones_like(x), PARAMS)
    clipped, _ = after(build(1.0, name="sgd", clip_norm=2.0), grads)
    moved = jax.tree.map(lambda a, b: a - b, PARAMS, clipped)
    assert optax.tree.norm(moved) == pytest.approx(2.0, rel=1e-5)


def test_muon_moves_matrices_orthogonally_and_scales_to_rms():
    grads = jax.tree.map(
        lambda x: jax.random.normal(jax.random.key(x.size), x.shape), PARAMS
    )
    moved, _ = after(build(1.0, name="muon", weight_decay=0.0), grads)
    for name, rows in (("mlp", 3), ("o", 8)):
        old, new = PARAMS["layers"][name], moved["layers"][name]
        old, new = (x["up"] if name == "mlp" else x for x in (old, new))
        for update in (new["kernel"] - old["kernel"]).reshape(2, rows, -1):
            spectrum = np.linalg.svd(update, compute_uv=False)
            assert spectrum.max() / spectrum.min() < 2.0  # Newton-Schulz is rough
            rms = np.sqrt(np.square(update).mean())
            side = np.sqrt(min(update.shape) / max(update.shape))
            assert rms == pytest.approx(0.2, rel=0.35), side


def test_muon_moves_each_expert_as_a_matrix_of_its_own():
    """As a dense kernel with the same gradient would move; [L, E, D, F]."""
    grads = jax.random.normal(jax.random.key(0), (2, 3, 4, 5))
    move = lambda name, g: _moved({"layers": {name: {"up": {"kernel": g}}}})
    experts = move("moe", grads)["layers"]["moe"]["up"]["kernel"]
    for e in range(3):
        dense = move("mlp", grads[:, e])["layers"]["mlp"]["up"]["kernel"]
        np.testing.assert_allclose(experts[:, e], dense, rtol=1e-5, atol=1e-7)


def _moved(grads):
    muon = build(name="muon", weight_decay=0.0)
    params = jax.tree.map(jnp.ones_like, grads)
    return muon.update(grads, muon.init(params), params)[0]


def test_average_is_the_formula_and_changes_no_update():
    """Of weights that go from 2 to 1.9, 1.8 and 1.7."""
    copies = optim.moving_copies(0.9, None, None)
    total = lambda params, *_: (types.Mean(optax.tree.sum(params), 1.0), {})
    found = []
    for chosen in (copies, {}):
        sgd = build(name="sgd")
        run = step.make_train_step(types.Objective(total), sgd, copies=chosen)
        now = state.begin(PARAMS, sgd, chosen)
        for _ in range(3):
            now, _ = run(now, types.Frozen(), {}, jax.random.key(0))
        found.append(now)
    jax.tree.map(np.testing.assert_array_equal, found[0].params, found[1].params)
    expected = 2.0
    for count in (1, 2, 3):
        expected = 0.9 * expected + 0.1 * (2.0 - 0.1 * count)
    np.testing.assert_allclose(found[0].extra["average"]["embed"], expected, rtol=1e-6)
    assert found[1].extra == {}


@pytest.mark.parametrize(
    "section,message",
    [
        (dict(name="adam"), "optimizer.name: unknown optimizer 'adam'; did you mean"),
        (dict(name="lion", eps=1e-8), "optimizer.eps: unknown field"),
        (dict(name="adamw", momentum=0.9), "optimizer.momentum: unknown field"),
        (dict(name="adamw", b1="0.9"), "optimizer.b1: '0.9' is str"),
        (
            dict(name="adamw", clip_norm=0.0),
            "optimizer.clip_norm: 0.0 must be positive",
        ),
        (dict(name="adamw", b2=1.0), "optimizer.b2: 1.0 is not in [0, 1)"),
        (dict(name="adamw", eps=0.0), "optimizer.eps: 0.0 is not above 0"),
        (dict(name="sgd", weight_decay=-5.0), "optimizer.weight_decay: -5.0 is not at"),
        (dict(name="sgd", momentum=5.0), "optimizer.momentum: 5.0 is not in [0, 1)"),
        (dict(name="muon", rms=-1.0), "optimizer.rms: -1.0 is not above 0"),
        (dict(name="adafactor", factor_from=0), "optimizer.factor_from: 0 is not at"),
    ],
    ids=str,
)
def test_refuses(section, message):
    with pytest.raises(errors.ConfigError) as error:
        build(**section)
    assert message in str(error.value)


def test_a_decay_pattern_that_matches_nothing_is_refused():
    with pytest.raises(ValueError, match=r"'kernels' matches no parameter"):
        optim.build({"name": "adamw", "decay": "kernels"}, 0.1).init(PARAMS)


@pytest.mark.parametrize("name", ["adamw", "lion", "muon", "sgd", "adafactor"])
def test_the_rate_is_that_of_the_optimizers_own_count(name):
    schedule = optax.linear_schedule(1.0, 0.0, 10)
    optimizer = optim.build(dict(name=name, decay=".*kernel", clip_norm=1.0), schedule)
    _, opt_state = after(optimizer, ZERO, steps=3)
    left_out = types.TrainState(7, PARAMS, opt_state)
    run = optim.with_rate(lambda state, *_: (state, {"loss": 1.0}), schedule)
    _, metrics = run(left_out, None, None, None)
    assert float(metrics["learning_rate"]) == pytest.approx(0.7)
