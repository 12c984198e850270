# SPDX-License-Identifier: Apache-2.0
"""Files and folders that appear under their names whole, or not at all.

`write` and `replace` are for a file, `new_file` for one that is new and may be large,
`folder` for a folder that a user named, `obtain` for one of a cache, which is named by
a digest of what is in it.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import pathlib
import shutil
import socket
import uuid
from collections.abc import Callable, Collection, Iterator
from typing import IO, Any

from alignjax import errors
from alignjax.storage import json_files

MANIFEST = "manifest.json"
SPARE_BYTES = 64 * 2**20  # for JSON, indices and what else is written beside tensors


@contextlib.contextmanager
def replace(path: str | os.PathLike) -> Iterator[IO[bytes]]:
    """A file to write bytes to, which replaces `path` durably once the body ends.

    `path` stays as it was where the body raises. Several may write at once; the last
    one that ends wins.

    Raises:
      ConfigError: `path` is a device, FIFO or socket, whose name is not to be taken.
    """
    path = pathlib.Path(path)
    if path.exists() and not path.is_file() and not path.is_dir():
        raise errors.ConfigError(f"{path}: is a FIFO, device or socket; name a file")
    temporary = path.with_name(f"{path.name}.{uuid.uuid4().hex[:8]}.tmp")
    try:
        with open(temporary, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync(path.parent)


@contextlib.contextmanager
def new_file(path: pathlib.Path) -> Iterator[pathlib.Path]:
    """Where to write a new file of any size, which is named `path` once the body ends.

    What a process that was killed wrote of it is written over by the next one, where
    `replace` would leave it.

    Raises:
      ConfigError: another process makes the same file.
      OSError: it cannot be made.
    """
    partial = path.with_name(f"{path.name}.partial")
    flags = os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK
    with open(os.open(partial, flags, 0o666), "wb") as file:
        _lock(file.fileno(), partial, "file")
        try:
            file.truncate()
            yield partial
            os.fsync(file.fileno())
            os.replace(partial, path)
        except BaseException:
            partial.unlink(missing_ok=True)
            raise
    sync(path.parent)


def _lock(descriptor: int, partial: pathlib.Path, kind: str) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        raise errors.ConfigError(
            f"{partial}: another process is writing it; wait for it, or name another "
            f"{kind}"
        ) from error


def write(path: str | os.PathLike, text: str) -> None:
    """Writes a file of UTF-8, durably; its folder is made if it is missing."""
    pathlib.Path(path).parent.mkdir(parents=True, exist_ok=True)
    with replace(path) as file:
        file.write(text.encode())


def write_json(path: str | os.PathLike, value: Any) -> None:
    """Writes a JSON file that people may read, with its keys sorted, durably."""
    write(path, json.dumps(value, indent=2, sort_keys=True) + "\n")


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
            reason = "is not writable" if beside.is_dir() else "is no folder"
            raise errors.ConfigError(f"{target}: {beside} {reason}; name another place")
        free = shutil.disk_usage(beside).free
    if free < need + SPARE_BYTES:
        raise errors.ConfigError(
            f"{target}: needs {need / 2**20:,.0f} MiB, and {free / 2**20:,.0f} are "
            "free; make room, or name a folder on another disk"
        )


def check_links(
    folder: pathlib.Path, but: Collection[str] = (), field: str = "workdir"
) -> None:
    """Raises ConfigError for what is no plain file or folder in or below a folder.

    What is written there would go to a place that whoever made the folder chose.

    Args:
      but: names of folders that may be links, or have such below them.
      field: that names the folder, for errors.
    """
    for place, names, files in os.walk(folder):
        names[:] = [name for name in names if name not in but]
        for path in (pathlib.Path(place, name) for name in (*names, *files)):
            if path.is_symlink() or not (path.is_file() or path.is_dir()):
                raise errors.ConfigError(
                    f"{field}: {path} is a link or no file, so that what is written "
                    f"there would go elsewhere; remove it, or name another {field}"
                )


@contextlib.contextmanager
def _can_be_made(target: pathlib.Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise errors.ConfigError(
            f"{target}: cannot be made ({error.strerror}); name another place"
        ) from error


@contextlib.contextmanager
def folder(target: str | os.PathLike, need: int) -> Iterator[pathlib.Path]:
    """A folder to write to, which becomes `target`; removed where the body raises.

    A process that was killed leaves `<name>.partial`, which the next one empties.

    Args:
      need: bytes that will be written to it.

    Raises:
      ConfigError: `target` is not empty, it cannot be made, the disk is too full, or
        another process makes the same folder.
    """
    target = pathlib.Path(target).absolute()
    check(target, need)
    partial = target.with_name(f"{target.name}.partial")
    with _can_be_made(target):
        partial.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(partial, os.O_RDONLY)
    try:
        _lock(descriptor, partial, "folder")
        try:
            for path in partial.iterdir():
                shutil.rmtree(path) if path.is_dir() else path.unlink()
            yield partial
            sync_tree(partial)
            os.rename(partial, target)
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise
    finally:
        os.close(descriptor)
    sync(target.parent)


def obtain(
    directory: pathlib.Path,
    fill: Callable[[pathlib.Path], dict[str, Any]],
    field: str = "cache_dir",
) -> dict[str, Any]:
    """The manifest of `directory`, which `fill` writes if it is not there yet.

    `fill` gets an empty directory beside it, writes its files and returns the manifest.
    All is flushed to disk before the directory takes its name. Of two processes of one
    machine that want the same directory, the second waits for the first; on a file
    system without locks both build it, and the first to finish gives it its name.

    Args:
      field: of the config, that says where the directory is.

    Raises:
      ConfigError: the folder that it is in cannot be written.
      DataError: the manifest is damaged.
    """
    if (manifest := read(directory)) is not None:
        return manifest
    parent = directory.parent
    try:
        parent.mkdir(parents=True, exist_ok=True)
        if not os.access(parent, os.W_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    except OSError as error:
        raise errors.ConfigError(
            f"{field}: {parent}: {error.strerror}; name a folder that can be written"
        ) from error
    with open(directory.with_name(f"{directory.name}.lock"), "w") as lock:
        with contextlib.suppress(OSError):  # the kernel frees that of a dead process
            fcntl.flock(lock, fcntl.LOCK_EX)
        if (manifest := read(directory)) is not None:
            return manifest
        host = socket.gethostname()
        for killed in parent.glob(f"{directory.name}.partial-{host}-*"):
            shutil.rmtree(killed)
        name = f"{directory.name}.partial-{host}-{uuid.uuid4().hex[:8]}"
        partial = parent / name
        partial.mkdir()
        try:
            manifest = fill(partial)
            (partial / MANIFEST).write_text(json.dumps(manifest, indent=1) + "\n")
            sync_tree(partial)
            try:
                os.rename(partial, directory)
            except OSError:
                if read(directory) is None:  # not merely that another was faster
                    raise
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    return read(directory)


def read(directory: pathlib.Path) -> dict[str, Any] | None:
    """The manifest of a whole directory, or None if there is none.

    Raises:
      DataError: it is damaged, as a copy that was cut off leaves it.
    """
    path = directory / MANIFEST
    if not path.is_file():
        return None
    manifest = {}
    with contextlib.suppress(errors.DataError):
        manifest = json_files.read(path, dict)
    if not manifest:
        raise errors.DataError(
            f"{path}: damaged; remove {directory} and it will be built again"
        )
    return manifest


def sync_tree(folder: str | os.PathLike) -> None:
    """Makes all files below a folder survive a loss of power."""
    for place, _, names in os.walk(folder):
        for name in names:
            sync(os.path.join(place, name))
        sync(place)


def sync(path: str | os.PathLike) -> None:
    """Makes a file, or the names in a folder, survive a loss of power."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
