# SPDX-License-Identifier: Apache-2.0
"""Regular expressions of strangers, matched within bounds of time and memory.

Python's engine takes exponential time for some expressions. Those that may are matched
in a worker process, and the others, which most files have, here.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from alignjax import errors, workers

WORKER = workers.Worker("alignjax.patterns:answer", workers.Limits(cpu_seconds=2))
MOST_CHARACTERS = 10_000
# With so few repetitions (`?` is one too) and groups, none of them repeated, a path is
# matched in much less than a millisecond; and so many of these are.
_REPETITIONS, _GROUPS, _MATCHES = 2, 3, 100_000


def matching(
    patterns: Sequence[str], names: Sequence[str], where: str
) -> list[list[bool]]:
    """Whether each of the patterns matches the whole of each name.

    Args:
      where: the file or field that has the patterns, for messages.

    Raises:
      ConfigError: one is no pattern, or matching takes too long.
    """
    if long := [x for x in patterns if len(x) > MOST_CHARACTERS]:
        raise errors.ConfigError(
            f"{where}: {long[0]!r:.80}: has {len(long[0]):,} characters, of "
            f"{MOST_CHARACTERS:,} at most; shorten it"
        )
    many = len(patterns) * len(names) > _MATCHES
    hard = [x for x in patterns if many or not _is_simple(x)]
    easy = set(patterns).difference(hard)
    try:
        results = answer([easy, names])
        results |= WORKER.call([hard, list(names)]) if hard else {}
    except workers.WorkerError as error:
        raise errors.ConfigError(
            f"{where}: {errors.some([f'{x!r:.80}' for x in hard])}: matching was "
            f"stopped: {error}; write simpler patterns"
        ) from error
    problems = [
        f"{where}: {x!r:.80}: is no pattern: {results[x]}; mend it"
        for x in patterns
        if isinstance(results[x], str)
    ]
    if problems:
        raise errors.ConfigError(problems)
    return [results[x] for x in patterns]


def answer(request: Sequence[Any]) -> dict[str, list[bool] | str]:
    """The matches of each pattern, of JSON; or why it is none."""
    patterns, names = request
    results = {}
    for pattern in patterns:
        try:
            match = re.compile(pattern).fullmatch
            results[pattern] = [match(name) is not None for name in names]
        except (re.error, RecursionError, OverflowError) as error:
            results[pattern] = str(error)
    return results


def _is_simple(pattern: str) -> bool:
    repeats = sum(map(pattern.count, "*+?{"))
    return (
        repeats <= _REPETITIONS
        and pattern.count("(") <= _GROUPS
        and not re.search(r"\)[*+{]", pattern)
    )
