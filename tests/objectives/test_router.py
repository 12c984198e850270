# SPDX-License-Identifier: Apache-2.0
"""Losses of routers: in every objective, of the whole batch however it is cut."""

import functools

import jax
import numpy as np
import optax
import pytest

from alignjax import models, objectives, types
from alignjax.distributed import sharding
from alignjax.training import state, step
from tests import rows
from tests.objectives import trajectory

MIXTURE = trajectory.MODEL | dict(
    family="mixtral",
    experts=4,
    experts_per_token=2,
    expert_d_ff=12,
    layers=1,
    router_loss=0.3,
    router_z_loss=0.05,
    kv_heads=4,
)
SECTIONS = {
    "reward": (dict(name="reward_model", members=2, bootstrap=True), 2, 2),
    "coupled": (dict(name="preference", loss="bco", beta=0.5), 1, 0),
    "pairs": (dict(name="preference", loss="dpo", beta=0.5), 2, 0),
}


@pytest.fixture(autouse=True)
def mixture(monkeypatch):
    monkeypatch.setattr(trajectory, "MODEL", MIXTURE)


@pytest.mark.parametrize(
    "subject,how",
    [
        pytest.param("pairs", dict(mesh="all", microbatches=2), marks=pytest.mark.slow),
        ("coupled", dict(mesh="one", microbatches=4, layout="packed")),
        ("reward", dict(mesh="fsdp", microbatches=4)),
    ],
)
def test_one_loss_however_it_is_computed(subject, how):
    section, K, heads = SECTIONS[subject]
    expected = trajectory.take(section, K, heads=heads)
    assert expected[0]["router/balance"] > 1.5
    trajectory.assert_same(trajectory.take(section, K, heads=heads, **how), expected)


@functools.cache
def text(words=trajectory.V):
    docs = rows.documents(40, 30, words)
    found = rows.packed(docs, trajectory.T)
    empty = lambda x: np.concatenate([x, np.zeros((32 - len(x), x.shape[1]), x.dtype)])
    weighted = found.replace(weights=found.weights * (found.inputs % 3 > 0))
    return jax.tree.map(empty, weighted)


def train(mesh=None, microbatches=1, steps=1, words=trajectory.V, rate=1.0, **fields):
    """Metrics of each step on text, and how the parameters changed."""
    sizes = mesh or dict(fsdp=1)
    devices = jax.devices()[: int(np.prod(list(sizes.values())))]
    grid, rules = sharding.make_mesh(sizes, devices), sharding.rules()
    model = models.build(MIXTURE | fields, trajectory.V)
    objective = objectives.build(model, dict(name="language_model"))
    optimizer = optax.sgd(rate)
    with sharding.use(grid, rules):
        abstract = state.abstract_state(model, optimizer, grid, rules)
        now = state.init_state(model, optimizer, abstract, jax.random.key(0))
        before = jax.device_get(now.params)
        run = jax.jit(
            step.make_train_step(objective, optimizer, microbatches=microbatches),
            out_shardings=(state.shardings(abstract), None),
        )
        batch = sharding.put_batch(text(words), 32, grid, rules)
        seen = []
        for _ in range(steps):
            now, metrics = run(now, types.Frozen(), batch, jax.random.key(1))
            seen.append({k: float(x) for k, x in metrics.items()})
        took = jax.tree.map(np.subtract, before, jax.device_get(now.params))
    return seen, took


@functools.cache
def plain():
    (metrics,), took = train()
    return metrics, took


@pytest.mark.parametrize(
    "how",
    [
        pytest.param(dict(mesh=dict(tensor=4)), marks=pytest.mark.slow),
        dict(mesh=dict(data=2, tensor=4), microbatches=4),
        pytest.param(dict(microbatches=8, remat="full"), marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_text_on_experts_apart_and_in_microbatches(how):
    (metrics,), took = train(**how)
    trajectory.assert_same((metrics, took), plain())


def test_the_loss_is_what_the_metrics_say():
    metrics, _ = plain()
    expected = metrics["nll"] + 0.3 * metrics["router/balance"]
    expected += 0.05 * metrics["router/z_loss"]
    assert metrics["loss"] == pytest.approx(expected, rel=1e-6)
    (without,), _ = train(router_loss=0.0, router_z_loss=0.0)
    assert without["loss"] == without["nll"] == pytest.approx(metrics["nll"], rel=1e-6)
    assert without["router/balance"] == pytest.approx(metrics["router/balance"])
    assert "router/z_loss" not in without


def test_the_whole_batch_is_seen_only_where_that_is_needed():
    observes = lambda **fields: [
        objectives.build(
            models.build(MIXTURE | fields, trajectory.V), dict(name=name)
        ).observe
        is not None
        for name in ("language_model", "preference")
    ]
    nothing = dict(router_loss=0.0, router_z_loss=0.0)
    assert observes() == observes(router_loss=0.0) == [True, True]
    assert observes(**nothing) == [False, False]
    assert observes(**nothing, family="llama", experts=0, expert_d_ff=None) == [
        False,
        False,
    ]


def test_a_dense_model_says_nothing_of_routers():
    dense = dict(family="llama", experts=0, expert_d_ff=None)
    (metrics,), _ = train(router_loss=0.0, router_z_loss=0.0, **dense)
    assert not any(name.startswith("router/") for name in metrics)


def test_routers_learn_to_use_all_experts():
    """With three words that hardly differ there is little to tell tokens apart by."""
    seen, _ = train(steps=20, words=3, rate=0.1, router_loss=1.0, router_z_loss=0.0)
    first, last = (s["router/balance"] - 2 for s in (seen[0], seen[-1]))
    assert first > 0.1 and last < first / 2, (first, last)
    assert seen[-1]["router/busiest"] < seen[0]["router/busiest"]
    assert seen[-1]["router/entropy"] <= np.log(4)
