# SPDX-License-Identifier: Apache-2.0
"""One writer for each working directory: a lock file that survives kill -9.

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
import threading
import uuid

from alignjax import errors

NAME = "LOCK"
BEAT_SECONDS = 10.0
STALE_SECONDS = 60.0

log = logging.getLogger(__name__)


class Lock:
    """Holds `directory/LOCK` from construction to `release`.

    Raises:
      ConfigError: somebody else holds it; the message names who.
    """

    def __init__(self, directory: pathlib.Path):
        self.path = directory / NAME
        self._token = uuid.uuid4().hex
        self._stop = threading.Event()
        self._acquire()
        beat = threading.Thread(target=self._beat, name="lock-heartbeat", daemon=True)
        beat.start()

    def check(self) -> None:
        """Raises CheckpointError if the file is no longer ours."""
        owner = _read(self.path)
        if owner is None or owner.get("token") != self._token:
            raise errors.CheckpointError(
                f"{self.path} was {'removed' if owner is None else _describe(owner)} "
                "while this run was writing; stopping before both write"
            )

    def release(self) -> None:
        self._stop.set()
        owner = _read(self.path)
        if owner is not None and owner.get("token") == self._token:
            self.path.unlink(missing_ok=True)

    def _acquire(self) -> None:
        mine = self.path.with_name(f"{NAME}.{self._token}")
        mine.write_text(json.dumps(_owner(self._token)))
        try:
            for _ in range(10):
                try:
                    _link(mine, self.path)
                    return
                except FileExistsError:
                    self._remove_stale(now=mine.stat().st_mtime)
            raise errors.ConfigError(f"workdir: {self.path} changes hands too quickly")
        finally:
            mine.unlink(missing_ok=True)

    def _remove_stale(self, now: float) -> None:
        """Removes a dead owner's file; `now` is by the file system's own clock."""
        try:
            file = self.path.open("r+")
        except FileNotFoundError:
            return
        with file:
            age = now - os.fstat(file.fileno()).st_mtime
            owner = _parse(file.read())
            if _alive(owner, age):
                raise errors.ConfigError(
                    f"workdir: {self.path.parent} is being written by "
                    f"{_describe(owner)}, last seen {max(age, 0):.0f} s ago. Wait for "
                    "it, stop it, or use another workdir"
                )
            # Of those who found it dead one removes it; the next then sees that the
            # name stands for another file.
            with contextlib.suppress(OSError):  # some file systems cannot; see `check`
                fcntl.flock(file, fcntl.LOCK_EX)
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(file.fileno()), self.path.stat()):
                    self.path.unlink()
                    log.warning("took over %s: %s is gone", self.path, _describe(owner))

    def _beat(self) -> None:
        while not self._stop.wait(BEAT_SECONDS):
            try:
                os.utime(self.path)
            except OSError as error:
                # Nothing is lost by a missed beat: `check` decides before each save.
                log.warning("no heartbeat on %s: %s", self.path, error)


def _link(source: pathlib.Path, target: pathlib.Path) -> None:
    """Makes `target` appear at once and whole; FileExistsError if there is one."""
    try:
        os.link(source, target)
    except FileExistsError:
        raise
    except OSError:  # a file system without links; half an owner counts as foreign
        with target.open("x") as file:
            file.write(source.read_text())


def _alive(owner: dict, age: float) -> bool:
    mine = _owner("")
    if owner.get("machine") == mine["machine"]:
        return _started(owner["pid"]) == owner["started"] and _exists(owner["pid"])
    return age <= STALE_SECONDS


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
    """When a process began, in ticks since boot, for process ids are used again."""
    try:
        text = pathlib.Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    return text.rpartition(")")[2].split()[19]


def _exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _read(path: pathlib.Path) -> dict | None:
    """The owner written in a lock file; None where there is no file."""
    try:
        return _parse(path.read_text())
    except FileNotFoundError:
        return None


def _parse(text: str) -> dict:
    """An owner, or {} where the text is none."""
    try:
        owner = json.loads(text)
    except ValueError:
        return {}
    return owner if isinstance(owner, dict) else {}


def _describe(owner: dict) -> str:
    if not owner:
        return "an unknown process"
    return f"process {owner.get('pid')} on host {owner.get('host')}"
