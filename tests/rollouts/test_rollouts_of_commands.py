# SPDX-License-Identifier: Apache-2.0
"""PPO with a critic as commands: killed at any point, and on two processes."""

import signal
import socket

import numpy as np
import pytest

from alignjax import analysis, errors, trees
from tests.rollouts import killing, small
from tests.train import launch

CONFIG = launch.ROOT / "tests/rollouts/ppo_config.py"
SAME = ("loss", "critic/loss", "rollout/reward", "rollout/length", "rollout/explained")

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


def flags(workdir, cache, *more):
    return [
        f"--config={CONFIG}",
        f"--workdir={workdir}",
        f"--config.cache_dir={cache}",
        f"--config.init.run={small.start()}",
        *more,
    ]


def finish(arguments, output, devices):
    process = launch.start(arguments, output, devices)
    process.join(600)
    process.kill()
    assert process.exitcode == errors.DONE, output.read_text()


@pytest.fixture(scope="module")
def whole(tmp_path_factory, cache):
    """The run that nobody interrupts, on two devices."""
    workdir = tmp_path_factory.mktemp("whole")
    finish(flags(workdir, cache), workdir / "output", 2)
    return workdir


@pytest.mark.parametrize(
    "before", [killing.within_a_rollout, killing.between_minibatches]
)
def test_killed_it_ends_with_the_same_bits(tmp_path, cache, whole, before):
    """Policy, critic, both optimizers, KL coefficient and average."""
    process = launch.start(flags(tmp_path, cache), tmp_path / "output", 2, before)
    process.join(600)
    assert process.exitcode == -signal.SIGKILL, (tmp_path / "output").read_text()
    assert analysis.open_run(tmp_path).steps == [4]
    finish(flags(tmp_path, cache), tmp_path / "output", 2)
    leaves, expected = (
        analysis.open_run(w).meta(8)["leaves"] for w in (tmp_path, whole)
    )
    assert any(name.startswith("train/extra/critic/opt_state") for name in leaves)
    assert leaves == expected


def on_two_processes(folder, cache, *more):
    """The exit codes of both, and what they said."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"--coordinator=127.0.0.1:{free.getsockname()[1]}"
    processes = [
        launch.start(
            flags(folder / "run", cache, "--multihost", address, *more)
            + ["--processes=2", f"--process_id={i}"],
            folder / str(i),
        )
        for i in range(2)
    ]
    for process in processes:
        process.join(600)
    texts = [(folder / str(i)).read_text() for i in range(2)]
    return [p.exitcode for p in processes], texts


def test_two_processes_sample_and_train_as_one(tmp_path, cache, whole):
    codes, texts = on_two_processes(tmp_path, cache)
    assert codes == [errors.DONE] * 2, texts
    runs = [analysis.open_run(w) for w in (tmp_path / "run", whole)]
    leaves, others = (trees.named_leaves(run.params()) for run in runs)
    for name, leaf in leaves.items():
        np.testing.assert_allclose(leaf, others[name], rtol=0, atol=1e-3, err_msg=name)
    rows, expected = (run.metrics() for run in runs)
    for name in SAME:
        of = lambda rows, name=name: [row[name] for row in rows if name in row]
        np.testing.assert_allclose(of(rows), of(expected), rtol=0, atol=1e-4)


def test_two_processes_with_rewards_of_their_own(tmp_path, cache):
    """Those of the first count, also where prompts are drawn again; a line says so."""
    more = ["--config.rollouts.rewards.own.kind=tests.rollouts.functions:by_process"]
    more += ["--config.steps=4", "--config.rollouts.redraws=1"]
    codes, texts = on_two_processes(tmp_path, cache, *more)
    assert codes == [errors.DONE] * 2, texts
    assert "scores of other processes differ from those of process 0" in texts[0]
