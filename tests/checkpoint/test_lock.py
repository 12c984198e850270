# SPDX-License-Identifier: Apache-2.0
"""One writer: who is refused, who may take over, and what a race ends in."""

import concurrent.futures
import errno
import fcntl
import json
import logging
import os
import resource
import socket
import subprocess
import sys
import time

import pytest

from alignjax import errors
from alignjax.checkpoint import lock


def leave(directory, age: float = 0.0, **owner):
    """A lock file of another owner, last touched `age` seconds ago."""
    file = directory / lock.NAME
    record = {**lock._owner("theirs"), **owner}
    file.write_text(json.dumps(record))
    os.utime(file, (time.time() - age,) * 2)
    return file


def acquired(directory) -> lock.Lock:
    held = lock.Lock(directory)
    held.acquire()
    return held


def dead_process() -> dict:
    """The pid and start of a process that has ended."""
    code = "from alignjax.checkpoint import lock; import json, os;"
    code += "print(json.dumps(lock._owner('theirs')))"
    done = subprocess.run(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, check=True
    )
    return json.loads(done.stdout)


def test_second_writer_is_refused_by_name(tmp_path):
    first = acquired(tmp_path)
    with pytest.raises(errors.ConfigError) as error:
        acquired(tmp_path)
    for part in (
        str(os.getpid()),
        socket.gethostname(),
        str(tmp_path),
        "another workdir",
    ):
        assert part in str(error.value)
    first.check()
    first.release()
    second = acquired(tmp_path)
    second.check()
    second.release()
    assert os.listdir(tmp_path) == []


def test_dead_owner_on_this_machine_is_succeeded_at_once(tmp_path, caplog):
    owner = dead_process()
    leave(tmp_path, **owner)
    with caplog.at_level(logging.WARNING):
        held = acquired(tmp_path)
    held.check()
    assert f"process {owner['pid']}" in caplog.text
    held.release()
    assert os.listdir(tmp_path) == []


def test_process_id_used_again_is_another_process(tmp_path):
    leave(tmp_path, pid=os.getpid(), started="1")
    acquired(tmp_path).release()


def test_other_machine_is_judged_by_its_heartbeat(tmp_path):
    elsewhere = {"host": "elsewhere", "machine": "other boot", "pid": 1}
    file = leave(tmp_path, age=lock.STALE_SECONDS - 20, **elsewhere)
    with pytest.raises(errors.ConfigError, match="process 1 on host elsewhere"):
        acquired(tmp_path)
    assert file.exists()
    leave(tmp_path, age=lock.STALE_SECONDS + 20, **elsewhere)
    acquired(tmp_path).release()


def test_unreadable_lock_counts_as_a_foreign_one(tmp_path):
    file = leave(tmp_path)
    file.write_text('{"half')
    with pytest.raises(errors.ConfigError, match="unknown process"):
        acquired(tmp_path)


LOCKS = ["{}", "[]", "null", "", '{"pid": "1"}', '{"pid": -1, "started": []}']


@pytest.mark.parametrize("text", LOCKS)
def test_lock_without_an_owner_is_judged_by_its_age(tmp_path, text):
    """Also where it names this machine, and no process of it."""
    owner = {"machine": lock._machine()} | (json.loads(text or "0") or {"x": 1})
    for content in (text, json.dumps(owner)) if text[:1] == "{" else (text,):
        file = tmp_path / lock.NAME
        file.write_text(content)
        with pytest.raises(errors.ConfigError, match="is being written by"):
            acquired(tmp_path)
        for age in (lock.STALE_SECONDS + 20, -lock.STALE_SECONDS - 20):
            file.write_text(content)
            os.utime(file, (time.time() - age,) * 2)
            acquired(tmp_path).release()


def test_lock_that_a_full_disk_does_not_take_is_not_left(tmp_path):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, limits[1]))
    try:
        with pytest.raises(OSError):
            lock.Lock(tmp_path).acquire()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert not any(tmp_path.iterdir())
    acquired(tmp_path).release()


def test_lock_that_is_no_file_is_refused_and_left(tmp_path):
    file = tmp_path / lock.NAME
    for make in (file.mkdir, lambda: file.symlink_to("gone"), lambda: os.mkfifo(file)):
        make()
        with pytest.raises(errors.ConfigError, match=r"workdir: .*LOCK is no file"):
            acquired(tmp_path)
        file.rmdir() if file.is_dir() else file.unlink()


def test_heart_beats(tmp_path, monkeypatch):
    monkeypatch.setattr(lock, "BEAT_SECONDS", 0.02)
    held = acquired(tmp_path)
    os.utime(held.path, (0, 0))
    deadline = time.monotonic() + 10
    while held.path.stat().st_mtime == 0 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert held.path.stat().st_mtime > 0
    held.release()


def test_loss_of_the_lock_is_noticed_and_the_thief_keeps_it(tmp_path):
    held = acquired(tmp_path)
    file = leave(tmp_path, pid=4242)
    with pytest.raises(errors.CheckpointError, match="4242"):
        held.check()
    held.release()
    assert file.exists()
    file.unlink()
    with pytest.raises(errors.CheckpointError, match="removed"):
        held.check()


def test_file_systems_without_locks(tmp_path, monkeypatch):
    def no_locks(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", no_locks)
    held = acquired(tmp_path)
    held.check()
    with pytest.raises(errors.ConfigError, match=str(os.getpid())):
        acquired(tmp_path)
    held.release()
    leave(tmp_path, pid=os.getpid(), started="1")
    acquired(tmp_path).release()
    assert os.listdir(tmp_path) == []


def test_making_one_takes_nothing(tmp_path):
    lock.Lock(tmp_path)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("stale", [False, True])
def test_of_many_at_once_one_gets_it(tmp_path, stale, monkeypatch):
    read = lock._read

    def late(path):  # time for others to come between the look and the deed
        owner = read(path)
        time.sleep(0.01)
        return owner

    monkeypatch.setattr(lock, "_read", late)
    for attempt in range(10):
        directory = tmp_path / str(attempt)
        directory.mkdir()
        if stale:
            leave(directory, pid=os.getpid(), started="1")

        def take(_, directory=directory):
            try:
                return acquired(directory)
            except errors.ConfigError:
                return None

        with concurrent.futures.ThreadPoolExecutor(8) as pool:
            held = [x for x in pool.map(take, range(8)) if x is not None]
        (one,) = held
        one.check()
        one.release()
        assert os.listdir(directory) == []
