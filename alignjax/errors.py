# SPDX-License-Identifier: Apache-2.0
"""Errors that a command reports in one message, each with the exit code it ends with.

Numbers up to 78 are those of sysexits.h where it has one that fits. A supervisor
starts a command again after `PREEMPTED`, `HANG` and death by a signal; the rest need a
person.
"""

from __future__ import annotations

from collections.abc import Sequence

DONE = 0
DATA = 65  # a source cannot be read, or holds what it should not
CHECKPOINT = 74  # a checkpoint cannot be written or read: disk full, all broken
PREEMPTED = 75  # asked to stop by SIGTERM; the last step is saved
HANG = 76  # no progress within the watchdog's limit; all stacks were written
NON_FINITE = 77  # the loss or a gradient was not finite; checkpoints are from before
CONFIG = 78  # the config, its workdir or JAX's devices were refused before any work
INTERRUPTED = 130  # asked to stop by SIGINT (Ctrl-C); the last step is saved


def some(names: Sequence[str], separator: str = ", ", count: int = 3) -> str:
    """The first of some names, and how many more there are."""
    more = f" and {len(names) - count} more" if len(names) > count else ""
    return f"{separator.join(names[:count])}{more}"


def shown(error: Exception, most: int = 600) -> str:
    """Its message, for a terminal: long lines cut in their middle, nothing unprintable.

    Parts of it may be anybody's.
    """
    lines = str(error).splitlines()
    lines = [
        x if len(x) <= most else f"{x[: most // 2]} ... {x[-most // 3 :]}"
        for x in lines
    ]
    plain = lambda c: c if c.isprintable() else c.encode("unicode_escape").decode()
    return "\n".join("".join(map(plain, line)) for line in lines)


class AlignError(Exception):
    """A fault that is the user's to mend: its message is all that a command prints."""

    exit_code: int


class ConfigError(AlignError, ValueError):
    """A config that cannot be run; `problems` has one line for each fault."""

    exit_code = CONFIG

    def __init__(self, problems: list[str] | str):
        self.problems = [problems] if isinstance(problems, str) else list(problems)
        super().__init__("\n".join(self.problems))


class DataError(AlignError, ValueError):
    """Data that cannot be read, or that is not what it should be."""

    exit_code = DATA


class CheckpointError(AlignError, RuntimeError):
    """A checkpoint that cannot be written, read or trusted."""

    exit_code = CHECKPOINT


class BrokenStep(CheckpointError):
    """One step whose content is missing, unreadable or not what was written."""


class NonFinite(AlignError, FloatingPointError):
    """The loss, its gradient or a state to be saved is not finite."""

    exit_code = NON_FINITE
