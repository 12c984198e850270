# SPDX-License-Identifier: Apache-2.0
"""Digests of files; those of large ones are remembered from one run to the next."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
import time
from collections.abc import Sequence
from pathlib import Path

from alignjax import errors
from alignjax.data.sources import files
from alignjax.storage import atomic, json_files

LARGE = 1 << 28  # bytes; smaller files are read at every start
SETTLED = 10.0  # seconds since the last change, before a digest is remembered


def of_files(paths: Sequence[Path]) -> list[str]:
    """The sha256 of the bytes of each file.

    That of a large file is kept in the user's cache, with its size and the time of its
    last change, and is taken from there as long as these are the same.

    Raises:
      DataError: a file that cannot be read.
    """
    return [_of_state(path) for path in paths]


def _of_state(path: Path) -> str:
    try:
        stat = path.stat()
        return _of_file(path.resolve(), stat.st_size, stat.st_mtime_ns)
    except OSError as error:
        raise files.unreadable(path, error) from error


@functools.lru_cache(maxsize=65536)
def _of_file(path: Path, size: int, mtime_ns: int) -> str:
    if size < LARGE:
        return _read(path)
    name = hashlib.sha256(os.fsencode(path)).hexdigest()[:32]
    note = _folder() / f"{name}.json"
    state = {"path": str(path), "size": size, "mtime_ns": mtime_ns}
    try:
        known = json_files.read(note, dict)
    except errors.DataError:  # none yet, or no longer whole
        known = {}
    if {**known, "sha256": None} == {**state, "sha256": None}:
        return known["sha256"]
    digest = _read(path)
    if time.time() - mtime_ns / 1e9 > SETTLED:
        with contextlib.suppress(OSError):  # then it is read again the next time
            atomic.write_json(note, {**state, "sha256": digest})
    return digest


def _read(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _folder() -> Path:
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(cache) / "alignjax" / "digests"
