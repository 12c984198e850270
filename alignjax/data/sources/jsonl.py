# SPDX-License-Identifier: Apache-2.0
"""JSON lines: one object a line, read as one of `data.formats`; `.gz` too.

A `.json` file that is named may be one array of objects instead.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from alignjax.data import formats, records
from alignjax.data.sources import files
from alignjax.storage import json_files

SUFFIXES = (".jsonl", ".jsonl.gz", ".ndjson")


def load(
    path: str | Sequence[str],
    field: str = "text",
    format: str = "text",
    columns: Mapping[str, str] | None = None,
) -> records.Source:
    """A source of records of the format; `where` is `file:line`.

    Of an array it is the number of the object, from 1. Blank lines are skipped.

    Args:
      path: a file, a directory, a glob, or a list of these.
      field, format, columns: the fields to read; see `formats.reader`.
    """
    reader = formats.reader(format, field, columns)
    paths, note = files.find(path, SUFFIXES)

    def documents() -> Iterator[tuple[str, Any]]:
        for file in paths:
            for number, row in _rows(file):
                bad = isinstance(row, records.BadRow)
                yield f"{file}:{number}", row if bad else reader.read(row)

    identity = {"files": files.digests(paths), **reader.identity}
    return records.Source("jsonl", identity, files.size(paths), documents, note)


def _rows(path: Path) -> Iterator[tuple[int, dict[str, Any] | records.BadRow]]:
    is_json = path.name.lower().endswith((".json", ".json.gz"))
    if is_json and next(files.blocks(path))[2].lstrip().startswith(b"["):
        content = bytearray()
        for _, _, block in files.blocks(path):
            content += block[
                : json_files.MAX_BYTES + 1 - len(content)
            ]  # of a small .gz
        rows = enumerate(json_files.parse(bytes(content), str(path)), start=1)
    else:
        lines = files.lines(path)
        rows = ((number, _parsed(line)) for number, line in lines if line.strip())
    for number, row in rows:
        if not isinstance(row, (dict, records.BadRow)):
            row = records.BadRow(f"expected an object, found {type(row).__name__}")
        yield number, row


def _parsed(line: bytes) -> Any:
    if fault := files.fault_of_bytes(line):
        return records.BadRow(fault)
    try:
        return json_files.parse_line(line)
    except ValueError as error:
        return records.BadRow(f"invalid JSON ({error})")
