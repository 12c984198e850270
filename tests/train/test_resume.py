# SPDX-License-Identifier: Apache-2.0
"""A run that is killed or stopped, and started again, ends as if it had not been."""

import functools
import os
import random
import signal
import time

import launch
import numpy as np
import pytest

from alignjax import analysis, errors, trees
from alignjax.checkpoint import step_folders
from alignjax.tracking import writer
from tests.fixtures import marks

SOON = "--config.checkpoint.every=3"


@pytest.fixture(scope="module")
def whole(tmp_path_factory, corpus, cache):
    """The run that nobody interrupts."""
    workdir = tmp_path_factory.mktemp("whole")
    flags = launch.flags(workdir, corpus, cache, SOON)
    code, output = launch.run(flags, workdir / "output")
    assert code == errors.DONE, output
    return workdir


def records(workdir):
    """metrics.jsonl without what depends on the clock."""
    rows = analysis.open_run(workdir).metrics()
    return [
        {k: v for k, v in row.items() if k not in writer.TIMING_KEYS} for row in rows
    ]


def assert_same(workdir, whole, steps: int = 24) -> None:
    """The same parameters bit for bit, the same optimizer, and every step once."""
    run, expected = analysis.open_run(workdir), analysis.open_run(whole)
    assert run.meta()["leaves"] == expected.meta()["leaves"]  # with fingerprints
    leaves = trees.named_leaves(run.params())
    for name, leaf in trees.named_leaves(expected.params()).items():
        assert leaves[name].tobytes() == np.asarray(leaf).tobytes(), name
    assert [row["step"] for row in records(workdir)] == list(range(steps))
    assert records(workdir) == records(whole)


def saving(workdir) -> bool:
    return any((workdir / "checkpoints").glob(f"*{step_folders.TEMPORARY}*"))


def steps_written(workdir) -> int:
    file = workdir / "metrics.jsonl"
    return file.read_bytes().count(b"\n") if file.exists() else 0


def kill_and_restart(flags, workdir, kills, rng) -> int:
    """Runs to the end; returns how many of the kills fell into a save."""
    caught = 0
    for n in range(kills + 1):
        process = launch.start(flags, workdir / "output")
        if n < kills:
            at = steps_written(workdir) + rng.randrange(4)
            launch.wait_for(lambda at=at: steps_written(workdir) > at, process)
            if n:  # the first falls anywhere
                launch.wait_for(lambda: saving(workdir), process)
            time.sleep(rng.uniform(0, 0.02))
            caught += saving(workdir)
            os.kill(process.pid, signal.SIGKILL)
        process.join(120)
        expected = errors.DONE if n == kills else -signal.SIGKILL
        assert process.exitcode == expected, (workdir / "output").read_text()
    return caught


def test_killed_three_times(tmp_path, corpus, cache, whole):
    flags = launch.flags(tmp_path, corpus, cache, SOON)
    assert kill_and_restart(flags, tmp_path, kills=3, rng=random.Random(1))
    assert_same(tmp_path, whole)
    said = (tmp_path / "log.txt").read_text()
    assert said.count("of 24") == 4, said
    assert not saving(tmp_path) and not (tmp_path / "LOCK").exists()


SIGNALS = [(signal.SIGTERM, errors.PREEMPTED), (signal.SIGINT, errors.INTERRUPTED)]


@pytest.mark.parametrize("number, expected", marks.slow_but(SIGNALS[:1], SIGNALS))
def test_asked_to_stop(tmp_path, corpus, cache, whole, number, expected):
    flags = launch.flags(tmp_path, corpus, cache, SOON)
    process = launch.start(flags, tmp_path / "output")
    launch.wait_for(lambda: steps_written(tmp_path) >= 4, process)
    os.kill(process.pid, number)
    process.join(60)
    output = (tmp_path / "output").read_text()
    assert process.exitcode == expected, output
    step = analysis.open_run(tmp_path).steps[-1]
    assert 4 < step < 24 and step == steps_written(tmp_path)
    assert f"asked to stop: saved step {step} of 24" in output
    code, output = launch.run(flags, tmp_path / "output")
    assert code == errors.DONE, output
    assert_same(tmp_path, whole)


SHAKESPEARE = launch.ROOT.parent / "shared/data/tinyshakespeare.txt"


@pytest.mark.slow
@pytest.mark.skipif(not SHAKESPEARE.exists(), reason="needs tinyshakespeare.txt")
def test_shakespeare_killed_three_times(tmp_path, cache):
    """The whole job of `configs/pretrain/text.py`: its loss, and its bits."""
    config = launch.ROOT / "configs/pretrain/text.py"
    dirs = [tmp_path / "whole", tmp_path / "killed"]
    runs = [launch.flags(d, SHAKESPEARE, cache, config=config) for d in dirs]
    for directory in dirs:
        directory.mkdir()
    start = functools.partial(launch.start, before=launch.optimized)
    process = start(runs[0], dirs[0] / "output")
    process.join(1200)
    assert process.exitcode == errors.DONE, (dirs[0] / "output").read_text()
    rng = random.Random(0)
    for n in range(3):
        process = start(runs[1], dirs[1] / "output")
        at = 600 * n + rng.randrange(500)
        launch.wait_for(lambda at=at: steps_written(dirs[1]) > at, process, 600)
        if n:
            launch.wait_for(lambda: saving(dirs[1]), process, 600)
        os.kill(process.pid, signal.SIGKILL)
        process.join(60)
    process = start(runs[1], dirs[1] / "output")
    process.join(1200)
    assert process.exitcode == errors.DONE, (dirs[1] / "output").read_text()
    assert_same(*reversed(dirs), steps=2000)
    last = records(dirs[0])[-1]
    print({k: v for k, v in last.items() if k.startswith("eval")})
    assert last["eval/loss"] <= 1.88
