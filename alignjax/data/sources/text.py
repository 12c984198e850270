# SPDX-License-Identifier: Apache-2.0
"""Plain UTF-8 text: files, directories, globs; `.gz` too. Text is kept to the byte,
but for a byte order mark.

A document beyond a mebibyte is yielded in pieces, cut at ends of lines.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from alignjax import errors
from alignjax.data import records
from alignjax.data.sources import files

SUFFIXES = (".txt", ".md", ".text", ".txt.gz")


def load(path: str | Sequence[str], document: str = "file") -> records.Source:
    """A source of Text.

    Args:
      path: a file, a directory, a glob, or a list of these.
      document: the unit: a whole "file"; a "line", without its end; a "paragraph",
        lines up to an empty one. Empty lines between them belong to none.
    """
    splitters = {"file": _whole, "line": _by_line, "paragraph": _by_paragraph}
    if document not in splitters:
        names = ", ".join(splitters)
        raise errors.ConfigError(f"document: {document!r} is not one of {names}")
    paths, note = files.find(path, SUFFIXES)

    def documents() -> Iterator[tuple[str, records.Text]]:
        for file in paths:
            empty = True
            for number, text in splitters[document](file):
                empty = False
                yield f"{file}:{number}", text
            if empty:
                raise errors.DataError(f"{file}: nothing but blank lines; remove it")

    identity = {"files": files.digests(paths), "document": document}
    if any(map(files.begins_with_mark, paths)):  # which was once part of the text
        identity["byte_order_marks"] = "left out"
    return records.Source("text", identity, files.size(paths), documents, note)


def _whole(path: Path) -> Iterator[tuple[int, records.Text]]:
    blocks = files.texts(path)
    first = True
    number, text = next(blocks, (1, ""))  # a .gz may have nothing in it
    for following in blocks:
        yield number, records.Text(text, first, final=False)
        first = False
        number, text = following
    if not first or text.strip():
        yield number, records.Text(text, first)


def _by_line(path: Path) -> Iterator[tuple[int, records.Text]]:
    for number, line in _lines(path):
        if line.strip():
            yield number, records.Text(line.removesuffix("\r"))


def _by_paragraph(path: Path) -> Iterator[tuple[int, records.Text]]:
    paragraph = lambda x, first: records.Text("\n".join(x).removesuffix("\r"), first)
    lines, start, size, first = [], 1, 0, True
    for number, line in _lines(path):
        if size > files.BLOCK_BYTES and line.strip():
            piece = "\n".join([*lines, ""])
            yield start, records.Text(piece, first, final=False)
            lines, size, first = [], 0, False
        if line.strip():
            start = start if lines else number
            lines.append(line)
            size += len(line)
            continue
        if lines:
            yield start, paragraph(lines, first)
        lines, size, first = [], 0, True
    if lines:
        yield start, paragraph(lines, first)


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    for number, text in files.texts(path):
        yield from enumerate(text.removesuffix("\n").split("\n"), start=number)
