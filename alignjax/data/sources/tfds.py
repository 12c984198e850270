# SPDX-License-Identifier: Apache-2.0
"""TensorFlow Datasets at random access, without TensorFlow.

Needs data that was prepared with `file_format="array_record"`.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from alignjax import errors
from alignjax.data import formats, records
from alignjax.data.sources import files
from alignjax.storage import json_files

CHUNK = 256  # examples read at a time


def load(
    name: str | None = None,
    directory: str | None = None,
    split: str = "train",
    field: str = "text",
    data_dir: str | None = None,
    format: str = "text",
    columns: Mapping[str, str] | None = None,
) -> records.Source:
    """A source of records of the format; `where` is `name/split:example`, from 0.

    Args:
      name: of a prepared data set, such as "wiki40b/en:1.3.0", below `data_dir`.
      directory: of the prepared data itself, instead of a name.
      split: such as "train" or "train[:10%]".
      field, format, columns: the features to read; see `formats.reader`.
      data_dir: where prepared data sets are; TFDS's own default if None.
    """
    reader = formats.reader(format, field, columns)
    builder = _builder(name, directory, data_dir)
    where = builder.info.full_name
    names = reader.columns(list(builder.info.features), f"tfds {where}")
    try:
        paths = [Path(path) for path in builder.info.splits[split].filepaths]
        examples = builder.as_data_source(split=split)
    except (ValueError, KeyError, NotImplementedError) as error:
        splits = ", ".join(builder.info.splits)
        raise errors.DataError(
            f"tfds {where}, split {split!r}: {error}; known splits: {splits}"
        ) from error

    def documents() -> Iterator[tuple[str, Any]]:
        try:
            for index, example in enumerate(_examples(examples)):
                yield f"{where}/{split}:{index}", _record(example, names, reader)
        except RuntimeError as error:  # what array_record raises
            raise errors.DataError(
                f"tfds {where}, split {split!r}: damaged ({error}); prepare it again"
            ) from error

    identity = {"files": files.digests(paths), "split": split, **reader.identity}
    return records.Source("tfds", identity, files.size(paths), documents)


def _builder(name: str | None, directory: str | None, data_dir: str | None):
    if (name is None) == (directory is None):
        raise errors.DataError("tfds: give either a name or a directory")
    try:
        import tensorflow_datasets as tfds
    except ImportError as error:
        raise errors.DataError(
            "tfds: TensorFlow Datasets is not installed; install it with: "
            "pip install tensorflow-datasets array-record importlib_resources"
        ) from error
    where = f"tfds {name or directory}"
    remedy = 'prepare it with file_format="array_record"'
    try:
        if directory is None:
            builder = tfds.builder(name, data_dir=data_dir)
        else:
            directory = os.path.expanduser(directory)
            _check_features(Path(directory))
            builder = tfds.builder_from_directory(directory)
    except (tfds.core.DatasetNotFoundError, OSError, ValueError) as error:
        reason = str(error).splitlines()[0]  # the list of all data sets follows
        raise errors.DataError(f"{where}: {reason}") from error
    if directory is None and not builder.is_prepared():
        raise errors.DataError(f"{where}: not prepared; {remedy}")
    file_format = builder.info.file_format and builder.info.file_format.value
    if file_format != "array_record":
        raise errors.DataError(f"{where}: prepared as {file_format}; {remedy}")
    return builder


def _check_features(directory: Path) -> None:
    """Refuses data whose description would import code from outside TFDS."""
    path = directory / "features.json"
    try:
        description = json_files.read(path)
    except errors.DataError as error:
        raise errors.DataError(
            f"{error}: no description of prepared data; correct directory"
        ) from error
    for name in re.findall(r'"pythonClassName": "([^"]*)"', json.dumps(description)):
        if not name.startswith("tensorflow_datasets."):
            raise errors.DataError(
                f"{path}: names the class {name!r}, which is not TFDS's own and would "
                "be imported; load only data that needs no such class"
            )


def _examples(examples) -> Iterator[dict[str, Any]]:
    for start in range(0, len(examples), CHUNK):
        indices = range(start, min(start + CHUNK, len(examples)))
        yield from examples.__getitems__(indices)


def _record(example, names: list[str], reader: formats.Reader) -> Any:
    try:
        return reader.read({name: _plain(example[name]) for name in names})
    except UnicodeDecodeError as error:
        return records.BadRow(f"not UTF-8 ({error})")


def _plain(value: Any) -> Any:
    """Bytes as text, arrays as lists."""
    value = value.tolist() if hasattr(value, "tolist") else value
    if isinstance(value, bytes):
        return value.decode("utf-8")
    if isinstance(value, dict):
        return {name: _plain(item) for name, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list) else value
