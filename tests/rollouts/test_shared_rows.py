# SPDX-License-Identifier: Apache-2.0
"""Groups that share rows: the same tokens, log-probs and losses with less padding."""

import dataclasses
import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from alignjax import errors, train
from alignjax.distributed import sharding
from alignjax.rollouts import layout, packing
from alignjax.training import step
from alignjax.types import TrainState
from tests.rollouts import small

PROMPTS = [[5, 0, 7], [0], [9, 9, 0, 8], [3, 3]]
GROUPS = [[[0, 0], [4, 0, 3]], [[1], [0]], [[2, 0, 0, 0], [6, 0]], [[8], [8, 0]]]
OPTIONS = dict(multiple=1, longest=1000, width=128)
ONE = {"data": 1, "fsdp": 1, "tensor": 1}


@pytest.mark.parametrize("each", [1, 2, 4])
def test_every_group_stays_whole(each):
    """As it is in a row of its own, token for token, but for where it stands."""
    alone = layout.responses(PROMPTS, GROUPS, prompt_room=4, room=5, shared=True)
    used_G = packing.used(alone)
    assert used_G.tolist() == [2 + 5, 2, 3 + 6, 1 + 3]
    order_BP = packing.rows(used_G, each)
    assert sorted(order_BP.ravel()) == [0, 1, 2, 3]
    T = 3 + used_G[order_BP].sum(-1).max()
    batch = packing.packed(alone, order_BP, T)
    assert batch.sequences.inputs.shape == (4 // each, 1, T)
    for (b, p), g in np.ndenumerate(order_BP):
        row, own = batch.sequences, alone.sequences
        there = row.segment_ids[b, 0] == 1 + p
        assert (np.flatnonzero(there) == there.argmax() + np.arange(used_G[g])).all()
        for name in ("inputs", "targets", "weights", "positions", "branches"):
            taken = getattr(row, name)[b, 0][there]
            assert np.array_equal(taken, getattr(own, name)[g, 0, : used_G[g]]), name
        responses = alone.responses[g, 0, : used_G[g]]
        moved = np.where(responses > 0, responses + 2 * p, 0)
        assert np.array_equal(batch.responses[b, 0][there], moved)
        for name in ("lengths", "weights", "index"):
            moved, whole = getattr(batch, name)[b, p], getattr(alone, name)[g, 0]
            assert np.array_equal(moved, whole), name
    padding = batch.sequences.segment_ids == 0
    assert padding.sum() == T * len(order_BP) - used_G.sum()
    for name in ("inputs", "targets", "weights", "positions", "branches"):
        assert not getattr(batch.sequences, name)[padding].any()
    assert not batch.responses[padding].any()


def test_rows_are_about_equally_long():
    used_G = np.random.default_rng(0).integers(20, 200, 64)
    total = used_G[packing.rows(used_G, 4)].sum(-1)
    assert total.max() - total.min() < 30
    assert used_G.max() - used_G.min() > 150


def few(used_G, size=16, **options):
    """P, of batches of `size` groups."""
    parts = list(np.arange(len(used_G)).reshape(-1, size))
    orders, T = packing.arranged(used_G, parts, **OPTIONS | options)
    for part, order_BP in zip(parts, orders, strict=True):
        assert sorted(order_BP.ravel()) == part.tolist()
        assert used_G[order_BP].sum(-1).max() <= T
    assert (OPTIONS | options)["longest"] >= T
    return orders[0].shape[1]


def test_groups_share_rows_where_that_takes_fewer_positions():
    some = np.random.default_rng(0).integers(20, 200, 32)
    assert few(some) > 1
    # Groups that are all as long as any fill their rows.
    assert few(np.full(32, 192)) == 1
    # Short ones: a row is as long as a multiple of 32, and has several.
    assert few(np.full(32, 8)) >= 4
    # Attention over long rows costs more than the padding does.
    assert few(some, width=1) < few(some, width=10_000)
    # No more than a row may be long, than the config allows, or than devices divide.
    assert few(some, longest=201) == 1
    assert few(some, most=1) == 1
    assert few(np.full(32, 8), most=2) == 2
    assert few(some, multiple=16) == 1
    assert few(some, multiple=8) == 2


def test_groups_share_rows_of_their_own_batch():
    """Long ones that are in one batch have nobody to be balanced by."""
    used_G = np.array([180, 180, 20, 20])
    assert few(used_G, size=4, longest=201) == 2
    assert few(used_G, size=2, longest=201) == 1


def test_a_batch_teaches_the_same_whatever_shares_a_row(experiment):
    """Loss, metrics and gradient of one batch, of responses of other lengths."""
    run, state, frozen = experiment
    rollouts = dataclasses.replace(
        run.rollouts, shared=True, sampler=small.with_many_stops(experiment)
    )
    batch, *_ = small.make(experiment, rollouts)
    used_G = packing.used(batch.responses)
    assert len(set(used_G)) > 4
    found = []
    for each in (1, 2, 4):
        order_BP = packing.rows(used_G, each)
        T = 8 * -(-used_G[order_BP].sum(-1).max() // 8)
        train_step = step.make_train_step(run.objective, optax.sgd(1.0))
        begun = TrainState(jnp.int32(0), state.params, optax.sgd(1.0).init({}))
        with sharding.use(run.mesh, run.rules):
            packed = rollouts.in_rows(batch, order_BP, T)
            packed = jax.tree.map(jnp.asarray, packed)
            key = jax.random.key(0)
            after, metrics = jax.jit(train_step)(begun, frozen, packed, key)
        moved = jax.tree.map(lambda x, y: x - y, after.params, state.params)
        found.append(jax.tree.leaves((metrics, moved)))
    for other in found[1:]:
        for x, y in zip(other, found[0], strict=True):
            np.testing.assert_allclose(x, y, rtol=0, atol=1e-5)


def losses(folder, name, devices, **changes):
    """The metrics of the updates of one rollout."""
    fields = dict(
        steps=4,
        mesh=ONE | {"fsdp": devices},
        data__share_prompt=True,
        optimizer__ema=None,
    )
    section = small.ppo(folder, **fields | changes)
    with small.devices(devices):
        assert train.train(section, folder / name) == errors.DONE
    lines = (folder / name / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


NO_CRITIC = dict(
    critic=None,
    rollouts__advantage={},
    rollouts__denominator={},
    rollouts__truncated="terminal",
)
CASES = {
    "policy": NO_CRITIC,
    "critic": {},
    "trunk": {"critic": {"trunk": "policy", "learning_rate": 3e-3}},
    "pairs": dict(
        length=400,
        rollouts__max_tokens=200,
        objective__name="preference",
        objective__loss="dpo",
        rollouts__kl={},
        rollouts__normalize={},
        **NO_CRITIC,
    ),
}
TIMES = {"time", "tokens_per_second", "rollout/seconds"}


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_losses_do_not_depend_on_what_shares_a_row(tmp_path, case, monkeypatch):
    """Of policy, critic and pairs, update by update."""
    shapes, packed = set(), packing.packed

    def spy(batch, order_BP, T):
        shapes.add(order_BP.shape)
        return packed(batch, order_BP, T)

    monkeypatch.setattr(packing, "packed", spy)
    # As if attention took no time, which in so small a model takes most of it.
    wide = functools.partial(packing.arranged, width=10_000)
    of = lambda *inputs, width, **options: wide(*inputs, **options)
    monkeypatch.setattr(packing, "arranged", of)
    room = dict(length=300, rollouts__max_tokens=100)
    evaluations = dict(evaluation__every=4, rollouts__evaluation_prompts=5)
    fields = room | evaluations | CASES[case]
    alone = losses(tmp_path, "alone", 1, data__groups_per_row=1, **fields)
    assert {P for _, P in shapes} == {1}
    shapes.clear()
    together = losses(tmp_path, "together", 2, microbatches=2, **fields)
    groups = {B * P: P for B, P in shapes}
    assert groups[8] == 2  # of an update, whose rows two devices and two parts share
    assert 4 in groups  # measured in two parts, of 5 evaluated prompts one repeated
    for row, expected in zip(together, alone, strict=True):
        for name in row.keys() - TIMES:
            assert row[name] == pytest.approx(expected[name], abs=2e-5), name


@pytest.mark.parametrize("mean", [100, 200, 350])
def test_rollouts_of_real_lengths_make_rows_of_few_shapes(mean, monkeypatch):
    """Each is compiled for; in multiples of 64 alone they are many."""

    def shapes():
        random, shapes = np.random.default_rng(mean), set()
        for _ in range(200):  # 8 responses to each of 64 prompts
            lengths_GK = np.minimum(random.geometric(1 / mean, (64, 8)), 512)
            used_G = random.integers(50, 250, 64) + lengths_GK.sum(1)
            sizes = dict(multiple=1, longest=4352, width=4096)
            (order_BP,), T = packing.arranged(used_G, [np.arange(64)], **sizes)
            shapes.add((order_BP.shape, T))
        return len(shapes)

    assert shapes() <= 8
    monkeypatch.setattr(packing, "rounded", lambda T, multiple: -(-T // 64) * 64)
    assert shapes() >= 13


@pytest.mark.parametrize("multiple", [16, 32])
def test_sizes_are_eight_from_one_power_of_two_to_the_next(multiple):
    sizes = {packing.rounded(count, multiple) for count in range(1025, 2049)}
    assert sizes == {1024 + 128 * i for i in range(1, 9)}
    for count in range(1, 5000):
        assert count <= packing.rounded(count, multiple) < 1.125 * count + multiple
        assert packing.rounded(count, multiple) % multiple == 0
