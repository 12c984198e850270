# SPDX-License-Identifier: Apache-2.0
"""Hugging Face `datasets`, from the Hub or from disk; needs the extra `hf`."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from alignjax import errors
from alignjax.data import formats, records

BATCH_ROWS = 4096


def load(
    path: str,
    name: str | None = None,
    split: str = "train",
    field: str = "text",
    revision: str | None = None,
    data_files: str | list[str] | None = None,
    format: str = "text",
    columns: Mapping[str, str] | None = None,
) -> records.Source:
    """A source of records of the format; `where` is `path/split:row`, from 0.

    The data is downloaded once, as Arrow files that are read as memory maps. No code of
    a data set is run.

    Args:
      path: a repository of the Hub, a local directory, or a format such as "json".
      name: a configuration of the data set.
      split: such as "train" or "train[:10%]".
      field, format, columns: the columns to read; see `formats.reader`.
      revision: a commit of the repository; name one to always get the same data.
      data_files: files of the repository, or local ones.
    """
    reader = formats.reader(format, field, columns)
    try:
        import datasets
    except ImportError as error:
        raise errors.DataError(
            'source kind "huggingface" needs the extra hf: pip install alignjax[hf]'
        ) from error
    options = {"revision": revision, "data_files": data_files}
    try:
        rows = datasets.load_dataset(path, name, split=split, **options)
    except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
        where = f"huggingface {path}, split {split!r}"
        raise errors.DataError(f"{where}: {error}") from error
    names = reader.columns(rows.column_names, f"huggingface {path}")
    read = rows.select_columns(names)

    def documents() -> Iterator[tuple[str, Any]]:
        for index, row in enumerate(_whole(read, path)):
            yield f"{path}/{split}:{index}", reader.read(row)

    text = format == "text"
    digest = _digest(rows, reader.required[0]) if text else None
    digest = digest or _digest_rows(_whole(read, path))
    identity = {"rows": digest, **reader.identity}
    return records.Source("huggingface", identity, rows.dataset_size, documents)


def _whole(rows, path: str) -> Iterator[dict[str, Any]]:
    """The rows; all texts have to be UTF-8, and all dates such as Python can have."""
    try:
        yield from rows
    except (ValueError, OverflowError) as error:
        raise errors.DataError(
            f"huggingface {path}: a value cannot be read ({error}); mend the data"
        ) from error


def _digest_rows(rows) -> str:
    """The sha256 of rows of any columns, whichever library versions they come by."""
    digest = hashlib.sha256()
    for row in rows:
        line = json.dumps(row, sort_keys=True, ensure_ascii=True, default=str)
        digest.update(line.encode() + b"\n")
    return digest.hexdigest()


def _digest(rows, field: str) -> str:
    """The sha256 of a column, whichever files and library versions it comes by."""
    import pyarrow

    digest = hashlib.sha256()
    column = rows.select_columns([field]).with_format("arrow")
    for batch in column.iter(BATCH_ROWS):
        try:
            texts = batch.column(0).cast(pyarrow.large_binary()).combine_chunks()
        except pyarrow.ArrowException as error:
            raise errors.DataError(
                f"huggingface: column {field!r} is no text ({error}); name another"
            ) from error
        values = texts.to_pylist()
        lengths = np.array([-1 if v is None else len(v) for v in values])
        digest.update(lengths.astype("<i8").tobytes())
        digest.update(b"".join(v for v in values if v is not None))
    return digest.hexdigest()
