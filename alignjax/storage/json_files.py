# SPDX-License-Identifier: Apache-2.0
"""JSON that may be anybody's: bounded, without repeated keys, NaN or infinity.

Python's own reader takes the last of two equal keys, knows numbers that JSON has not,
and ends a program that nests deeply in a RecursionError.
"""

from __future__ import annotations

import collections
import hashlib
import json
import os
from typing import Any

from alignjax import errors
from alignjax.storage import filenames

MAX_BYTES = filenames.MAX_READ
MAX_DEPTH = 100
MAX_VALUES = 2**24  # each takes some 100 bytes of memory


def read(
    path: str | os.PathLike,
    kind: type | None = None,
    *,
    error: type[Exception] = errors.DataError,
    allow_nan: bool = False,
) -> Any:
    """The value in a JSON file; see `parse`, which names the file in errors."""
    try:
        content = filenames.read(path)
    except OSError as fault:
        raise error(f"{path}: {fault.strerror}") from fault
    return parse(content, str(path), kind, error=error, allow_nan=allow_nan)


def parse(
    content: bytes | str,
    where: str,
    kind: type | None = None,
    *,
    error: type[Exception] = errors.DataError,
    allow_nan: bool = False,
) -> Any:
    """The value in JSON text, UTF-8 where it is bytes; `where` is named in errors.

    Args:
      kind: such as dict, which the value must be.
      error: the class to raise.
      allow_nan: for files of ours, which Python may have written infinities to.

    Raises:
      DataError, or `error`: it cannot be read, or is not such JSON.
    """
    try:
        if len(content) > MAX_BYTES:
            raise ValueError(f"more than {MAX_BYTES:,} bytes")
        text = content if isinstance(content, str) else content.decode("utf-8-sig")
        if sum(map(text.count, "[{,")) > MAX_VALUES:
            raise ValueError(f"more than {MAX_VALUES:,} values")
        constant = None if allow_nan else _refuse_constant
        value = json.loads(text, object_pairs_hook=_object, parse_constant=constant)
        _check_depth(value)
    except (ValueError, RecursionError) as fault:
        reason = "nested too deeply" if isinstance(fault, RecursionError) else fault
        raise error(f"{where}: cannot be read as JSON ({reason})") from fault
    if kind is None or isinstance(value, kind):
        return value
    shown = f"{value!r:.60} is {type(value).__name__}, not {kind.__name__}"
    raise error(f"{where}: {shown}")


def parse_line(line: bytes | str) -> Any:
    """The value of a line of JSON lines, with all that Python's own reader takes.

    Raises:
      ValueError: it is not JSON, or nested too deeply.
    """
    try:
        value = json.loads(line)
        _check_depth(value)
    except RecursionError as fault:
        raise ValueError("nested too deeply") from fault
    return value


def digest(value: Any) -> str:
    """The sha256 of a JSON value, the same for equal ones, as keys of caches have it.

    Raises:
      ValueError: a NaN or an infinity in it.
    """
    text = json.dumps(value, sort_keys=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def compact_digest(value: Any) -> str:
    """The sha256 of a JSON value, as steps of checkpoints have it in their meta."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        counts = collections.Counter(name for name, _ in pairs)
        ((name, _),) = counts.most_common(1)
        raise ValueError(f"the key {name[:80]!r} occurs twice in one object")
    return value


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no number of JSON")


def _check_depth(value: Any) -> None:
    level = [value] if isinstance(value, (dict, list)) else []
    for _ in range(MAX_DEPTH):
        nested = [v.values() if isinstance(v, dict) else v for v in level]
        level = [x for v in nested for x in v if isinstance(x, (dict, list))]
        if not level:
            return
    raise ValueError(f"nested more than {MAX_DEPTH} deep")
