# SPDX-License-Identifier: Apache-2.0
"""A small experiment with rollouts, from the tiny runs of tests/golden."""

import contextlib
import dataclasses
import functools
import pathlib
import shutil
import tempfile

import jax
import numpy as np
import pytest

from alignjax import analysis, checkpoint, config, rewards, types
from alignjax.distributed import sharding
from alignjax.experiment import build
from alignjax.rollouts import source
from configs import base
from tools import make_golden_runs

ROOT = pathlib.Path(__file__).resolve().parents[2]
RUNS = ROOT / make_golden_runs.FOLDER
STOP = 261  # of its tokens, which are bytes and some more
FOLDER = tempfile.TemporaryDirectory()  # of `start`; removed when the process ends


@functools.cache
def start() -> pathlib.Path:
    """The run `sft` with a stop token as likely as an "e", so that responses end."""
    run, workdir = analysis.open_run(RUNS / "sft"), pathlib.Path(FOLDER.name)
    params = run.params()
    params["embed"] = np.array(params["embed"])
    params["embed"][STOP] = params["embed"][ord("e")]
    state = types.TrainState(np.int32(1), params, ())
    state = jax.tree.map(jax.numpy.asarray, state)
    options = dict(config=run.config, data_identity={}, every=1)
    with checkpoint.Checkpoints(workdir, **options) as checkpoints:
        shutil.copytree(RUNS / "sft/tokenizer", workdir / "tokenizer")
        checkpoints.maybe_save(1, state)
    return workdir


def section(folder, **changes) -> dict:
    """A config as JSON; `changes` are fields by path, with `__` for a dot.

    `start` is the run that it starts from, that of `start()` unless it is given.
    """
    c = base.policy_gradient()
    c.steps, c.batch_size, c.length, c.seed = 4, 8, 200, 3
    c.init.run = changes.pop("start", None) or str(start())
    c.data.sources.prompts = dict(
        kind="world", preset="nano", split="prompts", documents=40
    )
    c.data.long_documents = "skip"
    c.data.validation_fraction = 0.2
    c.rollouts.rewards.words = dict(
        kind="function", function="tests.rollouts.functions:vowels", weight=1.0
    )
    c.rollouts.rewards.size = dict(kind="length", per_token=0.1, weight=0.5)
    c.rollouts.samples, c.rollouts.max_tokens = 4, 12
    c.optimizer.learning_rate = 3e-3
    c.checkpoint.every = 2
    c.log.tensorboard = False
    c.cache_dir = str(folder / "cache")
    c = config.to_json(c)
    for path, value in changes.items():
        *parts, last = path.split("__")
        part = c
        for name in parts:
            part = part.setdefault(name, {})
        part[last] = value
    return c


def ppo(folder, **changes) -> dict:
    """PPO: a critic, two epochs of two minibatches, and a KL that adapts."""
    fields = dict(
        steps=8,
        critic={"run": str(RUNS / "reward_model"), "learning_rate": 3e-3},
        rollouts__minibatches=2,
        rollouts__epochs=2,
        rollouts__advantage={"name": "gae_whitened"},
        rollouts__normalize={"name": "running_scale"},
        rollouts__denominator={"name": "token_mean"},
        rollouts__kl={"coefficient": 0.1, "target": 0.5, "horizon": 100.0},
        rollouts__truncated="bootstrap",
        checkpoint__every=4,
        optimizer__ema=0.9,
    )
    return section(folder, **(fields | changes))


@contextlib.contextmanager
def devices(count: int):
    """Meshes of so many devices, where a config says less than all of them."""
    make_mesh, some = sharding.make_mesh, jax.devices()[:count]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            sharding, "make_mesh", lambda shape, _=None: make_mesh(shape, some)
        )
        yield


def begun(section):
    """An experiment, its first state, and what is frozen."""
    run = build.build(section)
    return run, run.weights.state(), run.weights.frozen()


def models(run, state, frozen):
    """The policy and its reference, as a rollout takes them."""
    return source.Source(run.rollouts, frozen, 0).models(state)


def make(experiment, rollouts, number=5):
    """That rollout's batch, figures and lines for the log."""
    run, *_ = experiment
    with sharding.use(run.mesh, run.rules):
        return rollouts.make(number, models(*experiment), 0.1)


def with_many_stops(experiment):
    """The sampler, with which more than half of all responses end by themselves."""
    sampler = experiment[0].rollouts.sampler
    return sampler._replace(stops_V=np.arange(len(sampler.stops_V)) % 3 == 0)


def with_rewards(experiment, *functions):
    """The rollouts, rewarded by the sum of these functions."""
    named = [rewards.Named(f"r{i}", 1.0, f) for i, f in enumerate(functions)]
    return dataclasses.replace(experiment[0].rollouts, rewards=tuple(named))
