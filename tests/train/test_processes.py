# SPDX-License-Identifier: Apache-2.0
"""Two processes train as one does; a run moves from two to one and back."""

import os
import signal
import socket

import launch
import numpy as np
import pytest

from alignjax import analysis, errors

SAMPLED = ("--config.sample.every=12", "--config.checkpoint.every=6")


def start_two(flags, directory):
    """Two processes of one device each, that write `directory/0` and `directory/1`."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    directory.mkdir(exist_ok=True)
    address = f"--coordinator=127.0.0.1:{port}"
    return [
        launch.start(
            [*flags, "--multihost", address, "--processes=2", f"--process_id={i}"],
            directory / str(i),
        )
        for i in range(2)
    ]


def join(processes, directory) -> list[str]:
    """What they said, once both have ended with the same code, which comes first."""
    for process in processes:
        process.join(120)
    said = [(directory / str(i)).read_text() for i in range(2)]
    codes = [process.exitcode for process in processes]
    for process in processes:
        process.kill()
    return [codes, *said]


def losses(workdir) -> np.ndarray:
    rows = analysis.open_run(workdir).metrics()
    assert [row["step"] for row in rows] == list(range(24))
    return np.array([row["loss"] for row in rows])


def steps_written(workdir) -> int:
    file = workdir / "metrics.jsonl"
    return file.read_bytes().count(b"\n") if file.exists() else 0


@pytest.fixture(scope="module")
def one(tmp_path_factory, corpus, cache):
    """The run on one process with the same two devices."""
    workdir = tmp_path_factory.mktemp("one")
    flags = launch.flags(workdir, corpus, cache, *SAMPLED)
    code, output = launch.run(flags, workdir / "output", devices=2)
    assert code == errors.DONE, output
    return workdir


@pytest.fixture(scope="module")
def moved(tmp_path_factory, corpus, cache):
    """A run begun on two processes, gone on with on one, and ended on two."""
    directory = tmp_path_factory.mktemp("moved")
    workdir = directory / "run"
    flags = launch.flags(workdir, corpus, cache, *SAMPLED)
    processes = start_two(flags, directory / "first")
    launch.wait_for(lambda: steps_written(workdir) >= 2, processes[0])
    os.kill(processes[1].pid, signal.SIGTERM)  # of one only: both stop, at one step
    codes, *said = join(processes, directory / "first")
    assert codes == [errors.PREEMPTED] * 2, said
    stopped = analysis.open_run(workdir).steps[-1]
    assert stopped == steps_written(workdir) < 20

    process = launch.start(flags, directory / "second", devices=2)
    launch.wait_for(lambda: steps_written(workdir) >= stopped + 2, process)
    os.kill(process.pid, signal.SIGTERM)
    process.join(60)
    assert process.exitcode == errors.PREEMPTED, (directory / "second").read_text()

    codes, *said = join(start_two(flags, directory / "third"), directory / "third")
    assert codes == [errors.DONE] * 2, said
    return workdir, said


def test_two_train_as_one(one, moved):
    workdir, said = moved
    np.testing.assert_allclose(losses(workdir), losses(one), rtol=0, atol=1e-5)
    evals = [
        [r["eval/loss"] for r in analysis.open_run(w).metrics() if "eval/loss" in r]
        for w in (one, workdir)
    ]
    np.testing.assert_allclose(*evals, rtol=0, atol=1e-5)
    assert (workdir / "samples/00000023-sample-0.txt").read_text().startswith("the ")
    assert "2 process(es)" in said[0] and "step 24/24" in said[0]
    assert "step" not in said[1]  # only process 0 writes


def test_another_config_is_refused_by_both(tmp_path, corpus, cache, moved):
    flags = launch.flags(moved[0], corpus, cache, *SAMPLED, "--config.seed=1")
    codes, *said = join(start_two(flags, tmp_path / "said"), tmp_path / "said")
    assert codes == [errors.CONFIG, errors.CHECKPOINT], said
    assert "seed: 0 -> 1" in said[0] and "another process says why" in said[1]
