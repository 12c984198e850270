# SPDX-License-Identifier: Apache-2.0
"""One writer for each workdir: a lock file that outlives kill -9, and is then replaced.

The file names its owner. On the same machine the owner's process is looked up, which is
decisive; from another machine only its heartbeat can be seen, the time at which the
file was last touched.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import logging
import os
import pathlib
import socket
import tempfile
import threading
import uuid
from collections.abc import Iterator
from typing import IO

from alignjax import errors
from alignjax.storage import json_files

NAME = "LOCK"
BEAT_SECONDS = 10.0
STALE_SECONDS = 60.0

log = logging.getLogger(__name__)


class Lock:
    """The lock of `directory`, held from `acquire` to `release`."""

    def __init__(self, directory: pathlib.Path):
        self.path = directory / NAME
        self._token = uuid.uuid4().hex
        self._stop = threading.Event()

    def acquire(self) -> None:
        """Writes the file; ConfigError, with its owner, if another process holds it."""
        with _one_at_a_time(self.path.parent):
            self._remove_stale()
            # Without locks of the file system two may come here: one of them creates.
            try:
                with self.path.open("x") as file:
                    self._write(file)
            except FileExistsError as error:
                raise errors.ConfigError(
                    f"workdir: {self.path.parent} was taken by another process just now"
                ) from error
        threading.Thread(target=self._beat, name="lock-heartbeat", daemon=True).start()

    def _write(self, file: IO[str]) -> None:
        try:
            json.dump(_owner(self._token), file)
            file.flush()
        except OSError:  # of a full disk; without an owner it would hold up the next
            self.path.unlink()
            raise

    def check(self) -> None:
        """Raises CheckpointError if the file is no longer ours."""
        owner = _read(self.path)
        if owner is None or owner.get("token") != self._token:
            raise errors.CheckpointError(
                f"{self.path} was {'removed' if owner is None else _describe(owner)} "
                "while this run was writing; stopping before both write"
            )

    def release(self) -> None:
        """Removes the file if it is still ours."""
        self._stop.set()
        with _one_at_a_time(self.path.parent):
            if (_read(self.path) or {}).get("token") == self._token:
                self.path.unlink(missing_ok=True)

    def _remove_stale(self) -> None:
        owner = _read(self.path)
        if owner is None:
            return
        # By the clock of the file system, which may be another machine's.
        with tempfile.TemporaryFile(dir=self.path.parent) as new:
            now = os.fstat(new.fileno()).st_mtime
        try:
            age = now - self.path.stat().st_mtime
        except FileNotFoundError:  # released since
            return
        alive = abs(age) <= STALE_SECONDS
        pid = owner.get("pid")
        if owner.get("machine") == _machine() and type(pid) is int and 0 < pid < 2**31:
            alive = _started(pid) == owner.get("started")
        if alive:
            raise errors.ConfigError(
                f"workdir: {self.path.parent} is being written by {_describe(owner)}, "
                f"last seen {max(age, 0):.0f} s ago. Wait for it, stop it, or use "
                f"another workdir; where it is gone, wait {STALE_SECONDS:.0f} s"
            )
        self.path.unlink(missing_ok=True)
        log.warning("took over %s: %s is gone", self.path, _describe(owner))

    def _beat(self) -> None:
        while not self._stop.wait(BEAT_SECONDS):
            try:
                os.utime(self.path)
            except OSError as error:
                # Nothing is lost by a missed beat: `check` decides before each save.
                log.warning("no heartbeat on %s: %s", self.path, error)


@contextlib.contextmanager
def _one_at_a_time(directory: pathlib.Path) -> Iterator[None]:
    """For one process to look at a lock file and take its place."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):  # some file systems cannot; see `check`
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _owner(token: str) -> dict:
    return {
        "token": token,
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "started": _started(os.getpid()),
        "machine": _machine(),
    }


def _machine() -> str:
    """Names this boot and this space of process ids, for host names are shared."""
    try:
        boot = pathlib.Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:  # not Linux
        return socket.gethostname()


def _started(pid: int) -> str | None:
    """When a process began, in ticks since boot, for process ids are used again.

    "" where that cannot be known, as on macOS; None where there is no such process.
    """
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return None
    except PermissionError:
        pass
    try:
        text = pathlib.Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return ""
    return text.rpartition(")")[2].split()[19]


def _read(path: pathlib.Path) -> dict | None:
    """The owner in a lock file; {} where it is damaged, None where there is no file."""
    if not os.path.lexists(path):
        return None
    if not path.is_file():
        raise errors.ConfigError(f"workdir: {path} is no file; remove it")
    try:
        return json_files.read(path, dict)
    except errors.DataError:
        return {}


def _describe(owner: dict) -> str:
    process = f"process {owner.get('pid')} on host {owner.get('host')}"
    return process if "pid" in owner else "an unknown process"
