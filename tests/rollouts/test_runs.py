# SPDX-License-Identifier: Apache-2.0
"""Whole runs that learn from rollouts: going on, and being computed in other ways."""

import os
import shutil
import signal

import numpy as np
import pytest

from alignjax import analysis, errors, train
from alignjax.rollouts import source
from tests.rollouts import small

SAME = ("loss", "grad_norm", "entropy")
SAME += tuple(f"rollout/{name}" for name in ("reward", "length", "kl/reference"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("rollouts")


def metrics(workdir):
    return analysis.open_run(workdir).metrics()


@pytest.fixture(scope="module")
def ppo(folder):
    workdir = folder / "ppo"
    assert train.train(small.ppo(folder), workdir) == errors.DONE
    return workdir


def test_a_run_goes_on_bit_for_bit(ppo, folder, monkeypatch):
    """Critic, its optimizer, the KL's coefficient, the average, statistics of rewards.

    Asked to stop within a rollout, it learns all of it first.
    """
    other, batch = folder / "other", source.Source.__call__

    def asked_to_stop(self, step, state):
        if step == 1:
            os.kill(os.getpid(), signal.SIGTERM)
        return batch(self, step, state)

    with monkeypatch.context() as patch:
        patch.setattr(source.Source, "__call__", asked_to_stop)
        assert train.train(small.ppo(folder), other) == errors.PREEMPTED
    assert analysis.open_run(other).steps == [4]
    assert train.train(small.ppo(folder), other) == errors.DONE
    timed = ("time", "tokens_per_second", "rollout/seconds", "mfu")
    plain = lambda rows: [
        {k: x for k, x in row.items() if k not in timed} for row in rows
    ]
    assert plain(metrics(other)) == plain(metrics(ppo))
    leaves, again = (analysis.open_run(w).meta(8)["leaves"] for w in (ppo, other))
    assert leaves == again  # fingerprints
    parts = "critic/params", "critic/opt_state", "kl_coefficient", "average", "running"
    for name in parts:
        assert any(path.startswith(f"train/extra/{name}") for path in leaves), name


def test_statistics_of_rewards_move_once_a_rollout(ppo):
    """They are those of all rewards so far, less the KL; a checkpoint has them."""
    first, second = (metrics(ppo)[i] for i in (0, 4))
    assert first["rollout/running/count"] == 16 * 4
    assert second["rollout/running/count"] == 2 * 16 * 4
    assert not any("rollout/running/count" in metrics(ppo)[i] for i in (1, 2, 3, 5))
    # The policy is its reference at first.
    assert first["rollout/running/mean"] == pytest.approx(first["rollout/reward"])
    deviation = np.sqrt(first["rollout/running/variance"])
    assert deviation == pytest.approx(first["rollout/reward/std"], rel=1e-5)
    run = analysis.open_run(ppo)
    for step, row in ((4, first), (8, second)):
        for name in ("count", "mean", "variance"):
            kept = run.leaf(f"extra/running/{name}", step, item="train")
            assert kept == np.float32(row[f"rollout/running/{name}"])


def test_the_coefficient_follows_the_kl(ppo):
    rows = metrics(ppo)
    before, after = (rows[i]["rollout/kl/coefficient"] for i in (0, 4))
    assert before == pytest.approx(0.1)
    # The KL of the first rollout is 0, below the target by more than a fifth.
    assert after == pytest.approx(0.1 * (1 - 0.2 * 64 / 100), rel=1e-6)
    assert rows[0]["critic/loss"] != rows[4]["critic/loss"]


def test_the_policy_begins_as_its_reference(ppo):
    first, later = metrics(ppo)[0], metrics(ppo)[4]
    assert first["rollout/kl/reference"] == pytest.approx(0, abs=1e-6)
    assert first["ratio"] == pytest.approx(1, abs=1e-5) and first["clipped/up"] == 0
    assert later["rollout/kl/reference"] > 1e-4
    assert abs(first["rollout/kl/k1"]) < 1e-4 < abs(later["rollout/kl/k1"])
    assert first["rollout/gate/max"] < 1e-4


def test_a_rollout_is_left_whole(folder):
    """A run stops, is saved and is evaluated between rollouts only."""
    for name in ("checkpoint__every", "steps", "evaluation__every"):
        with pytest.raises(errors.ConfigError, match=name.replace("__", ".")):
            train.train(small.ppo(folder, **{name: 6}), folder / name)
        assert not (folder / name).exists()


ONE = {"data": 1, "fsdp": 1, "tensor": 1}
ARRANGEMENTS = [
    dict(mesh=ONE, microbatches=4),
    dict(mesh={"data": 2, "fsdp": 2, "tensor": 2}, microbatches=2),
    dict(mesh={"fsdp": 8}, data__share_prompt=True, rollouts__rows=8),
]


@pytest.fixture(scope="module")
def plain(folder):
    return _losses(folder, "plain", mesh=ONE)


def _losses(folder, name, **changes):
    fields = dict(
        steps=2,
        rollouts__advantage={"name": "grpo"},
        rollouts__denominator={"name": "sequence_mean"},
        rollouts__kl={"place": "loss", "coefficient": 0.2},
        objective__entropy=0.01,
    )
    section = small.section(folder, **(fields | changes))
    with small.devices(1 if changes["mesh"] == ONE else 8):
        assert train.train(section, folder / name) == errors.DONE
    return metrics(folder / name)


@pytest.mark.parametrize("how", ARRANGEMENTS, ids=str)
def test_one_run_however_it_is_computed(plain, folder, how):
    """On one device or eight, in parts, in shared rows: the same tokens and losses."""
    rows = _losses(folder, str(ARRANGEMENTS.index(how)), **how)
    for row, expected in zip(rows, plain, strict=True):
        assert 1 < row["rollout/length"] < 12  # some responses end by themselves
        for name in SAME:
            assert row[name] == pytest.approx(expected[name], abs=1e-5), name


def ptx(folder, name, coefficient, **changes):
    """Losses of a run that learns text beside its rollouts."""
    text = dict(kind="world", preset="nano", split="pretrain", documents=200)
    section = small.section(
        folder,
        **(dict(steps=2, rollouts__minibatches=2, checkpoint__every=2) | changes),
        ptx={"sources": {"text": text}, "coefficient": coefficient, "batch_size": 8},
    )
    with small.devices(1):
        assert train.train(section, folder / name) == errors.DONE
    return metrics(folder / name)


def test_text_of_pretraining_is_learned_beside_rollouts(folder):
    """PPO-ptx: gamma times the mean nats a token, whatever the rollout's denominator.

    And so however many microbatches there are.
    """
    one = ptx(folder, "ptx1", 1.0, **ARRANGEMENTS[0])
    three = ptx(folder, "ptx3", 3.0, mesh=ONE)
    added = 2 * one[0]["ptx/nll"]
    assert three[0]["loss"] == pytest.approx(one[0]["loss"] + added, rel=1e-4)
    assert three[1]["ptx/nll"] != one[1]["ptx/nll"]


def test_a_head_on_the_trunk_of_the_policy(folder):
    """It starts at 0, learns, goes on as it was, and is no part of what is saved.

    In the first rollout it learns alone.
    """
    critic = {"trunk": "policy", "learning_rate": 3e-3, "warmup_rollouts": 1}
    section = small.ppo(folder, critic=critic)
    workdir, other = folder / "trunk", folder / "trunk_again"
    assert train.train(section, workdir) == errors.DONE
    rows = metrics(workdir)
    assert rows[0]["critic/value"] == 0 and rows[0]["rollout/explained"] == 0
    assert rows[0]["value/loss"] == pytest.approx(rows[0]["critic/loss"], rel=1e-5)
    assert rows[4]["critic/value"] != 0
    run = analysis.open_run(workdir)
    # A policy that is held is where its reference is; that lowers no coefficient.
    beta = [run.leaf("extra/kl_coefficient", step, item="train") for step in (4, 8)]
    assert beta[0] == np.float32(0.1) != beta[1]
    start = analysis.open_run(small.start()).digest()
    assert run.at(4).digest() == start != run.at(8).digest()
    assert "score/kernel" not in run.leaves()
    leaves = run.meta(8)["leaves"]
    assert "train/extra/critic/params/score/kernel" in leaves
    shutil.copytree(workdir, other)
    shutil.rmtree(other / "checkpoints/8")
    assert train.train(section, other) == errors.DONE
    assert analysis.open_run(other).meta(8)["leaves"] == leaves


def test_pairs_of_the_best_and_the_worst(folder):
    section = small.section(
        folder,
        objective__name="preference",
        objective__loss="dpo",
        evaluation__every=2,
        rollouts__evaluation_prompts=4,
    )
    slow = {"kind": "tests.rollouts.functions:slow", "seconds": 0.5, "weight": 0.0}
    section["rollouts"]["rewards"]["slow"] = slow
    assert train.train(section, folder / "pairs") == errors.DONE
    rows = metrics(folder / "pairs")
    # Rates count the time of rollouts in: two of half a second, in three steps, since
    # the metrics of the first step are read when the second rollout has been drawn.
    tokens = rows[1]["tokens"] - rows[0]["tokens"]
    assert 0 < rows[-1]["tokens_per_second"] < 3 * tokens / (2 * 0.5)
    assert rows[0]["loss"] == pytest.approx(np.log(2), abs=1e-6)
    assert rows[0]["rollout/gap"] > 0 and rows[-1]["eval/reward"] < 10
    assert 0 < rows[-1]["rollout/gate/max"] < 1e-4
