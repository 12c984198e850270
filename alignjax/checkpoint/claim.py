# SPDX-License-Identifier: Apache-2.0
"""Whether a run may begin or go on in a workdir; looked at before anything is written.

A workdir is new (empty, but for what cannot be lost), a run's, or something else's.
"""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
import re
from collections.abc import Iterator, Mapping

from alignjax import errors
from alignjax.checkpoint import lock, step_folders
from alignjax.tracking import journal

# What a start that was interrupted before it wrote config.json leaves.
LEFTOVERS = re.compile(r"checkpoints|config\.json\.(\d+\.)?tmp")
# What a shell or a scheduler writes there before the run begins.
LOGS = (".log", ".out", ".err")


def check(workdir: pathlib.Path, config: Mapping, every: int) -> None:
    """Raises unless a run of this config may begin, or go on, in `workdir`.

    Args:
      config: the resolved config, as JSON has it.
      every: steps between saves.

    Raises:
      ConfigError: it holds something that no run of alignjax made.
      CheckpointError: it holds a run that has saved, and no complete step of it.
    """
    directory = workdir / "checkpoints"
    steps = step_folders.all_steps(directory)
    complete = [step for step, whole in steps.items() if whole]
    if not _of_a_run(workdir, config, complete):
        others = sorted(_others(workdir, config))
        if others:
            more = f" and {len(others) - 3} more" if len(others) > 3 else ""
            raise errors.ConfigError(
                f"workdir: {workdir} holds {', '.join(others[:3])}{more}, which no run "
                "made, and might be written over; name a new or empty folder, or the "
                "workdir of a run with its config.json"
            )
    if complete:
        return
    anew = "to begin again at step 0, use another workdir"
    if steps:
        raise errors.CheckpointError(
            f"{directory}: none of its steps, {list(steps)}, has "
            f"{step_folders.MARKER}, as an interrupted copy leaves them; copy them "
            "again, or make an empty file of this name in the newest one that is "
            f"whole, whose fingerprints are then checked; {anew}"
        )
    if _entries(workdir / "quarantine"):
        return  # `restore_or_init` says what was set aside
    last = journal.last_step(workdir / "metrics.jsonl")
    # Each save waits for the one before, so that by then one was complete.
    if last is not None and (not directory.is_dir() or last >= 2 * every):
        raise errors.CheckpointError(
            f"{directory} {'is empty' if directory.is_dir() else 'is gone'}, and "
            f"metrics.jsonl has steps up to {last}, which would be lost; copy the "
            f"checkpoints back; {anew}, or remove metrics.jsonl"
        )


def _of_a_run(workdir: pathlib.Path, config: Mapping, complete: list[int]) -> bool:
    """Whether config.json has most fields of a config, or a step has its meta."""
    with contextlib.suppress(OSError, ValueError):
        known = json.loads((workdir / "config.json").read_text())
        if isinstance(known, dict):
            common = known.keys() & config.keys()
            if 2 * len(common) >= len(config):
                return True
    for step in reversed(complete):
        with contextlib.suppress(errors.BrokenStep):
            step_folders.read_meta(
                step_folders.step_path(workdir / "checkpoints", step)
            )
            return True
    return False


def _others(workdir: pathlib.Path, config: Mapping) -> Iterator[str]:
    """What could be lost, and is of no start that was interrupted."""
    cache = config.get("cache_dir")
    cache = cache and pathlib.Path(cache).expanduser().absolute()
    for path in _entries(workdir):
        hidden_or_log = path.name.startswith(".") or path.suffix in LOGS
        left = LEFTOVERS.fullmatch(path.name) is not None
        left = left or path.name.partition(".")[0] == lock.NAME
        holds_cache = cache and cache.is_relative_to(path)
        if not (hidden_or_log or left or holds_cache or _is_output(path)):
            yield path.name
    for path in _entries(workdir / "checkpoints"):
        if not step_folders.is_leftover(path):
            yield f"checkpoints/{path.name}"


def _entries(path: pathlib.Path) -> list[pathlib.Path]:
    return list(path.iterdir()) if path.is_dir() else []


def _is_output(path: pathlib.Path) -> bool:
    """Whether it is the file that this process prints to."""
    for descriptor in (1, 2):
        with contextlib.suppress(OSError):
            if os.path.samestat(path.stat(), os.fstat(descriptor)):
                return True
    return False
