# SPDX-License-Identifier: Apache-2.0
"""JSON lines: one object a line, the text in one of its fields; `.gz` too."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

from alignjax import registry
from alignjax.data import digests, files, records

SUFFIXES = (".jsonl", ".jsonl.gz", ".ndjson")


def load(path: str | Sequence[str], field: str = "text") -> records.Source:
    """A source of Text; `where` is `file:line`. Blank lines are no rows.

    Args:
      path: a file, a directory, a glob, or a list of these.
      field: which field of an object is the text.

    Raises:
      DataError: no file matches, or a file is empty.
    """
    paths = files.find(path, SUFFIXES)

    def documents() -> Iterator[tuple[str, Any]]:
        for file in paths:
            for number, line in files.lines(file):
                if line.strip():
                    yield f"{file}:{number}", parse_text(line, field)

    identity = {"files": digests.of_files(paths), "field": field}
    return records.Source("jsonl", identity, files.size(paths), documents)


def parse_object(line: bytes) -> dict[str, Any] | records.BadRow:
    """The object on a line, or why there is none."""
    if fault := files.fault_of_bytes(line):
        return records.BadRow(fault)
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        return records.BadRow(f"invalid JSON ({error})")
    if not isinstance(row, dict):
        return records.BadRow(f"expected an object, found {type(row).__name__}")
    return row


def parse_text(line: bytes, field: str) -> records.Text | records.BadRow:
    """The text in `field` of the object on a line, or why there is none."""
    row = parse_object(line)
    if isinstance(row, records.BadRow):
        return row
    if field not in row:
        remedy = registry.closest(field, row)
        return records.BadRow(f"no field {field!r}; {remedy}")
    if fault := records.fault_of_text(row[field]):
        return records.BadRow(f"field {field!r}: {fault}")
    return records.Text(row[field])
