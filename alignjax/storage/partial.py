# SPDX-License-Identifier: Apache-2.0
"""A folder that appears under its name once all of it is there, or not at all."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pathlib
import shutil
from collections.abc import Iterator

from alignjax import errors

SUFFIX = ".partial"
SPARE_BYTES = 64 * 2**20


def check(target: pathlib.Path, need: int) -> None:
    """Raises ConfigError unless a folder of `need` bytes can be made at `target`."""
    with _can_be_made(target):
        if target.exists() and (not target.is_dir() or any(target.iterdir())):
            raise errors.ConfigError(
                f"{target}: is there and not empty, and nothing is written over; name "
                "another folder, or remove it"
            )
        beside = next(path for path in target.absolute().parents if path.exists())
        if not beside.is_dir() or not os.access(beside, os.W_OK | os.X_OK):
            what = "is not writable" if beside.is_dir() else "is no folder"
            raise errors.ConfigError(f"{target}: {beside} {what}; name another place")
        free = shutil.disk_usage(beside).free
    if free < need + SPARE_BYTES:
        raise errors.ConfigError(
            f"{target}: needs {need / 2**20:,.0f} MiB, and {free / 2**20:,.0f} are "
            "free; make room, or name a folder on another disk"
        )


@contextlib.contextmanager
def _can_be_made(target: pathlib.Path) -> Iterator[None]:
    """What the system says against it, as ConfigError."""
    try:
        yield
    except OSError as error:
        raise errors.ConfigError(
            f"{target}: cannot be made ({error.strerror}); name another place"
        ) from error


@contextlib.contextmanager
def folder(target: pathlib.Path, need: int) -> Iterator[pathlib.Path]:
    """A folder to write to, which becomes `target`; removed where the body raises.

    One that was killed leaves `<name>.partial` behind, which the next one removes.

    Args:
      need: bytes that will be written to it.

    Raises:
      ConfigError: `target` is not empty, it cannot be made, the disk is too full, or
        another process makes the same folder.
    """
    target = pathlib.Path(target).absolute()
    check(target, need)
    made = target.with_name(target.name + SUFFIX)
    with _can_be_made(target):
        made.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(made, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise errors.ConfigError(
                f"{made}: another process is writing it; wait for it, or name another "
                "folder"
            ) from error
        try:
            for left in made.iterdir():
                shutil.rmtree(left) if left.is_dir() else left.unlink()
            yield made
            _sync(made)
            os.rename(made, target)
        except BaseException:
            shutil.rmtree(made, ignore_errors=True)
            raise
    finally:
        os.close(descriptor)
    _sync_one(target.parent)


def _sync(path: pathlib.Path) -> None:
    for place, _, names in os.walk(path):
        for name in names:
            _sync_one(os.path.join(place, name))
        _sync_one(place)


def _sync_one(path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
