# SPDX-License-Identifier: Apache-2.0
"""Parquet files: one row a record, read as one of `data.formats`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from alignjax import errors
from alignjax.data import formats, records
from alignjax.data.sources import files
from alignjax.storage import filenames

BATCH_ROWS = 1024


def load(
    path: str | Sequence[str],
    field: str = "text",
    format: str = "text",
    columns: Mapping[str, str] | None = None,
) -> records.Source:
    """A source of records of the format; `where` is `file:row`, from 1. Needs pyarrow.

    Args:
      path: a file, a directory, a glob, or a list of these.
      field, format, columns: the columns to read; see `formats.reader`.
    """
    reader = formats.reader(format, field, columns)
    paths, note = files.find(path, (".parquet",))
    count = 0
    for file in paths:
        with _open(file) as opened:
            reader.columns(opened.schema_arrow.names, str(file))
            count += opened.metadata.num_rows
    if not count:
        raise errors.DataError(f"path: {path!r} has no rows; name a file that has some")

    def documents() -> Iterator[tuple[str, Any]]:
        for file in paths:
            for number, row in enumerate(_rows(file, reader), start=1):
                bad = isinstance(row, records.BadRow)
                yield f"{file}:{number}", row if bad else reader.read(row)

    identity = {"files": files.digests(paths), **reader.identity}
    return records.Source("parquet", identity, files.size(paths), documents, note)


def _rows(
    path: Path, reader: formats.Reader
) -> Iterator[dict[str, Any] | records.BadRow]:
    import pyarrow

    try:
        with _open(path) as file:
            names = reader.columns(file.schema_arrow.names, str(path))
            for batch in file.iter_batches(BATCH_ROWS, columns=names):
                try:
                    yield from batch.to_pylist()
                except (ValueError, OverflowError):  # of one row, such as a date
                    yield from (_row(batch, i) for i in range(len(batch)))
    except (pyarrow.ArrowException, OSError) as error:
        raise errors.DataError(
            f"{path}: damaged ({error}); copy the file again"
        ) from error


def _row(batch, i: int) -> dict[str, Any] | records.BadRow:
    row = {}
    for name, column in zip(batch.schema.names, batch.columns, strict=True):
        try:
            row[name] = column[i].as_py()
        except (ValueError, OverflowError) as error:
            problem = f"field {name!r}: a value that Python cannot have ({error})"
            return records.BadRow(problem)
    return row


def _open(path: Path):
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise errors.DataError(
            f"{path}: Parquet needs pyarrow; install it with: pip install pyarrow"
        ) from error
    try:
        with filenames.open_file(path):
            return pyarrow.parquet.ParquetFile(path)
    except (pyarrow.ArrowException, OSError) as error:
        raise errors.DataError(
            f"{path}: not a whole Parquet file ({error}); copy the file again"
        ) from error
