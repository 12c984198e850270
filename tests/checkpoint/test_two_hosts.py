# SPDX-License-Identifier: Apache-2.0
"""A run on two processes: saved together, restored on one, and back."""

import json
import os
import pathlib
import shutil
import socket
import subprocess
import sys

import pytest

from tests.fixtures import tiny

HERE = pathlib.Path(__file__).parent


def on_two(workdir, scene: str) -> list[dict]:
    """What the two processes report of a scene in `two_hosts.py`."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    processes = [
        subprocess.Popen(
            [sys.executable, HERE / "two_hosts.py", port, str(i), workdir, scene],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for i in range(2)
    ]
    outputs = []
    try:
        for process in processes:
            out, error = process.communicate(timeout=120)
            assert process.returncode == 0, error[-3000:]
            outputs.append(json.loads(out.splitlines()[-1]))
    finally:
        for process in processes:
            process.kill()
    return outputs


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("run")
    return workdir, on_two(workdir, "save")


def bits_at(step: int) -> str:
    return tiny.bits(tiny.state_at(step, tiny.abstract(tiny.mesh_of(1))))


@pytest.mark.slow
def test_saved_on_two_restored_on_one_and_back(saved, tmp_path):
    source, reports = saved
    assert [r["start"] for r in reports] == [None, None]
    assert [r["steps"] for r in reports] == [[5, 10], [5, 10]]
    assert not (source / "LOCK").exists()
    workdir = tmp_path / "run"
    shutil.copytree(source, workdir)

    like = tiny.abstract(tiny.mesh_of(8), axis=1)
    with tiny.checkpoints_of(workdir) as checkpoints:
        state, step = checkpoints.restore_or_init(like, None)
        assert step == 10 and tiny.bits(state) == bits_at(10)
        checkpoints.maybe_save(15, tiny.state_at(15, like))
        checkpoints.maybe_save(20, tiny.state_at(20, like))
    tiny.damage(workdir, 20)

    reports = on_two(workdir, "resume")
    for report in reports:
        assert report["start"] == 15 and report["bits"] == bits_at(15)
        ((broken, why),) = report["aside"]
        assert broken == 20 and "fingerprint" in why
        assert report["unlike"].startswith("ConfigError: config: process [1] differs")
    full = [report["full"] for report in reports]
    assert full[0] == "CheckpointError: cannot save step 25: another process says why"
    assert "1 MiB free and a save needs" in full[1]
    locked = [report["locked"] for report in reports]
    assert f"ConfigError: workdir: {workdir} is being written by process" in locked[0]
    assert (
        locked[1] == f"CheckpointError: cannot use {workdir}: another process says why"
    )
    apart = [report["apart"] for report in reports]
    assert apart[0] == "CheckpointError: workdir: another process says why"
    assert f"{workdir}-1 is another directory for process 1" in apart[1]
    with tiny.checkpoints_of(workdir) as checkpoints:
        state, step = checkpoints.restore_or_init(like, None)
        assert step == 20 and tiny.bits(state) == bits_at(20)


@pytest.mark.slow
def test_failed_write_on_one_of_two_ends_in_time(saved, tmp_path):
    workdir = tmp_path / "run"
    shutil.copytree(saved[0], workdir)
    reports = on_two(workdir, "fail")
    print(reports)
    for report in reports:
        assert report["error"].startswith("CheckpointError: saving step 25")
        assert report["seconds"] < 45
        assert report["steps"] == [5, 10]
