# SPDX-License-Identifier: Apache-2.0
"""Sources of records by kind: `kind = "text"` is `sources/text.py`.

To add one, write a module with `load(**options) -> Source` and list it in `KINDS`, or
name a function of that signature anywhere as `kind = "module:function"`.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from alignjax import config, errors, registry
from alignjax.data import records

KINDS = {
    "huggingface": "alignjax.data.sources.huggingface",
    "jsonl": "alignjax.data.sources.jsonl",
    "parquet": "alignjax.data.sources.parquet",
    "text": "alignjax.data.sources.text",
    "tfds": "alignjax.data.sources.tfds",
    "world": "alignjax.world",
}


def load(kind: str, options: Mapping[str, Any]) -> records.Source:
    """The source called `kind`, with its options checked against its `load`.

    Raises:
      ConfigError: no such kind; an option that is unknown or missing.
      DataError: from the source itself, such as a file that is not there.
    """
    function = config.of_kind(KINDS, kind, "load", "source")
    parameters = inspect.signature(function).parameters
    problems = []
    if not config.takes_options(function):
        problems = [
            f"{name}: unknown option; {registry.closest(name, parameters)}"
            for name in options
            if name not in parameters
        ]
        problems += [
            f"{name}: required"
            for name, parameter in parameters.items()
            if parameter.default is parameter.empty and name not in options
        ]
    if problems:
        raise errors.ConfigError(problems)
    return function(**options)._replace(kind=kind)


def rows(path: str) -> Iterator[tuple[str, Any]]:
    """`(where, dict or BadRow)` of files of Parquet or JSON lines, as they are.

    Raises:
      DataError: there is no such file.
    """
    kind = "parquet" if path.lower().endswith(".parquet") else "jsonl"
    options = {"path": path, "format": "alignjax.data.formats:as_it_is"}
    return load(kind, options).documents()


def good_rows(
    documents: Iterable[tuple[str, Any]], faults: records.Faults
) -> Iterator[tuple[str, Any]]:
    """The records of a source without its bad rows, which are added to `faults`.

    After a bad row that may not be skipped nothing more is yielded, but the rest is
    read to list further bad rows; the caller ends with `faults.check()`.
    """
    for where, record in documents:
        if isinstance(record, records.BadRow):
            faults.add(where, record.reason)
        elif faults.skip or not faults.count:
            yield where, record


def mapped(
    source: records.Source, function: Callable[[Any], Iterable[Any]]
) -> records.Source:
    """The source whose records are `function(record)`, any number for each good one."""

    def documents() -> Iterator[tuple[str, Any]]:
        for where, record in source.documents():
            if isinstance(record, records.BadRow):
                yield where, record
            else:
                yield from ((where, new) for new in function(record))

    return source._replace(documents=documents)
