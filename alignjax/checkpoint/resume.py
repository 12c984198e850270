# SPDX-License-Identifier: Apache-2.0
"""Whether a run may begin in a workdir, or go on there; checked before anything else.

A workdir is new (empty, but for what cannot be lost), a run's, or something else's. A
run goes on with its own config, but for fields that do not change what it ends with.
"""

from __future__ import annotations

import contextlib
import fnmatch
import logging
import os
import pathlib
import re
from collections.abc import Iterator, Mapping, Sequence

from alignjax import config as configs
from alignjax import errors
from alignjax.checkpoint import lock, step_folders
from alignjax.storage import filenames
from alignjax.tracking import journal

# What a start that was interrupted before it wrote config.json leaves.
LEFTOVERS = re.compile(rf"checkpoints|config\.json\.(\w+\.)?tmp|{lock.NAME}(\..*)?")
# What a shell or a scheduler writes there before the run begins.
LOGS = (".log", ".out", ".err")
# Fields of a config that do not change which parameters a run ends with, beyond the
# rounding of another order of summation. A pattern also covers what is below it. Paths
# may differ, since what is read from them is part of the data's identity. `steps` is
# not here: schedules are stretched over it.
MAY_DIFFER = """
    mesh sharding_rules microbatches model.attention model.remat model.unroll
    objective.chunk nonfinite max_skipped checkpoint evaluation sample log watchdog
    rollouts.rows rollouts.gate rollouts.evaluation_prompts data.groups_per_row
    prefetch cache_dir tokenizer.path init.run reference.run reference.store
    model.context data.workers data.*.data_dir data.sources.*.path
    data.validation_sources.*.path
""".split()

log = logging.getLogger(__name__)


def check_same_run(
    old: Mapping, new: Mapping, *, where: str, accept: Sequence[str] = ()
) -> list[str]:
    """The allowed differences of two configs, as JSON has them; logged too.

    Args:
      accept: patterns of further fields that may differ.

    Raises:
      ConfigError: the other differences, a line for each field.
    """
    refused, notes = [], []
    for line in configs.differences(old, new):
        field = line.partition(": ")[0]
        if _matches(field, MAY_DIFFER):
            notes.append(f"{where} goes on with {line}")
            log.info(notes[-1])
        elif _matches(field, accept):
            notes.append(f"{where} goes on with {line}, as checkpoint.accept says")
            log.warning(notes[-1])
        else:
            refused.append(line)
    if refused:
        fields = tuple(line.partition(": ")[0] for line in refused)
        head = f"{where} holds another run; old -> new:"
        remedy = "use another workdir, or go on all the same with"
        remedy += f' --config.checkpoint.accept="{fields}"'
        lines = [f"  {line}" for line in refused]
        raise errors.ConfigError([head, *lines, remedy])
    return notes


def decides(field: str) -> bool:
    """Whether a field of a config changes which parameters a run ends with."""
    return not _matches(field, MAY_DIFFER)


def _matches(field: str, patterns: Sequence[str]) -> bool:
    return any(
        fnmatch.fnmatchcase(field, p) or fnmatch.fnmatchcase(field, f"{p}.*")
        for p in patterns
    )


def check_workdir(workdir: pathlib.Path, config: Mapping, every: int) -> str | None:
    """Raises unless a run of this config may begin, or go on, in `workdir`.

    Returns a line for the log where a run begins again that did not come to a save.

    Args:
      config: the resolved config, as JSON has it.
      every: steps between saves.

    Raises:
      ConfigError: it holds something that no run of alignjax made.
      CheckpointError: it holds a run that has saved, and no complete step of it.
    """
    directory = workdir / "checkpoints"
    steps = step_folders.all_steps(directory)
    complete = step_folders.complete_steps(directory)
    others = sorted(_others(workdir, config))
    if others and not _is_of_a_run(workdir, config, complete):
        raise errors.ConfigError(
            f"workdir: {workdir} holds {errors.some(others)}, which no run made, and "
            "might be written over; name a new or empty folder, or the workdir of a "
            "run with its config.json"
        )
    if complete:
        return None
    anew = "to begin again at step 0, use another workdir"
    with contextlib.suppress(errors.DataError, KeyError, TypeError):
        every = max(every, step_folders.read_config(workdir)["checkpoint"]["every"])
    if steps:
        raise errors.CheckpointError(
            f"{directory}: none of its steps, {list(steps)}, has "
            f"{step_folders.MARKER}, as an interrupted copy leaves them; copy them "
            "again, or make an empty file of this name in the newest one that is "
            f"whole, whose fingerprints are then checked; {anew}"
        )
    if _entries(workdir / "quarantine"):
        return None  # `Checkpoints.restore_or_init` reports what was set aside
    # Each save waits for the one before, and a deletion for a later save.
    late = [
        path.name
        for path in _entries(directory)
        if path.name.endswith(step_folders.DELETED)
        or (step_folders.leftover_step(path) or 0) > every
    ]
    if late:
        raise errors.CheckpointError(
            f"{directory} has {errors.some(late)}, as a run leaves that has saved, and "
            f"no complete step; copy the checkpoints back, or rename N.deleted to N, "
            f"whose fingerprints are then checked; {anew}"
        )
    done, started = _steps_done(workdir), (workdir / "config.json").is_file()
    # A start makes the folder before it writes config.json.
    if gone := not directory.is_dir() and (done or started):
        anew += ", or make an empty folder of this name, if the run never saved"
    if done and (gone or done > 2 * every):
        raise errors.CheckpointError(
            f"{directory} {'is gone' if gone else 'is empty'}, and the "
            f"records beside it are of {done} steps, which would be lost; copy the "
            f"checkpoints back; {anew}, or remove metrics.jsonl, log.txt and samples"
        )
    if gone:
        raise errors.CheckpointError(f"{directory} is gone; copy it back; {anew}")
    if not started:
        return None
    return (
        f"{workdir}: an earlier start ended before its first save, {done} steps on "
        "record; this one begins at step 0"
    )


def _steps_done(workdir: pathlib.Path) -> int:
    """The steps that a run did, by whichever of its records are there."""
    last = journal.last_step(workdir / "metrics.jsonl")
    steps = [0 if last is None else last + 1]
    names = " ".join(path.name for path in _entries(workdir / "samples"))
    steps += [int(step) + 1 for step in re.findall(r"\b([0-9]{8})-", names)]
    with contextlib.suppress(OSError):
        text = (workdir / "log.txt").read_text(errors="replace")
        steps += map(int, re.findall(r" step ([0-9]{1,9})/[0-9]", text))
    return max(steps)


def _is_of_a_run(workdir: pathlib.Path, config: Mapping, complete: list[int]) -> bool:
    """Whether config.json has most fields of a config, or a step has its meta."""
    with contextlib.suppress(errors.DataError):
        old = step_folders.read_config(workdir)
        if 2 * len(old.keys() & config.keys()) >= len(config):
            return True
    for step in reversed(complete):
        with contextlib.suppress(errors.BrokenStep):
            step_folders.read_meta(workdir / "checkpoints" / str(step))
            return True
    return False


def _others(workdir: pathlib.Path, config: Mapping) -> Iterator[str]:
    """Names of what could be lost, and was not left by an interrupted start."""
    cache = config.get("cache_dir")
    cache = cache and filenames.expanded(cache).absolute()
    for path in _entries(workdir):
        harmless = path.name.startswith(".") or path.suffix in LOGS
        harmless = harmless or LEFTOVERS.fullmatch(path.name)
        holds_cache = cache and cache.is_relative_to(path)
        if not (harmless or holds_cache or _is_output(path)):
            yield path.name
    for path in _entries(workdir / "checkpoints"):
        if step_folders.leftover_step(path) is None:
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
