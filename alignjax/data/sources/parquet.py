# SPDX-License-Identifier: Apache-2.0
"""Parquet files: one row a document, the text in one of the columns."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from alignjax import registry
from alignjax.data import digests, files, records

BATCH_ROWS = 1024


def load(path: str | Sequence[str], field: str = "text") -> records.Source:
    """A source of Text; `where` is `file:row`, from 1. Needs pyarrow.

    Args:
      path: a file, a directory, a glob, or a list of these.
      field: which column is the text.

    Raises:
      DataError: no file matches; a file is empty, cut off or without the column.
    """
    paths = files.find(path, (".parquet",))
    for file in paths:
        _check(file, field)

    def documents() -> Iterator[tuple[str, Any]]:
        for file in paths:
            for number, text in enumerate(_column(file, field), start=1):
                fault = records.fault_of_text(text)
                bad = records.BadRow(f"column {field!r}: {fault}")
                yield f"{file}:{number}", bad if fault else records.Text(text)

    identity = {"files": digests.of_files(paths), "field": field}
    return records.Source("parquet", identity, files.size(paths), documents)


def _check(path: Path, field: str) -> None:
    with _open(path) as file:
        names = file.schema_arrow.names
    if field not in names:
        remedy = registry.closest(field, names)
        raise records.DataError(f"{path}: no column {field!r}; {remedy}")


def _column(path: Path, field: str) -> Iterator[Any]:
    import pyarrow

    try:
        with _open(path) as file:
            for batch in file.iter_batches(BATCH_ROWS, columns=[field]):
                yield from batch.column(0).to_pylist()
    except (pyarrow.ArrowException, UnicodeDecodeError, OSError) as error:
        raise records.DataError(
            f"{path}: damaged ({error}); copy the file again"
        ) from error


def _open(path: Path):
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise records.DataError(
            f"{path}: Parquet needs pyarrow; install it with: pip install pyarrow"
        ) from error
    try:
        return pyarrow.parquet.ParquetFile(path)
    except (pyarrow.ArrowException, OSError) as error:
        raise records.DataError(
            f"{path}: not a whole Parquet file ({error}); copy the file again"
        ) from error
