# SPDX-License-Identifier: Apache-2.0
"""JSON lines: one object a line, read as one of `data.formats`; `.gz` too."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from alignjax.data import formats, records
from alignjax.data.sources import files

SUFFIXES = (".jsonl", ".jsonl.gz", ".ndjson")


def load(
    path: str | Sequence[str],
    field: str = "text",
    format: str = "text",
    columns: Mapping[str, str] | None = None,
) -> records.Source:
    """A source of records of the format; `where` is `file:line`.

    Blank lines are skipped.

    Args:
      path: a file, a directory, a glob, or a list of these.
      field, format, columns: the fields to read; see `formats.reader`.

    Raises:
      ConfigError: no such format.
      DataError: no file matches, or a file is empty.
    """
    reader = formats.reader(format, field, columns)
    paths, note = files.find(path, SUFFIXES)

    def documents() -> Iterator[tuple[str, Any]]:
        for file in paths:
            for number, line in files.lines(file):
                if line.strip():
                    row = parse_object(line)
                    bad = isinstance(row, records.BadRow)
                    yield f"{file}:{number}", row if bad else reader.read(row)

    identity = {"files": files.digests(paths), **reader.identity}
    return records.Source("jsonl", identity, files.size(paths), documents, note)


def parse_object(line: bytes) -> dict[str, Any] | records.BadRow:
    """The JSON object on a line."""
    if fault := files.fault_of_bytes(line):
        return records.BadRow(fault)
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        return records.BadRow(f"invalid JSON ({error})")
    if not isinstance(row, dict):
        return records.BadRow(f"expected an object, found {type(row).__name__}")
    return row
