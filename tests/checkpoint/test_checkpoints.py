# SPDX-License-Identifier: Apache-2.0
"""What is saved, what is kept of it, and who may go on from it."""

import collections
import dataclasses
import json
import math
import os

import jax
import jax.numpy as jnp
import optax
import pytest

from alignjax import config, errors, types
from alignjax.checkpoint import retention, step_folders
from tests.fixtures import tiny

LIKE = tiny.abstract(tiny.mesh_of(2))


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_any_mesh_gets_the_same_bits(tmp_path, axis):
    """8 -> 4 -> 2 -> 1 devices, cut along another axis each time, and back to 8."""
    workdir, want = tmp_path, None
    for step, count in enumerate([8, 4, 2, 1, 8]):
        like = tiny.abstract(tiny.mesh_of(count), (axis + step) % 3)
        if want is None:
            state = tiny.state_at(7, like)
            want = tiny.bits(state)
        else:
            state, found = tiny.restore(workdir, like)
            assert found == 7
        assert tiny.bits(state) == want
        assert jax.tree.map(lambda x: x.sharding, state) == jax.tree.map(
            lambda x: x.sharding, like
        )
        assert jax.tree.structure(state) == jax.tree.structure(like)
        workdir = tmp_path / str(step)
        with tiny.checkpoints_of(workdir) as checkpoints:
            assert checkpoints.maybe_save(7, state, force=True)


def test_containers_of_optax_come_back(tmp_path):
    tiny.save(tmp_path, 5)
    state, _ = tiny.restore(tmp_path)
    kinds = collections.Counter(
        type(node).__name__
        for node in jax.tree.leaves(
            state.opt_state,
            is_leaf=lambda x: isinstance(x, (optax.EmptyState, optax.MaskedNode)),
        )
    )
    assert kinds["EmptyState"] == 1 and kinds["MaskedNode"] == 1
    assert isinstance(state.opt_state[1], optax.ScaleByAdamState)
    assert state.opt_state[1].count.dtype == jnp.int32
    assert state.opt_state[1].mu["layers"]["w"].dtype == jnp.bfloat16


def test_eleven_parts_of_a_chain_keep_their_order(tmp_path):
    """On disk the parts are named by numbers, which sort as 0, 1, 10, 2."""
    params = {"w": jnp.ones(4)}
    state = types.TrainState(
        jnp.int32(5), params, tuple(jnp.full(2, i) for i in range(12))
    )
    like = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), state
    )
    with tiny.checkpoints_of(tmp_path) as checkpoints:
        checkpoints.maybe_save(5, state)
    assert tiny.bits(tiny.restore(tmp_path, like)[0]) == tiny.bits(state)


def test_first_start_is_init_and_writes_the_config(tmp_path):
    fresh = tiny.place(tiny.init(), LIKE)
    state, step = tiny.restore(tmp_path / "new" / "run", init=lambda: fresh)
    assert state is fresh and step is None
    written = json.loads((tmp_path / "new" / "run" / "config.json").read_text())
    assert written == tiny.CONFIG
    assert sorted(os.listdir(tmp_path / "new" / "run")) == [
        "checkpoints",
        "config.json",
    ]


def test_saves_when_due_or_forced_and_never_twice(tmp_path):
    with tiny.checkpoints_of(tmp_path, every=5) as checkpoints:
        done = [
            checkpoints.maybe_save(step, tiny.state_at(step, LIKE), force=step == 7)
            for step in range(1, 11)
        ]
        again = checkpoints.maybe_save(10, tiny.state_at(10, LIKE), force=True)
        checkpoints.wait()
        assert checkpoints.steps == [5, 7, 10]
    assert [i + 1 for i, saved in enumerate(done) if saved] == [5, 7, 10]
    assert not again
    with tiny.checkpoints_of(tmp_path) as checkpoints:
        before = (tmp_path / "checkpoints" / "10" / "meta" / "data.json").stat()
        assert not checkpoints.maybe_save(10, tiny.state_at(10, LIKE), force=True)
    assert (tmp_path / "checkpoints" / "10" / "meta" / "data.json").stat() == before


def test_step_must_be_the_states(tmp_path):
    with tiny.checkpoints_of(tmp_path) as checkpoints:
        with pytest.raises(ValueError, match="of step 5, not 10"):
            checkpoints.maybe_save(10, tiny.state_at(5, LIKE))
        assert checkpoints.steps == []


def test_meta_says_what_is_needed_later(tmp_path):
    tiny.save(tmp_path, 5, metrics={5: {"loss": 1.5, "bad": math.nan}})
    meta = step_folders.read_meta(tmp_path / "checkpoints" / "5")
    assert meta["step"] == 5
    assert meta["config"] == tiny.CONFIG and meta["data"] == tiny.DATA
    assert meta["metrics"] == {"loss": 1.5, "bad": None}
    assert meta["versions"]["jax"] == jax.__version__
    assert meta["leaves"]["params/layers/w"]["shape"] == [8, 8, 8]
    assert "train/opt_state/1/mu/embed/kernel" in meta["leaves"]


def test_older_names_of_averages_and_references():
    """As they were when the two were members of the optimizer's chain."""
    unchanged = ["params/average/embed", "train/step", "train/opt_state/0/mu/average/w"]
    assert step_folders.renamed_leaves(unchanged) == {}
    average = {"train/opt_state/2/average/w": "train/extra/average/w"}
    assert step_folders.renamed_leaves([*unchanged, *average]) == average
    both = {
        "train/opt_state/0/1/0/mu/w": "train/opt_state/1/0/mu/w",
        "train/opt_state/0/2/average/w": "train/extra/average/w",
        "train/opt_state/1/updates": "train/extra/reference/updates",
        "train/opt_state/1/reference/a/w": "train/extra/reference/params/a/w",
    }
    assert step_folders.renamed_leaves(["params/w", *both]) == both
    leaves = {"params": {"w": 0}, "train": {"step": 1, "opt_state/1/updates": 2}}
    assert step_folders.rename(leaves, both) == {
        "params": {"w": 0},
        "train": {"step": 1, "extra/reference/updates": 2},
    }


# What is kept.


@pytest.mark.parametrize(
    "options, kept",
    [
        (dict(keep_last=1), [6]),
        (dict(keep_last=2), [5, 6]),
        (dict(keep_last=1, keep_every=3), [3, 6]),
        (dict(keep_last=1, keep_best=("loss", "min")), [3, 6]),
        (dict(keep_last=1, keep_best=("loss", "max")), [1, 6]),
        (dict(keep_last=1, keep_every=4, keep_best=("loss", "min")), [3, 4, 6]),
        (dict(keep_last=1, keep_best=("absent", "min")), [6]),
        (dict(keep_last=9), [1, 2, 3, 4, 5, 6]),
    ],
)
def test_retention(options, kept):
    losses = {1: 5.0, 2: None, 3: 1.0, 4: 3.0, 5: None, 6: 2.0}
    metrics = {step: {"loss": loss} for step, loss in losses.items()}
    options = retention.CheckpointConfig(every=1, **options)
    assert sorted(retention.retained(metrics, options)) == kept


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_best_outlives_a_metric_that_is_none(tmp_path, bad):
    losses = dict(zip(range(1, 7), [5.0, bad, 1.0, 3.0, bad, 2.0], strict=True))
    metrics = {step: {"loss": loss} for step, loss in losses.items()}
    options = dict(keep_last=1, keep_best=("loss", "min"))
    assert tiny.save(tmp_path, *range(1, 5), metrics=metrics, **options) == [3, 4]
    # As well after a restart, which knows the metrics from disk alone.
    assert tiny.save(tmp_path, 5, 6, metrics=metrics, **options) == [3, 6]


def test_step_whose_metrics_cannot_be_read_is_not_deleted(tmp_path):
    tiny.save(tmp_path, 1, 2)
    (tmp_path / "checkpoints" / "1" / "meta" / "data.json").write_text("{")
    assert tiny.save(tmp_path, 3, 4, keep_last=1) == [1, 4]


def test_bad_options_are_refused():
    with pytest.raises(errors.ConfigError) as error:
        options = dict(every=0, keep_last=0, timeout=-1.0)
        config.build(retention.CheckpointConfig, options, "checkpoint")
    assert [p.partition(":")[0] for p in error.value.problems] == [
        "checkpoint.every",
        "checkpoint.keep_last",
        "checkpoint.timeout",
    ]
    with pytest.raises(errors.ConfigError, match=r"^keep_best: "):
        retention.CheckpointConfig(every=1, keep_best=("loss", "least"))


# Whose run it is.


def test_other_configs_run_is_refused_and_left_alone(tmp_path):
    tiny.save(tmp_path, 5)
    other = {**tiny.CONFIG, "optimizer": {"learning_rate": 1.0, "betas": [0.9, 0.95]}}
    with pytest.raises(errors.ConfigError, match=r"learning_rate: 0.01 -> 1.0"):
        tiny.restore(tmp_path, config=other)
    assert not (tmp_path / "quarantine").exists()
    assert tiny.restore(tmp_path)[1] == 5  # and the lock was given back
    accepted = tiny.restore(tmp_path, config=other, accept=["optimizer.learning_rate"])
    assert accepted[1] == 5
    assert json.loads((tmp_path / "config.json").read_text()) == other


def test_config_of_the_step_counts_where_the_runs_is_lost(tmp_path):
    tiny.save(tmp_path, 5)
    (tmp_path / "config.json").unlink()
    with pytest.raises(errors.ConfigError, match="steps: 40 -> 41"):
        tiny.restore(tmp_path, config={**tiny.CONFIG, "steps": 41})
    assert tiny.restore(tmp_path)[1] == 5


def test_other_config_is_refused_before_anything_is_built(tmp_path):
    tiny.save(tmp_path, 5)
    other = tiny.checkpoints_of(tmp_path, config={**tiny.CONFIG, "steps": 41})
    with pytest.raises(errors.ConfigError, match="steps: 40 -> 41"), other:
        pass


def test_config_of_the_step_counts_where_the_runs_was_edited(tmp_path):
    tiny.save(tmp_path, 5)
    other = {**tiny.CONFIG, "steps": 41}
    (tmp_path / "config.json").write_text(json.dumps(other))
    with pytest.raises(errors.ConfigError, match="checkpoints/5 holds another run"):
        tiny.restore(tmp_path, config=other)


def test_run_that_saved_nothing_may_change_its_config(tmp_path):
    with tiny.checkpoints_of(tmp_path):
        pass
    with tiny.checkpoints_of(tmp_path, config={**tiny.CONFIG, "steps": 41}):
        pass
    assert json.loads((tmp_path / "config.json").read_text())["steps"] == 41


def test_mesh_and_cadence_may_change(tmp_path):
    tiny.save(tmp_path, 5)
    other = {**tiny.CONFIG, "mesh": {"fsdp": 2}, "checkpoint": {"every": 9}}
    assert tiny.restore(tmp_path, config=other)[1] == 5


def test_other_data_is_refused(tmp_path):
    tiny.save(tmp_path, 5)
    with pytest.raises(errors.ConfigError) as error:
        tiny.restore(tmp_path, data={**tiny.DATA, "sha256": "cd" * 32})
    assert "data_identity.sha256: 'abab" in str(error.value)


@pytest.mark.parametrize("size", [8, 4])
def test_other_model_is_refused_by_name_and_nothing_moves(tmp_path, size):
    tiny.save(tmp_path, 5)
    like = tiny.abstract(tiny.mesh_of(2), size=size)
    if size == 8:  # the same shapes, another dtype, and a leaf too many
        cast = lambda x: jax.ShapeDtypeStruct(x.shape, jnp.float32, sharding=x.sharding)
        like.params["layers"]["w"] = cast(like.params["layers"]["w"])
        like.params["layers"]["new"] = like.params["layers"]["scale"]
    with pytest.raises(errors.ConfigError) as error:
        tiny.restore(tmp_path, like)
    text = str(error.value)
    assert "params/layers/w: bfloat16[8, 8, 8] saved, " in text
    if size == 8:
        assert "params/layers/new: absent saved, float32[8] here" in text
    assert os.listdir(tmp_path / "checkpoints") == ["5"]
    assert not (tmp_path / "quarantine").exists()


def test_making_them_touches_nothing(tmp_path):
    tiny.checkpoints_of(tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_second_writer_is_refused(tmp_path):
    with (
        tiny.checkpoints_of(tmp_path),
        pytest.raises(errors.ConfigError, match=f"process {os.getpid()} on host"),
        tiny.checkpoints_of(tmp_path),
    ):
        pass
    with tiny.checkpoints_of(tmp_path):
        pass


def test_writer_that_lost_its_lock_stops(tmp_path):
    with tiny.checkpoints_of(tmp_path) as checkpoints:
        (tmp_path / "LOCK").unlink()
        with pytest.raises(errors.CheckpointError, match="was removed"):
            checkpoints.maybe_save(5, tiny.state_at(5, LIKE))


# States that are not saved.


@pytest.mark.parametrize("where", ["params", "opt_state"])
@pytest.mark.parametrize("value", [jnp.nan, jnp.inf])
def test_state_that_is_not_finite_is_not_saved(tmp_path, where, value):
    state = tiny.state_at(5, LIKE)
    tree = state.params if where == "params" else state.opt_state[1].nu
    tree["embed"]["kernel"] = tree["embed"]["kernel"].at[3, 1].set(value)
    with tiny.checkpoints_of(tmp_path) as checkpoints:
        with pytest.raises(errors.NonFinite, match="embed/kernel"):
            checkpoints.maybe_save(5, state)
        assert checkpoints.steps == []
    assert os.listdir(tmp_path / "checkpoints") == []


def test_optimizers_scalar_may_begin_at_infinity(tmp_path):
    state = tiny.state_at(5, LIKE)
    state = dataclasses.replace(
        state, opt_state=(state.opt_state, jnp.float32(jnp.inf))
    )
    with tiny.checkpoints_of(tmp_path) as checkpoints:
        assert checkpoints.maybe_save(5, state)


@pytest.mark.parametrize(
    "params, message",
    [
        ({"a.b": jnp.ones(1), "a": {"b": jnp.ones(1)}}, r"params/a\.b"),
        ({"a/b": jnp.ones(1)}, "params/a/b"),
        ({"": jnp.ones(1)}, "empty"),
        ({"a": jnp.ones((0, 3))}, "params/a: shape"),
        ({"a": jax.random.key(0)}, "key_data"),
    ],
)
def test_leaves_that_storage_would_confuse_are_refused(tmp_path, params, message):
    state = types.TrainState(jnp.int32(5), params, ())
    with tiny.checkpoints_of(tmp_path) as checkpoints:
        with pytest.raises(ValueError, match=message):
            checkpoints.maybe_save(5, state)
        abstract = jax.eval_shape(lambda: state)
        with pytest.raises(ValueError, match=message):
            checkpoints.restore_or_init(abstract, tiny.never)


def test_saved_is_what_was_there_before_the_donation(tmp_path):
    like = tiny.abstract(tiny.mesh_of(8), size=4096)
    step_fn = jax.jit(
        lambda s: jax.tree.map(lambda x: x + jnp.ones((), x.dtype), s), donate_argnums=0
    )
    state = tiny.state_at(5, like)
    want = tiny.bits(state)
    with tiny.checkpoints_of(tmp_path) as checkpoints:
        assert checkpoints.maybe_save(5, state)
        for _ in range(20):
            state = step_fn(state)
        jax.block_until_ready(state)
    assert tiny.bits(state) != want
    assert tiny.bits(tiny.restore(tmp_path, like)[0]) == want
