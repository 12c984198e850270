# SPDX-License-Identifier: Apache-2.0
"""A file of JSON records, one line a step, in which every step stands exactly once.

A run that is killed and resumed from an earlier checkpoint repeats steps. So `open_at`
cuts the file back to the step from which the run goes on, in one atomic replacement,
and `Journal.write` refuses a step that does not follow the last one.

Numbers are written so that reading gives the same float64: Python's shortest `repr`.
JSON has no NaN and no infinities; they are written as the strings "NaN", "Infinity" and
"-Infinity", which `float` and `read` understand.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from alignjax import errors
from alignjax.storage import atomic, json_files

NON_FINITE = ("NaN", "Infinity", "-Infinity")


class Cut(NamedTuple):
    """What `open_at` found: records kept, records of later steps, broken lines."""

    kept: int
    later: int
    unreadable: int


class Journal:
    """Appends records; made by `open_at`."""

    def __init__(self, path: pathlib.Path, last: int):
        self._file = path.open("a", encoding="utf-8")
        self._last = last

    def write(self, step: int, record: Mapping[str, Any]) -> None:
        """Appends `{"step": step, **record}`; it outlives the process at once.

        Raises:
          ValueError: the step is not after the last one written.
          TypeError: a value is neither a number nor an array of one.
        """
        if step <= self._last:
            raise ValueError(
                f"step {step} is not after {self._last}, the last one in "
                f"{self._file.name}; a step is written once, with all it measured"
            )
        plain = {"step": int(step)}
        plain |= {str(name): _plain(name, value) for name, value in record.items()}
        self._file.write(json.dumps(plain, allow_nan=False) + "\n")
        self._file.flush()
        self._last = step

    def sync(self) -> None:
        """Returns when all records would outlive a power cut as well."""
        os.fsync(self._file.fileno())

    def close(self) -> None:
        self._file.close()


def open_at(path: str | os.PathLike, step: int) -> tuple[Journal, Cut]:
    """A journal that goes on at `step`, with only the records of earlier steps kept.

    A last line that was torn by a kill is dropped, and any other that is not a record.
    The file is replaced atomically, or left alone where there is nothing to drop.
    """
    path = pathlib.Path(path)
    steps = _steps(path)
    unreadable = steps.count(None)
    kept = [n for n in steps if n is not None and n < step]
    if len(kept) < len(steps):
        with path.open("rb") as old, atomic.replace(path) as new:
            for line, n in zip(old, steps, strict=True):
                if n is not None and n < step:
                    new.write(line)
    cut = Cut(len(kept), len(steps) - len(kept) - unreadable, unreadable)
    return Journal(path, max(kept, default=-1)), cut


def last_step(path: str | os.PathLike) -> int | None:
    """The last step of a journal, which may have broken lines; None if it has none."""
    steps = _steps(pathlib.Path(path))
    return max((step for step in steps if step is not None), default=None)


def read(path: str | os.PathLike) -> Iterator[dict[str, Any]]:
    """The records of a journal in order, floats as they were, also the non-finite ones.

    A last line without its end, as a run that is still writing leaves, is not a record.

    Raises:
      DataError: another line is no record; the message has file and line.
    """
    with open(path, "rb") as file:
        for number, line in enumerate(file, 1):
            if not line.endswith(b"\n"):
                return
            where = f"{path}:{number}"
            record = json_files.parse(line, where, dict)
            if not isinstance(record.get("step"), int):
                raise errors.DataError(f"{where}: no whole number as its step")
            for name, value in record.items():
                try:
                    if not (isinstance(value, (int, float)) or value in NON_FINITE):
                        raise ValueError("not a number")
                    number = float(value)  # or an OverflowError
                except (ValueError, OverflowError) as error:
                    shown = f"{name:.60}: {value!r:.60}: {error}"
                    raise errors.DataError(f"{where}: {shown}") from error
                record[name] = number if isinstance(value, str) else value
            yield record


def record_of(path: str | os.PathLike, step: int) -> dict[str, Any]:
    """The record of a step; empty where the journal has none."""
    with contextlib.suppress(FileNotFoundError, errors.DataError):
        return next((r for r in read(path) if r["step"] == step), {})
    return {}


def _plain(name: str, value: Any) -> Any:
    if isinstance(value, int):
        return value
    try:
        number = value.item() if hasattr(value, "item") else float(value)
    except (TypeError, ValueError) as error:
        raise TypeError(f"{name}: {type(value).__name__} is not a number") from error
    if isinstance(number, float) and not math.isfinite(number):
        return "NaN" if number != number else "Infinity" if number > 0 else "-Infinity"
    return number


def _steps(path: pathlib.Path) -> list[int | None]:
    """The step of each line, None for one that is no whole record."""
    if not path.exists():
        return []
    with path.open("rb") as file:
        return [_step(line) for line in file]


def _step(line: bytes) -> int | None:
    try:
        step = json_files.parse_line(line)["step"] if line.endswith(b"\n") else None
    except (ValueError, KeyError, TypeError):
        return None
    return step if isinstance(step, int) else None
