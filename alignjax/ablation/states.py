# SPDX-License-Identifier: Apache-2.0
"""`sweep.jsonl`: what became of each run of a sweep, a line for every change.

The last line of a run is its state; times add up over its lines. Several processes of
one file system may append to it.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import pathlib
import socket
import time
from typing import Any

from alignjax import errors
from alignjax.storage import filenames, json_files

FILE = "sweep.jsonl"
STATES = ("queued", "running", "done", "interrupted", "failed")
_SUMS = ("seconds", "cpu_seconds")
_NUMBERS = (*_SUMS, "code", "host_bytes", "device_bytes")
_TEXTS = ("error", "arm")


def append(folder: pathlib.Path, run: str, state: str, **fields: Any) -> None:
    """Adds a line on a run."""
    line = {"run": run, "state": state, "time": round(time.time(), 3)}
    line |= {"host": socket.gethostname(), "pid": os.getpid(), **fields}
    with open(folder / FILE, "a", encoding="utf-8") as file:
        with contextlib.suppress(OSError):  # some file systems cannot
            fcntl.flock(file, fcntl.LOCK_EX)
        file.write(f"{json.dumps(line)}\n")


def read(folder: pathlib.Path) -> dict[str, dict[str, Any]]:
    """The last line of each run, with the sums of its times, and when it `began`.

    Raises:
      DataError: by file and line, one that is no such record.
    """
    path, runs = folder / FILE, {}
    if not path.is_file():
        return runs
    for number, text in enumerate(filenames.read(path).splitlines(), 1):
        where = f"{path}:{number}"
        line = json_files.parse(text, where, dict, allow_nan=True)
        if not _is_of_run(line):
            raise errors.DataError(f"{where}: no line on a run; remove it")
        before = runs.get(line["run"], {})
        sums = {k: before.get(k, 0.0) + line.get(k, 0.0) for k in _SUMS}
        began = before.get("began")
        if began is None and line["state"] == "running":
            began = line["time"]
        runs[line["run"]] = {**before, **line, **sums, "began": began}
    return runs


def _is_of_run(line: dict[str, Any]) -> bool:
    """Whether a line has what is read of one, each of its type."""
    number = lambda x: type(x) in (int, float) and abs(x) < float("inf")
    return (
        isinstance(line.get("run"), str)
        and line.get("state") in STATES
        and number(line.get("time"))
        and all(number(line.get(name, 0)) for name in _NUMBERS)
        and all(isinstance(line.get(name, ""), str | None) for name in _TEXTS)
    )
