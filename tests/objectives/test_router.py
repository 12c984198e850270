# SPDX-License-Identifier: Apache-2.0
"""Losses of routers, in every objective: of microbatches, or of the whole batch."""

import functools

import flax.linen as nn
import jax
import numpy as np
import optax
import pytest

from alignjax import errors, models, objectives, types
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
WHOLE = dict(router_scope="batch")


@pytest.fixture(autouse=True)
def mixture(monkeypatch):
    monkeypatch.setattr(trajectory, "MODEL", MIXTURE)


@pytest.mark.parametrize(
    "subject,how",
    [
        pytest.param("pairs", dict(mesh="all", microbatches=2), marks=pytest.mark.slow),
        ("coupled", dict(mesh="one", microbatches=4, layout="packed")),
        pytest.param(
            "reward", dict(mesh="fsdp", microbatches=4), marks=pytest.mark.slow
        ),
    ],
)
def test_one_loss_however_it_is_computed(subject, how):
    section, K, heads = SECTIONS[subject]
    section = section | WHOLE
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


def train(
    mesh=None,
    microbatches=1,
    steps=1,
    words=trajectory.V,
    rate=1.0,
    scope=None,
    **fields,
):
    """Metrics of each step on text, and how the parameters changed."""
    sizes = mesh or dict(fsdp=1)
    devices = jax.devices()[: int(np.prod(list(sizes.values())))]
    grid, rules = sharding.make_mesh(sizes, devices), sharding.rules()
    model = models.build(MIXTURE | fields, trajectory.V)
    objective = objectives.build(model, dict(name="language_model", router_scope=scope))
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
    (metrics,), took = train(scope="batch", **how)
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


def parts(batch, count):
    """The microbatches of a step, as a step takes them apart."""
    return [jax.tree.map(lambda x, k=k: x[k::count], batch) for k in range(count)]


def test_by_default_the_loss_is_a_mean_over_microbatches():
    """Its balance is theirs, weighted by tokens, and other than the whole batch's."""
    (metrics,), took = train(microbatches=4)
    expected, one = plain()
    assert metrics["nll"] == pytest.approx(expected["nll"], rel=1e-5)
    assert metrics["router/balance"] > expected["router/balance"] + 1e-4
    leaves = map(jax.tree.leaves, (took, one))
    assert any(np.abs(a - b).max() > 1e-5 for a, b in zip(*leaves, strict=True))
    model = models.build(MIXTURE, trajectory.V)
    objective = objectives.build(model, dict(name="language_model"))
    params = nn.unbox(model.init(jax.random.key(0)))
    loss = jax.jit(lambda b: objective.loss(params, types.Frozen(), b, None, True))
    each = [loss(part) for part in parts(text(), 4)]
    for name in ("router/balance", "router/busiest", "router/z_loss", "nll"):
        total = sum(found[name].total for _, found in each)
        weight = sum(found[name].weight for _, found in each)
        whole = float(total / weight)
        assert metrics[name] == pytest.approx(whole, rel=1e-5), name
    whole = sum(x.total for x, _ in each) / sum(x.weight for x, _ in each)
    assert metrics["loss"] == pytest.approx(float(whole), rel=1e-5)


def test_the_whole_batch_is_observed_only_where_that_is_asked_for():
    def observes(scope, name="language_model", **fields):
        model = models.build(MIXTURE | fields, trajectory.V)
        section = dict(name=name, router_scope=scope)
        return objectives.build(model, section).statistic is not None

    assert observes("batch") and observes("batch", "preference", router_loss=0.0)
    assert not observes(None) and not observes("microbatch", "preference")
    nothing = dict(router_loss=0.0, router_z_loss=0.0)
    assert not observes(None, **nothing)
    for fields in (nothing, dict(family="llama", experts=0, expert_d_ff=None)):
        with pytest.raises(errors.ConfigError, match="router_scope"):
            observes("batch", **nothing | fields)
    with pytest.raises(errors.ConfigError, match="router_scope"):
        observes("row")


def test_the_routing_is_that_of_the_policy_and_not_of_its_reference():
    """With the reference's parameters changed, the routers' figures are the same."""
    model = trajectory.model()
    section, K, _ = SECTIONS["pairs"]
    objective = objectives.build(model, section)
    policy, other = (nn.unbox(model.init(jax.random.key(i))) for i in range(2))
    batch = trajectory.batch("packed", K)
    balance = [
        objective.loss(policy, types.Frozen(reference=reference), batch, None, train)[
            1
        ]["router/balance"].value()
        for reference, train in ((policy, True), (other, True), (other, False))
    ]
    swapped = objective.loss(other, types.Frozen(reference=policy), batch, None, True)
    assert balance[0] == balance[1] == balance[2]
    assert swapped[1]["router/balance"].value() != balance[0]


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
