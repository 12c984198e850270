# SPDX-License-Identifier: Apache-2.0
"""The step: one trajectory whatever the mesh, the microbatches and the padding."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from alignjax import models, objectives
from alignjax.distributed import sharding
from alignjax.training import optim, state, step
from alignjax.types import Frozen, Mean, Objective, TrainState
from tests import rows
from tests.fixtures import marks

V, T, B = 50, 16, 16
MODEL = dict(
    family="llama", name="nano", d_model=16, layers=2, d_ff=24, kv_heads=2, max_length=T
)


def ragged_batches(steps, seed=0):
    """Rows whose weights differ much, so that a mean of means would be seen."""
    for i in range(steps):
        docs = rows.documents(40, T, V, seed=100 * seed + i)
        packed = rows.packed(docs, T)
        yield jax.tree.map(lambda x: x[:B], packed)


def trajectory(shape, microbatches, *, devices=None, steps=4, batches=ragged_batches):
    """Losses and gradient norms of a few steps."""
    mesh = sharding.make_mesh(shape, devices)
    rules = sharding.rules()
    model = models.build(MODEL, V)
    objective = objectives.build(
        model, dict(name="language_model", z_loss=1e-3, chunk=6)
    )
    adamw = dict(name="adamw", clip_norm=1.0, decay=".*(kernel|embed)")
    optimizer = optim.build(adamw, 1e-2)
    found = []
    with sharding.use(mesh, rules):
        abstract = state.abstract_state(model, optimizer, mesh, rules)
        train_state = state.init_state(model, optimizer, abstract, jax.random.key(0))
        train_step = jax.jit(
            step.make_train_step(objective, optimizer, microbatches=microbatches),
            donate_argnums=0,
            out_shardings=(state.shardings(abstract), None),
        )
        for batch in batches(steps):
            batch = sharding.put_batch(batch, len(batch.inputs), mesh, rules)
            train_state, metrics = train_step(
                train_state, Frozen(), batch, jax.random.key(1)
            )
            found.append([float(metrics[name]) for name in ("loss", "grad_norm")])
    return np.array(found)


@functools.cache
def one_device():
    return trajectory(dict(fsdp=1), 1, devices=tuple(jax.devices()[:1]))


@pytest.mark.parametrize(
    "shape,microbatches",
    [
        pytest.param(dict(fsdp=1), 2, marks=pytest.mark.slow),
        pytest.param(dict(fsdp=1), 4, marks=pytest.mark.slow),
        pytest.param(dict(fsdp=8), 1, marks=pytest.mark.slow),
        pytest.param(dict(fsdp=8), 2, marks=pytest.mark.slow),
        pytest.param(dict(data=2, fsdp=2, tensor=2), 1, marks=pytest.mark.slow),
        (dict(data=2, fsdp=2, tensor=2), 4),
    ],
    ids=str,
)
def test_one_trajectory(shape, microbatches):
    devices = tuple(jax.devices()[: int(np.prod(list(shape.values())))])
    found = trajectory(shape, microbatches, devices=devices)
    np.testing.assert_allclose(found, one_device(), rtol=1e-5)
    assert found[-1, 0] != found[0, 0]


def test_packed_rows_teach_what_single_documents_do():
    docs = rows.documents(24, T, V)
    arrangements = [rows.packed(docs, T), rows.unpacked(docs, T)]
    found = [
        trajectory(
            dict(fsdp=1),
            1,
            devices=tuple(jax.devices()[:1]),
            batches=functools.partial(itertools.repeat, x),
        )
        for x in arrangements
    ]
    np.testing.assert_allclose(found[0], found[1], rtol=1e-5)


@pytest.mark.parametrize("chunk", marks.slow_but([1, 5], [1, 5, 16, 100]))
def test_chunks_change_neither_loss_nor_gradient(chunk):
    model = models.build({**MODEL, "logit_softcap": 5.0}, V)
    params = jax.jit(lambda key: jax.tree.map(lambda x: x, _unboxed(model, key)))(
        jax.random.key(0)
    )
    (batch,) = ragged_batches(1)

    def value_and_grad(**options):
        objective = objectives.build(model, dict(name="language_model", **options))
        total = lambda p: objective.loss(p, Frozen(), batch, None, True)[0].total
        return jax.jit(jax.value_and_grad(total))(params)

    value, grad = value_and_grad(chunk=chunk)
    whole_value, whole_grad = value_and_grad(chunk=T)
    np.testing.assert_allclose(value, whole_value, rtol=1e-6)
    check = functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5)
    jax.tree.map(check, grad, whole_grad)


def test_the_logits_of_all_positions_never_exist():
    B, V = 4, 8000
    model = models.build({**MODEL, "max_length": 256}, V)
    objective = objectives.build(model, dict(name="language_model", chunk=32))
    params = jax.eval_shape(lambda: _unboxed(model, jax.random.key(0)))
    batch = rows.unpacked(rows.documents(B, 256, V), 256)
    grad = jax.grad(lambda p: objective.loss(p, Frozen(), batch, None, True)[0].total)
    whole = B * 256 * V
    assert f"[{B},256,{V}]" not in str(jax.make_jaxpr(grad)(params))
    memory = jax.jit(grad).lower(params).compile().memory_analysis()
    assert memory.temp_size_in_bytes < 4 * whole  # float32 logits alone would be this


def _unboxed(model, key):
    import flax.linen as nn

    return nn.unbox(model.init(key))


def quadratic(params, frozen, batch, key, train):
    """A loss with a mean of x over the rows, to follow by hand."""
    del frozen, key
    total = (batch["w"] * jnp.square(params["x"] - batch["y"])).sum()
    return Mean(total, batch["w"].sum()), {
        "y": Mean(batch["y"].sum(), float(batch["y"].size))
    }


def quadratic_step(batch, optimizer=None, microbatches=1):
    import optax

    optimizer = optimizer or optax.sgd(0.5)
    params = {"x": jnp.float32(3.0)}
    before = TrainState(jnp.int32(7), params, optimizer.init(params))
    run = step.make_train_step(
        Objective(quadratic), optimizer, microbatches=microbatches
    )
    return before, *jax.jit(run)(before, Frozen(), batch, jax.random.key(0))


@pytest.mark.parametrize("microbatches", [1, 2, 8])
def test_sums_are_divided_once(microbatches):
    w = jnp.array([0.0] * 8 + [1.0, 2.0, 3.0, 4.0] + [0.5] * 4)
    y = jnp.arange(16.0)
    _, after, metrics = quadratic_step({"w": w, "y": y}, microbatches=microbatches)
    mean = (w * y).sum() / w.sum()
    assert float(after.params["x"]) == pytest.approx(float(mean), rel=1e-6)
    assert float(metrics["loss_weight"]) == 12.0
    assert float(metrics["grad_norm"]) == pytest.approx(
        2 * abs(3.0 - float(mean)), 1e-5
    )
    assert float(metrics["y"]) == pytest.approx(7.5)
    assert int(after.step) == 8


@pytest.mark.parametrize("bad", [jnp.nan, jnp.inf])
def test_an_update_that_is_not_finite_is_left_out(bad):
    import optax

    y = jnp.zeros(B).at[3].set(bad)
    before, after, metrics = quadratic_step({"w": jnp.ones(B), "y": y}, optax.adam(0.1))
    assert float(metrics["skipped"]) == 1.0
    assert int(after.step) == 8  # the data moves on
    for old, new in zip(
        jax.tree.leaves((before.params, before.opt_state)),
        jax.tree.leaves((after.params, after.opt_state)),
        strict=True,
    ):
        np.testing.assert_array_equal(old, new)


def test_a_batch_of_padding_teaches_nothing_and_is_finite():
    batch = {"w": jnp.zeros(B), "y": jnp.ones(B)}
    before, after, metrics = quadratic_step(batch)
    assert float(after.params["x"]) == float(before.params["x"])
    assert float(metrics["loss"]) == 0.0 and float(metrics["skipped"]) == 0.0


def test_where_nothing_counts_neither_decay_nor_momentum_moves_anything():
    """With a weight and no gradient they do: a loss that is reached is a lesson too."""
    import optax

    adamw = optax.adamw(0.1, weight_decay=0.1)
    empty = {"w": jnp.zeros(B), "y": jnp.ones(B)}
    before, after, _ = quadratic_step(empty, adamw)
    pairs = zip(jax.tree.leaves(before), jax.tree.leaves(after), strict=True)
    assert [bool(jnp.all(x == y)) for x, y in pairs].count(False) == 1  # the step
    reached = {"w": jnp.ones(B), "y": 3 * jnp.ones(B)}
    before, after, _ = quadratic_step(reached, adamw)
    assert float(after.params["x"]) < float(before.params["x"])


def test_key_differs_from_step_to_step():
    import optax

    def noise(params, frozen, batch, key, train):
        return Mean(jax.random.normal(key) + 0 * params["x"], 1.0), {}

    optimizer = optax.sgd(0.1)
    run = jax.jit(step.make_train_step(Objective(noise), optimizer))
    now = TrainState(jnp.int32(0), {"x": jnp.float32(0)}, optimizer.init({"x": 0.0}))
    losses = []
    for _ in range(3):
        now, metrics = run(now, Frozen(), {}, jax.random.key(0))
        losses.append(float(metrics["loss"]))
    assert len(set(losses)) == 3
