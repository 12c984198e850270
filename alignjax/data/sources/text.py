# SPDX-License-Identifier: Apache-2.0
"""Plain UTF-8 text: files, directories, globs; `.gz` too. Text is kept to the byte."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path

from alignjax import config
from alignjax.data import files, records

# A document larger than this is passed on in pieces, cut at ends of lines.
PIECE_BYTES = 1 << 20
SUFFIXES = (".txt", ".md", ".text", ".txt.gz")


def load(path: str | Sequence[str], document: str = "file") -> records.Source:
    """A source of Text.

    Args:
      path: a file, a directory, a glob, or a list of these.
      document: what makes one document: a whole "file"; a "line", without its end;
        a "paragraph", lines up to an empty one. Empty lines between them are no text.

    Raises:
      ConfigError: `document` is none of these.
      DataError: no file matches, or a file is empty.
    """
    splitters = {"file": _whole, "line": _by_line, "paragraph": _by_paragraph}
    if document not in splitters:
        known = ", ".join(splitters)
        raise config.ConfigError(f"document: {document!r} is not one of {known}")
    paths = files.find(path, SUFFIXES)

    def documents() -> Iterator[tuple[str, records.Text]]:
        for file in paths:
            found = splitters[document](_lines(file))
            empty = True
            for number, text in found:
                empty = False
                yield f"{file}:{number}", text
            if empty:
                raise records.DataError(f"{file}: nothing but blank lines; remove it")

    identity = {"files": files.digests(paths), "document": document}
    return records.Source("text", identity, files.size(paths), documents)


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """Numbered lines with their ends; raises where the file is not text."""
    for number, (offset, line) in enumerate(files.lines(path), start=1):
        if fault := files.fault_of_bytes(line):
            where = f"{path}:{number} (line at byte {offset})"
            raise records.DataError(f"{where}: {fault}")
        yield number, line.decode("utf-8")


def _whole(lines: Iterator[tuple[int, str]]) -> Iterator[tuple[int, records.Text]]:
    held, start, size, first, blank = [], 1, 0, True, True
    for number, line in lines:
        if size + len(line) > PIECE_BYTES and held:
            yield start, records.Text("".join(held), first, final=False)
            held, start, size, first = [], number, 0, False
        held.append(line)
        size += len(line)
        blank = blank and not line.strip()
    if not blank:
        yield start, records.Text("".join(held), first)


def _by_line(lines: Iterator[tuple[int, str]]) -> Iterator[tuple[int, records.Text]]:
    for number, line in lines:
        if line.strip():
            yield number, records.Text(_without_end(line))


def _by_paragraph(
    lines: Iterator[tuple[int, str]],
) -> Iterator[tuple[int, records.Text]]:
    groups = itertools.groupby(lines, key=lambda item: bool(item[1].strip()))
    for is_text, group in groups:
        if is_text:
            start, line = next(group)
            text = "".join([line, *(line for _, line in group)])
            yield start, records.Text(_without_end(text))


def _without_end(text: str) -> str:
    return text.removesuffix("\n").removesuffix("\r")
