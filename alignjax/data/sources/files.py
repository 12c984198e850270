# SPDX-License-Identifier: Apache-2.0
"""Files of a source: their names, digests, and contents as blocks, lines or text."""

from __future__ import annotations

import contextlib
import functools
import glob
import gzip
import hashlib
import os
import time
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from alignjax import errors
from alignjax.storage import atomic, filenames, json_files

# The longest line that is read into memory.
MOST_LINE_BYTES = 1 << 26
BLOCK_BYTES = 1 << 20
MARK = b"\xef\xbb\xbf"  # the byte order mark of UTF-8, which begins files, not texts
LARGE = 1 << 28  # bytes; the digests of smaller files are computed at every start
SETTLED = 10.0  # seconds since the last change, before a digest is remembered


class Files(NamedTuple):
    """Files of a source, and a line for the report on files that were left out."""

    paths: list[Path]
    note: str


def find(path: str | Sequence[str], suffixes: tuple[str, ...]) -> Files:
    """The files of `path`, sorted by name within each pattern, none twice.

    Args:
      path: a file, a directory (all below it that end in one of `suffixes`, in capitals
        or not; links are followed; what is hidden is left out, as copies of editors
        and systems are), a glob (`**` goes down), or a list of these.
      suffixes: such as `(".txt", ".md")`; only directories need them.

    Raises:
      DataError: a pattern matches no file, or a file or folder is empty or cannot be
        read.
    """
    patterns = [path] if isinstance(path, (str, os.PathLike)) else list(path)
    if not patterns or not all(map(os.fspath, patterns)):
        raise errors.DataError("the source's path is empty: name a file")
    paths: dict[Path, None] = {}
    left_out = hidden = 0
    for pattern in patterns:
        pattern = os.path.expanduser(os.fspath(pattern))
        if os.path.isdir(pattern):
            missing = f"no file {', '.join(suffixes)} below this directory"
            below, hidden_below = _below(pattern)
            matches = [p for p in below if p.name.lower().endswith(suffixes)]
            left_out += len(below) - len(matches)
            hidden += hidden_below
        else:
            missing = "no file of this name"
            exact = os.path.exists(pattern)
            names = [pattern] if exact else glob.glob(pattern, recursive=True)
            matches = [Path(name) for name in names if not os.path.isdir(name)]
        if not matches:
            where = "" if os.path.isabs(pattern) else f" (in {os.getcwd()})"
            raise errors.DataError(
                f"{pattern}{where}: {missing}; correct the source's path"
            )
        paths.update(dict.fromkeys(sorted(matches)))
    for file in paths:
        try:
            with filenames.open_file(file):
                empty = file.stat().st_size == 0
        except OSError as error:
            raise unreadable(file, error) from error
        if empty:
            raise errors.DataError(f"{file}: the file is empty; fill or remove it")
    ends = f"do not end in {', '.join(suffixes)}"
    notes = [f"{left_out:,} files left out, which {ends}"] * bool(left_out)
    notes += [f"{hidden:,} hidden files and folders left out"] * bool(hidden)
    return Files(list(paths), "; ".join(notes))


def size(paths: Sequence[Path]) -> int:
    """Bytes on disk, all together."""
    return sum(path.stat().st_size for path in paths)


def digests(paths: Sequence[Path]) -> list[str]:
    """The sha256 of the bytes of each file; DataError if one cannot be read.

    That of a large file is kept in the user's cache, with its size and the time of its
    last change, and is taken from there as long as these are the same.
    """
    values = []
    for path in paths:
        try:
            stat = path.stat()
            values.append(_digest(path.resolve(), stat.st_size, stat.st_mtime_ns))
        except OSError as error:
            raise unreadable(path, error) from error
    return values


@functools.lru_cache(maxsize=65536)
def _digest(path: Path, size: int, mtime_ns: int) -> str:
    if size < LARGE:
        return _sha256(path)
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    name = hashlib.sha256(os.fsencode(path)).hexdigest()[:32]
    note = cache / "alignjax" / "digests" / f"{name}.json"
    state = {"path": str(path), "size": size, "mtime_ns": mtime_ns}
    with contextlib.suppress(errors.DataError):  # none yet, or no longer whole
        stored = json_files.read(note, dict)
        if {**stored, "sha256": None} == {**state, "sha256": None}:
            return stored["sha256"]
    digest = _sha256(path)
    if time.time() - mtime_ns / 1e9 > SETTLED:
        with contextlib.suppress(OSError):  # then it is read again the next time
            atomic.write_json(note, {**state, "sha256": digest})
    return digest


def _sha256(path: Path) -> str:
    with filenames.open_file(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def unreadable(path: str | os.PathLike, error: OSError) -> errors.DataError:
    """The error to raise where a file or folder of a source cannot be read."""
    reason = error.strerror or error
    remedy = "make it readable, or remove it"
    return errors.DataError(f"{path}: cannot be read ({reason}); {remedy}")


def _open(path: Path):
    file = filenames.open_file(path)
    if path.suffix.lower() != ".gz":
        return file
    file.close()
    return gzip.open(path)


def begins_with_mark(path: Path) -> bool:
    """Whether a file, or what a `.gz` has in it, begins with a byte order mark."""
    try:
        with _open(path) as file:
            return file.read(len(MARK)) == MARK
    except (EOFError, OSError, zlib.error):  # which `blocks` refuses
        return False


def blocks(path: Path) -> Iterator[tuple[int, int, bytes]]:
    """A file in parts of about BLOCK_BYTES that end where a line does.

    Yields:
      `(number of its first line, from 1; its offset in the file; bytes)`. A `.gz` is
      unpacked on the way, and offsets are of its contents. A byte order mark is left
      out. DataError if the file cannot be read, is cut off or damaged, or has a line
      beyond MOST_LINE_BYTES.
    """
    number, offset = 1, 0
    try:
        with _open(path) as file:
            while block := file.read(BLOCK_BYTES):
                if not block.endswith(b"\n"):
                    rest = file.readline(MOST_LINE_BYTES)
                    if len(rest) == MOST_LINE_BYTES:
                        line = number + block.count(b"\n")
                        raise errors.DataError(
                            f"{path}:{line}: a line of more than "
                            f"{MOST_LINE_BYTES >> 20} MiB; break it up"
                        )
                    block += rest
                if not offset and block.startswith(MARK):
                    offset, block = len(MARK), block.removeprefix(MARK)
                yield number, offset, block
                number += block.count(b"\n")
                offset += len(block)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise errors.DataError(
            f"{path}: damaged or cut off after {offset} unpacked bytes ({error}); "
            "copy the file again"
        ) from error
    except OSError as error:
        raise unreadable(path, error) from error


def lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """`(number, bytes without the newline)` of every line; raises as `blocks` does."""
    for number, _, block in blocks(path):
        yield from enumerate(block.removesuffix(b"\n").split(b"\n"), start=number)


def texts(path: Path) -> Iterator[tuple[int, str]]:
    """`(number of its first line, text)` of every block, kept to the byte.

    Raises as `blocks` does, and DataError for a line that is not UTF-8 text.
    """
    for number, offset, block in blocks(path):
        if fault_of_bytes(block):
            for line in block.split(b"\n"):
                if fault := fault_of_bytes(line):
                    where = f"{path}:{number} (line at byte {offset})"
                    raise errors.DataError(f"{where}: {fault}")
                number += 1
                offset += len(line) + 1
        yield number, block.decode("utf-8")


def fault_of_bytes(line: bytes) -> str | None:
    """Why `line` is not UTF-8 text, with the offset inside of it; None if it is."""
    if (at := line.find(b"\0")) >= 0:
        return f"a NUL byte at byte {at} of the line: a binary file?"
    try:
        line.decode("utf-8")
    except UnicodeDecodeError as error:
        return (
            f"byte 0x{line[error.start]:02x} at byte {error.start} of the line is not "
            "UTF-8; convert the file, for instance with iconv -t utf-8"
        )
    return None


def _below(directory: str) -> tuple[list[Path], int]:
    """All files below that are not hidden, and how many files and folders are.

    Links are followed, but no folder is listed twice.
    """
    files, visited, hidden = [], set(), 0

    def refuse(error: OSError):
        raise unreadable(error.filename, error) from error

    for folder, inner, names in os.walk(directory, onerror=refuse, followlinks=True):
        if (real := os.path.realpath(folder)) in visited:
            inner.clear()
            continue
        visited.add(real)
        hidden += sum(name.startswith(".") for name in (*inner, *names))
        # Sorted so that the link that a folder is met by does not vary.
        inner[:] = sorted(name for name in inner if not name.startswith("."))
        files += [Path(folder, name) for name in names if not name.startswith(".")]
    return files, hidden
