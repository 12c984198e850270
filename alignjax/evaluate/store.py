# SPDX-License-Identifier: Apache-2.0
"""Rows of an evaluation in its folder: each is written once, and a killed one goes on.

`FILE.json` beside the rows says what they are of. Rows are appended to `FILE.partial`,
which becomes FILE with the last of them.
"""

from __future__ import annotations

import collections
import fcntl
import json
import os
import pathlib
from collections.abc import Callable, Iterator
from typing import Any

from alignjax import config, errors
from alignjax.evals import rows
from alignjax.storage import atomic, json_files

Measure = Callable[[set[int]], Iterator[list[rows.Answer]]]


def is_done(path: pathlib.Path) -> bool:
    """Whether a file has all of its rows."""
    return path.is_file()


def description(path: pathlib.Path) -> dict[str, Any]:
    """What the rows of a file are of."""
    return json_files.read(path.with_suffix(".json"), dict)


def complete(
    path: pathlib.Path, of: dict[str, Any], each: int, measure: Measure
) -> None:
    """Measures the rows that are missing from a file.

    Args:
      of: all that they depend on, JSON data.
      each: rows of a prompt.
      measure: `(prompts that have their rows) -> blocks of all rows of some others`.

    Raises:
      ConfigError: the folder has rows of something else under this name, or another
        process writes them.
    """
    described = path.with_suffix(".json")
    of = json.loads(json.dumps(of))
    if described.exists():
        if lines := config.differences(description(path), of):
            raise errors.ConfigError(
                f"out: {path} has rows of something else ({errors.some(lines)}); name "
                "another --out, or remove these"
            )
    else:
        atomic.write_json(described, of)
    if not is_done(path):
        _finish(path, each, measure)


def _finish(path: pathlib.Path, each: int, measure: Measure) -> None:
    partial = path.with_name(f"{path.name}.partial")
    with open(partial, "ab+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise errors.ConfigError(f"{path}: another process writes it") from error
        done = _keep_whole(file, str(partial), each)
        for block in measure(done):
            file.write("".join(map(rows.line_of, block)).encode())
            file.flush()
        os.fsync(file.fileno())
        os.replace(partial, path)
    atomic.sync(path.parent)


def _keep_whole(file, name: str, each: int) -> set[int]:
    """Cuts a file behind its last prompt that has all its rows; the prompts it has."""
    file.seek(0)
    counts: collections.Counter[int] = collections.Counter()
    size, end, whole = 0, 0, set()
    for line in file.read().splitlines(keepends=True):
        if not line.endswith(b"\n"):
            break
        size += len(line)
        prompt = json_files.parse(line, name, dict).get("prompt")
        if type(prompt) is not int:
            raise errors.DataError(f"{name}: no row of an answer; remove the file")
        counts[prompt] += 1
        if all(count == each for count in counts.values()):
            end, whole = size, set(counts)
    file.truncate(end)
    return whole
