# SPDX-License-Identifier: Apache-2.0
"""Disks that fill up, fail, or cannot be written: reported, and nothing is lost."""

import collections
import logging
import os
import pathlib
import resource
import shutil
import time

import pytest

from alignjax import errors
from tests.fixtures import tiny

LIKE = tiny.abstract(tiny.mesh_of(2))


def test_disk_that_would_fill_up_is_noticed_before(tmp_path, monkeypatch):
    tiny.save(tmp_path, 5)
    usage = collections.namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(2**40, 2**40, 2**20))
    with tiny.checkpoints_of(tmp_path) as checkpoints:
        with pytest.raises(errors.CheckpointError, match="1 MiB free and a save"):
            checkpoints.maybe_save(10, tiny.state_at(10, LIKE))
        monkeypatch.undo()
        assert checkpoints.maybe_save(10, tiny.state_at(10, LIKE))
    assert os.listdir(tmp_path / "checkpoints") in (["5", "10"], ["10", "5"])


def test_too_little_space_is_said_before_the_first_step(tmp_path, monkeypatch):
    """By what a save needs; a run that is done needs none."""
    usage = collections.namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(2**40, 2**40, 2**20))
    for steps in ([], [5]):
        monkeypatch.undo() if steps else None
        tiny.save(tmp_path, *steps)
        monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(2**40, 2**40, 2**20))
        with (
            tiny.checkpoints_of(tmp_path) as checkpoints,
            pytest.raises(errors.CheckpointError, match="1 MiB free and a save needs"),
        ):
            checkpoints.restore_or_init(LIKE, tiny.never)
    done = {**tiny.CONFIG, "steps": 5}
    accept = dict(config=done, accept=("steps",))
    with tiny.checkpoints_of(tmp_path, **accept) as checkpoints:
        assert checkpoints.restore_or_init(LIKE, tiny.never)[1] == 5


def fail_to_write(checkpoints, like):
    """Starts a save that cannot end, as the limit on file sizes is too low for it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**16, hard))
    try:
        assert checkpoints.maybe_save(10, tiny.state_at(10, like))
        deadline = time.monotonic() + 30
        while not checkpoints._pending[1].done() and time.monotonic() < deadline:
            time.sleep(0.01)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_failed_write_is_reported_at_the_next_step(tmp_path):
    like = tiny.abstract(tiny.mesh_of(2), size=4096)
    tiny.save(tmp_path, 5, like=like)
    with tiny.checkpoints_of(tmp_path) as checkpoints:
        fail_to_write(checkpoints, like)
        with pytest.raises(errors.CheckpointError, match="saving step 10") as error:
            checkpoints.maybe_save(11, tiny.state_at(11, like))
        assert "[5]" in str(error.value) and "too large" in str(error.value)
        assert os.listdir(tmp_path / "checkpoints") == ["5"]  # its space is free again
        assert not checkpoints.maybe_save(12, tiny.state_at(12, like))
        assert checkpoints.maybe_save(10, tiny.state_at(10, like))
    assert tiny.restore(tmp_path, like)[1] == 10


def test_failed_last_write_is_reported_by_close(tmp_path):
    like = tiny.abstract(tiny.mesh_of(2), size=4096)
    tiny.save(tmp_path, 5, like=like)
    with (
        pytest.raises(errors.CheckpointError, match="saving step 10"),
        tiny.checkpoints_of(tmp_path) as checkpoints,
    ):
        fail_to_write(checkpoints, like)
    state, step = tiny.restore(tmp_path, like)
    assert step == 5
    assert tiny.bits(state) == tiny.bits(tiny.state_at(5, like))


def test_failed_last_write_does_not_hide_what_ended_the_run(tmp_path, caplog):
    like = tiny.abstract(tiny.mesh_of(2), size=4096)
    with (
        pytest.raises(KeyError, match="the reason"),
        tiny.checkpoints_of(tmp_path) as checkpoints,
    ):
        fail_to_write(checkpoints, like)
        raise KeyError("the reason")
    assert "saving step 10" in caplog.text


def test_leftovers_of_a_killed_save_are_removed(tmp_path):
    tiny.save(tmp_path, 5)
    for name in ("10.orbax-checkpoint-tmp", "4.deleted"):
        (tmp_path / "checkpoints" / name / "params").mkdir(parents=True)
    assert tiny.restore(tmp_path)[1] == 5
    assert os.listdir(tmp_path / "checkpoints") == ["5"]


@pytest.mark.parametrize("workdir", ["/sys/run", "/proc/run", "/dev/null/run"])
def test_workdir_that_cannot_be_written(workdir):
    if not pathlib.Path(workdir).parent.exists():
        pytest.skip("no such file system here")
    refused = pytest.raises(errors.CheckpointError, match=f"cannot use {workdir}: ")
    with refused, tiny.checkpoints_of(workdir):
        pass


def test_bucket_is_refused():
    with pytest.raises(errors.ConfigError, match="mount the bucket"):
        tiny.checkpoints_of("gs://bucket/run")


def test_every_byte_of_a_step_is_synced(tmp_path, monkeypatch):
    synced = set()
    fsync = os.fsync

    def spy(descriptor):
        synced.add(os.readlink(f"/proc/self/fd/{descriptor}"))
        fsync(descriptor)

    if not os.path.exists("/proc/self/fd"):
        pytest.skip("needs /proc to see which files are synced")
    monkeypatch.setattr(os, "fsync", spy)
    tiny.save(tmp_path, 5)
    step = tmp_path / "checkpoints" / "5"
    want = {str(path) for path in [step, step.parent, *step.rglob("*")]}
    assert want <= synced
    assert any(path.startswith(f"{tmp_path}/config.json") for path in synced)


def test_says_what_it_removed(tmp_path, caplog):
    tiny.save(tmp_path, 5)
    (tmp_path / "checkpoints" / "10.orbax-checkpoint-tmp").mkdir()
    with caplog.at_level(logging.INFO):
        tiny.restore(tmp_path)
    assert "10.orbax-checkpoint-tmp" in caplog.text
