# SPDX-License-Identifier: Apache-2.0
"""Files of a corpus: finding them, and reading them in blocks, lines or as text."""

from __future__ import annotations

import glob
import gzip
import os
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from alignjax import errors

# The longest line that is held in memory.
MOST_LINE_BYTES = 1 << 26
BLOCK_BYTES = 1 << 20


class Found(NamedTuple):
    """The files that were found, and what is to be told of those that are left out."""

    paths: list[Path]
    note: str


def find(path: str | Sequence[str], suffixes: tuple[str, ...]) -> Found:
    """The files that `path` means, sorted by name within each pattern, none twice.

    Args:
      path: a file, a directory (all below it that end in one of `suffixes`, in capitals
        or not; links are followed), a glob (`**` goes down), or a list of these.
      suffixes: such as `(".txt", ".md")`; only directories need them.

    Raises:
      DataError: a pattern matches no file, or a file or folder is empty or cannot be
        read.
    """
    patterns = [path] if isinstance(path, (str, os.PathLike)) else list(path)
    found: dict[Path, None] = {}
    left = 0
    for pattern in patterns:
        if not os.fspath(pattern):
            raise errors.DataError("the source's path is empty: name a file")
        pattern = os.path.expanduser(os.fspath(pattern))
        if os.path.isdir(pattern):
            wanted = f"{', '.join(suffixes)} below this directory"
            inside = list(_walk(pattern))
            matched = [p for p in inside if p.name.lower().endswith(suffixes)]
            left += len(inside) - len(matched)
        else:
            wanted = "of this name"
            names = [pattern] if os.path.exists(pattern) else _glob(pattern)
            matched = [Path(name) for name in names if not os.path.isdir(name)]
        if not matched:
            where = "" if os.path.isabs(pattern) else f" (in {os.getcwd()})"
            raise errors.DataError(
                f"{pattern}{where}: no file {wanted}; correct the source's path"
            )
        found.update(dict.fromkeys(sorted(matched)))
    if not found:
        raise errors.DataError("the source's path is an empty list: name a file")
    for file in found:
        try:
            empty = file.stat().st_size == 0
        except OSError as error:
            raise unreadable(file, error) from error
        if empty:
            raise errors.DataError(f"{file}: the file is empty; fill or remove it")
    ends = f"do not end in {', '.join(suffixes)}"
    return Found(list(found), f"{left:,} files left out, which {ends}" if left else "")


def size(paths: Sequence[Path]) -> int:
    """Bytes on disk, all together."""
    return sum(path.stat().st_size for path in paths)


def unreadable(path: str | os.PathLike, error: OSError) -> errors.DataError:
    """What to raise where a file or folder of a source cannot be read."""
    return errors.DataError(
        f"{os.fspath(path)}: cannot be read ({error.strerror or error}); make it "
        "readable, or remove it"
    )


def blocks(path: Path) -> Iterator[tuple[int, int, bytes]]:
    """A file in parts of about BLOCK_BYTES that end where a line does.

    Yields:
      `(number of its first line, from 1; its place in the file; bytes)`. A `.gz` is
      unpacked on the way, and places are of what is in it.

    Raises:
      DataError: a file that cannot be read, a gzip file that is cut off or damaged, or
        a line beyond MOST_LINE_BYTES.
    """
    number, place = 1, 0
    try:
        with (
            gzip.open(path)
            if path.suffix.lower() == ".gz"
            else open(path, "rb") as file
        ):
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
                yield number, place, block
                number += block.count(b"\n")
                place += len(block)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise errors.DataError(
            f"{path}: damaged or cut off after {place} unpacked bytes ({error}); "
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

    Raises:
      DataError: as `blocks` does; and what is not UTF-8 text, with its line.
    """
    for number, place, block in blocks(path):
        if fault_of_bytes(block):
            for line in block.split(b"\n"):
                if fault := fault_of_bytes(line):
                    where = f"{path}:{number} (line at byte {place})"
                    raise errors.DataError(f"{where}: {fault}")
                number += 1
                place += len(line) + 1
        yield number, block.decode("utf-8")


def fault_of_bytes(line: bytes) -> str | None:
    """Why `line` is not UTF-8 text, with the offset inside of it; None if it is."""
    if (at := line.find(b"\0")) >= 0:
        return f"a NUL byte at byte {at} of the line: a binary file?"
    try:
        line.decode("utf-8")
    except UnicodeDecodeError as error:
        found = line[error.start : error.start + 1].hex()
        return (
            f"byte 0x{found} at byte {error.start} of the line is not UTF-8; "
            "convert the file, for instance with iconv -t utf-8"
        )
    return None


def _walk(directory: str) -> Iterator[Path]:
    """All files below; links are followed, and no folder is gone through twice."""
    seen = set()

    def refuse(error: OSError):
        raise unreadable(error.filename, error) from error

    for folder, inner, names in os.walk(directory, onerror=refuse, followlinks=True):
        inner.sort()  # so that it does not depend on the disk by which link one is met
        if (real := os.path.realpath(folder)) in seen:
            inner.clear()
            continue
        seen.add(real)
        yield from (Path(folder, name) for name in names)


def _glob(pattern: str) -> list[str]:
    return glob.glob(pattern, recursive=True)
