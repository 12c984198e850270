# SPDX-License-Identifier: Apache-2.0
"""A trainer that is killed at any moment ends as one that was not, bit for bit."""

import multiprocessing
import os
import pathlib
import random
import signal
import sys
import time

import pytest

from alignjax.checkpoint import step_folders
from tests.fixtures import tiny

STEPS = 40


def wait_for(condition, process, seconds: float = 60.0) -> None:
    """Until `condition()`, or the process ends."""
    deadline = time.monotonic() + seconds
    while not condition() and process.exitcode is None:
        assert time.monotonic() < deadline, "the trainer is stuck"
        time.sleep(0.002)


def saving(directory: pathlib.Path) -> bool:
    return any(directory.glob(f"*{step_folders.TEMPORARY}*"))


@pytest.fixture(autouse=True)
def path(monkeypatch):
    """The server that forks the trainers looks for what it imports only here."""
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))


def start(workdir: pathlib.Path):
    """A trainer, forked from a server that has imported all and touched no device."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tiny"])
    process = context.Process(target=tiny.train, args=(workdir, STEPS, 1))
    process.start()
    return process


def kill_again_and_again(
    workdir: pathlib.Path, kills: int, seed: int
) -> dict[str, int]:
    """Trains to the end, through `kills` kills or fewer; counts what they hit."""
    rng = random.Random(seed)
    seen = {"killed": 0, "saving": 0}
    directory, started = workdir / "checkpoints", workdir / "started"
    while not (workdir / "final").exists():
        started.unlink(missing_ok=True)
        process = start(workdir)
        if seen["killed"] < kills:
            if rng.random() < 0.2:  # also while it starts and restores
                time.sleep(rng.uniform(0, 1.5))
            else:
                wait_for(started.exists, process)
                time.sleep(rng.uniform(0, 0.2))
                wait_for(lambda: saving(directory), process)
                time.sleep(rng.uniform(0, 0.03))
            os.kill(process.pid, signal.SIGKILL)
        process.join(120)
        assert process.exitcode in (0, -signal.SIGKILL)
        if process.exitcode:
            seen["killed"] += 1
            seen["saving"] += saving(directory)
    return seen


def check(tmp_path, kills: int, seed: int) -> None:
    whole, workdir = tmp_path / "whole", tmp_path / "killed"
    whole.mkdir()
    workdir.mkdir()
    process = start(whole)
    process.join(120)
    assert process.exitcode == 0
    seen = kill_again_and_again(workdir, kills, seed)
    print(seen)
    assert (workdir / "final").read_text() == (whole / "final").read_text()
    assert seen["killed"] >= 0.7 * kills and seen["saving"] >= 0.3 * kills, seen
    left = sorted(os.listdir(workdir / "checkpoints"))
    assert left == [str(step) for step in range(STEPS - 2, STEPS + 1)]
    assert not (workdir / "quarantine").exists()
    assert not (workdir / "LOCK").exists()


def test_killed_five_times(tmp_path):
    check(tmp_path, kills=5, seed=0)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2])
def test_killed_thirty_times(tmp_path, seed):
    check(tmp_path, kills=30, seed=seed)
