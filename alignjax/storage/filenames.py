# SPDX-License-Identifier: Apache-2.0
"""Names and files of strangers: which names may be used, and what is read as a file.

A name that stands in somebody's file becomes one here only if it is plain. What is
read is a regular file of bounded size: a FIFO would wait forever, a device never end.
"""

from __future__ import annotations

import errno
import os
import pathlib
import stat
import unicodedata
from collections.abc import Iterable
from typing import IO, Any

MAX_READ = 256 * 2**20  # bytes that `read` takes; large tokenizers have some 40 MB

MAX_BYTES = 255  # of a name, on the common file systems
# Separators and what marks a drive, with characters that are drawn like a separator
# and that NFKC leaves as they are: fraction and division slash, set minus, big solidus,
# reverse solidus operator, big reverse solidus.
_SEPARATORS = frozenset("/\\:\u2044\u2215\u2216\u29f5\u29f8\u29f9")


def is_plain(name: Any) -> bool:
    """Whether `name` names a file in whichever folder it is joined to, and no other.

    A plain name is text of 1 to 255 bytes in UTF-8 without separators, drives, NUL and
    other control characters, also once compatibility characters are normalized (NFKC),
    as some file systems do; and it is neither "." nor "..".
    """
    if not isinstance(name, str):
        return False
    try:
        size = len(name.encode())
    except UnicodeEncodeError:  # a lone surrogate
        return False
    normal = unicodedata.normalize("NFKC", name)
    return (
        0 < size <= MAX_BYTES
        and normal not in (".", "..")
        and not any(
            c in _SEPARATORS or unicodedata.category(c) in ("Cc", "Cf") for c in normal
        )
    )


def not_plain(names: Iterable[Any]) -> list[str]:
    """Those of `names` that are not plain, as an error message shows them."""
    return [repr(name)[:80] for name in names if not is_plain(name)]


def expanded(path: str | os.PathLike) -> pathlib.Path:
    """The path with the home folder for `~`; that of nobody stays as it is."""
    try:
        return pathlib.Path(os.path.expanduser(path))
    except ValueError:  # a NUL
        return pathlib.Path(path)


def open_file(path: str | os.PathLike) -> IO[bytes]:
    """The file at `path`, open to be read.

    Raises:
      OSError: there is none, or it is no regular file; or the name has a NUL.
    """
    if "\0" in os.fsdecode(path):  # of which `os` raises a ValueError
        raise OSError(errno.EINVAL, "a name with a NUL", os.fsdecode(path))
    if not stat.S_ISREG(os.stat(path).st_mode):
        problem = "no regular file, but a folder, FIFO, device or socket"
        raise OSError(errno.EINVAL, problem, os.fspath(path))
    return open(path, "rb")


def read(path: str | os.PathLike) -> bytes:
    """The bytes of the file at `path`.

    Raises:
      OSError: as `open_file`, or it has more than MAX_READ bytes.
    """
    with open_file(path) as file:
        content = file.read(MAX_READ + 1)
    if len(content) > MAX_READ:
        problem = f"more than {MAX_READ >> 20} MiB, the most that is read at once"
        raise OSError(errno.EFBIG, problem, os.fspath(path))
    return content
