# SPDX-License-Identifier: Apache-2.0
"""Directories named by a digest of what is in them: whole or absent, never half."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import shutil
import socket
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from alignjax import errors

MANIFEST = "manifest.json"


def digest(value: Any) -> str:
    """The sha256 of a JSON-able value, the same for equal ones."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def obtain(
    directory: Path,
    fill: Callable[[Path], dict[str, Any]],
    field: str = "cache_dir",
) -> dict[str, Any]:
    """The manifest of `directory`, which `fill` writes if it is not there yet.

    `fill` gets an empty directory beside it, writes its files and returns the manifest.
    All is flushed to disk before the directory takes its name, so a process killed on
    the way leaves nothing that passes for whole. Two processes of one machine do not
    build the same thing twice: the second waits for the first.

    Args:
      field: of the config, that says where the directory is.

    Raises:
      ConfigError: the folder that it is in cannot be written.
      DataError: the manifest is damaged.
    """
    if (manifest := read(directory)) is not None:
        return manifest
    _check_writable(directory.parent, field)
    with _lock(directory):
        if (manifest := read(directory)) is not None:
            return manifest
        _remove_leftovers(directory)
        owner = f"{socket.gethostname()}-{uuid.uuid4().hex[:8]}"
        partial = directory.with_name(f"{directory.name}.partial-{owner}")
        partial.mkdir()
        try:
            manifest = fill(partial)
            (partial / MANIFEST).write_text(json.dumps(manifest, indent=1) + "\n")
            _flush(partial)
            _rename(partial, directory)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    return read(directory)


def read(directory: Path) -> dict[str, Any] | None:
    """The manifest of a whole directory, or None if there is none.

    Raises:
      DataError: it is damaged, as a copy that was cut off leaves it.
    """
    path = directory / MANIFEST
    try:
        found = json.loads(path.read_text())
    except (FileNotFoundError, NotADirectoryError):
        return None
    except ValueError:
        found = None
    if not isinstance(found, dict) or not found:
        raise errors.DataError(
            f"{path}: damaged; remove {directory} and it will be built again"
        )
    return found


def _check_writable(folder: Path, field: str) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not os.access(folder, os.W_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    except OSError as error:
        raise errors.ConfigError(
            f"{field}: {folder}: {error.strerror}; name a folder that can be written"
        ) from error


@contextlib.contextmanager
def _lock(directory: Path) -> Iterator[None]:
    """Held by one process of this machine at a time; the kernel frees a dead one's.

    On file systems without locks two may build at once: each then fills a directory of
    its own, and the first to finish gives it its name.
    """
    try:
        import fcntl
    except ImportError:  # no such locks on this platform
        yield
        return
    with open(directory.with_name(f"{directory.name}.lock"), "w") as file:
        with contextlib.suppress(OSError):
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _remove_leftovers(directory: Path) -> None:
    """Removes what killed builds of this machine left; call it with the lock held."""
    pattern = f"{directory.name}.partial-{socket.gethostname()}-*"
    for partial in directory.parent.glob(pattern):
        shutil.rmtree(partial)


def _flush(directory: Path) -> None:
    for path in (*directory.iterdir(), directory):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _rename(partial: Path, directory: Path) -> None:
    try:
        os.rename(partial, directory)
    except OSError:
        if read(directory) is None:  # not merely that another process was faster
            raise
