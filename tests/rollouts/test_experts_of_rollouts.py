# SPDX-License-Identifier: Apache-2.0
"""Policy gradients of a model with experts: the losses of rollouts and of routers."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from alignjax import models, objectives
from alignjax.losses import denominators
from alignjax.objectives import policy_gradient
from alignjax.rollouts import layout
from alignjax.training import step
from alignjax.types import Frozen, Rollout, Then, TrainState
from tests.objectives import trajectory

V, G, K, ROOM = 40, 8, 2, 5
MIXTURE = dict(
    family="mixtral",
    name="nano",
    d_model=16,
    layers=1,
    heads=4,
    kv_heads=4,
    d_ff=24,
    experts=4,
    experts_per_token=2,
    expert_d_ff=12,
    init_std=0.3,
    max_length=16,
    router_loss=0.3,
    router_z_loss=0.05,
)


@functools.cache
def begin():
    """The model, its first parameters, and the reference's."""
    model = models.build(MIXTURE, V)
    init = jax.jit(lambda key: nn.unbox(model.init(key)))
    return model, *(init(jax.random.key(i)) for i in range(2))


@functools.cache
def rollout() -> Rollout:
    """Prompts and responses of other lengths, of which some count for nothing.

    So parts of it have other shares of the tokens than of the denominator.
    """
    rng = np.random.default_rng(0)
    draw = lambda size: rng.integers(1, V, size).tolist()
    prompts = [draw(1 + g % 4) for g in range(G)]
    groups = [[draw(1 + (g + 3 * k) % ROOM) for k in range(K)] for g in range(G)]
    rows = layout.responses(prompts, groups, prompt_room=4, room=ROOM, shared=False)
    action = np.arange(ROOM) < rows.lengths[:, 0, :, None]
    noise = lambda: rng.normal(size=action.shape).astype(np.float32)
    then = Then(action, noise(), *(0.1 * noise() - np.log(V) for _ in range(3)))
    counts = np.ones((G, K), np.float32)
    counts[::2, 1] = 0
    weights = denominators.token_mean(action, counts)
    return jax.tree.map(jnp.asarray, Rollout(rows, then, *weights))


@functools.cache
def take(scope, microbatches):
    """Metrics of one step, and what it took off the parameters."""
    model, params, reference = begin()
    objective = objectives.build(
        model, dict(name="policy_gradient", router_scope=scope, entropy=0.1)
    )
    # The first trace of momentum is the gradient itself.
    sgd = optax.sgd(1.0, momentum=0.9)
    run = jax.jit(step.make_train_step(objective, sgd, microbatches=microbatches))
    now = TrainState(jnp.int32(0), params, sgd.init(params))
    frozen = Frozen(reference=reference)
    after, metrics = run(now, frozen, rollout(), jax.random.key(0))
    took = jax.device_get(optax.tree.get(after.opt_state, "trace"))
    return {name: float(x) for name, x in metrics.items()}, took


def test_the_loss_is_the_rollouts_and_the_routers():
    """Where the batch is one part, of either scope."""
    model, params, reference = begin()
    alone = policy_gradient.make(model, entropy=0.1)
    frozen = Frozen(reference=reference)
    loss = jax.jit(lambda batch: alone.loss(params, frozen, batch, None, True))
    mean, means = loss(rollout())
    metrics, took = take("batch", 1)
    assert {*means, "router/balance", "router/entropy", "router/busiest"} < set(metrics)
    assert metrics["router/balance"] > 2.01  # which is 2 where all are used alike
    expected = float(mean.value()) + 0.3 * metrics["router/balance"]
    expected += 0.05 * metrics["router/z_loss"]
    assert metrics["loss"] == pytest.approx(expected, rel=1e-5)
    assert np.abs(took["layers"]["moe"]["router"]["kernel"]).max() > 1e-3
    trajectory.assert_same(take("microbatch", 1), (metrics, took))


def test_the_whole_batch_is_the_same_in_microbatches():
    trajectory.assert_same(take("batch", 2), take("batch", 1))


def test_by_default_each_microbatch_has_a_balance_of_its_own():
    """What is of the rollout alone stays as it was."""
    (metrics, took), (whole, took_too) = take("microbatch", 2), take("microbatch", 1)
    assert set(metrics) == set(whole)
    assert metrics["router/balance"] > whole["router/balance"] + 1e-3
    assert abs(metrics["loss"] - whole["loss"]) > 1e-4
    of_routers = {n for n in whole if n.startswith("router/")}
    for name in set(whole) - of_routers - {"loss", "grad_norm", "param_norm"}:
        assert metrics[name] == pytest.approx(whole[name], rel=1e-5, abs=1e-5), name
    router = lambda tree: tree["layers"]["moe"]["router"]["kernel"]
    assert np.abs(router(took) - router(took_too)).max() > 1e-4
