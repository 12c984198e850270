# SPDX-License-Identifier: Apache-2.0
"""Is this the run that the workdir holds? What may differ, and a diff of the rest."""

from __future__ import annotations

import fnmatch
import logging
from collections.abc import Mapping, Sequence

from alignjax import config, errors

# Fields of a config that do not change which parameters a run ends with, beyond the
# rounding of another order of summation. A pattern also covers what is below it. Paths
# may differ, since what is read from them is part of the data's identity. `steps` is
# not here: schedules are stretched over it.
MAY_DIFFER = (
    "mesh",
    "sharding_rules",
    "microbatches",
    "model.attention",
    "model.remat",
    "model.unroll",
    "objective.chunk",
    "nonfinite",
    "max_skipped",
    "checkpoint",
    "evaluation",
    "sample",
    "log",
    "watchdog",
    "prefetch",
    "cache_dir",
    "tokenizer.path",
    "init.run",
    "reference.run",
    "reference.store",
    "model.context",
    "data.workers",
    "data.*.data_dir",
    "data.sources.*.path",
    "data.validation_sources.*.path",
)

log = logging.getLogger(__name__)


def check(
    old: Mapping, new: Mapping, *, where: str, accept: Sequence[str] = ()
) -> None:
    """Refuses another run; logs the differences that are allowed.

    `old` and `new` are JSON. `accept` has patterns of further fields that may differ.

    Raises:
      ConfigError: the diff, a line for each field.
    """
    refused = []
    for line in config.differences(old, new):
        field = line.partition(": ")[0]
        if _matches(field, MAY_DIFFER):
            log.info("%s goes on with %s", where, line)
        elif _matches(field, accept):
            log.warning("%s goes on with %s, as checkpoint.accept says", where, line)
        else:
            refused.append(line)
    if refused:
        fields = tuple(line.partition(": ")[0] for line in refused)
        remedy = "use another workdir, or go on all the same with"
        raise errors.ConfigError(
            [
                f"{where} holds another run; old -> new:",
                *(f"  {line}" for line in refused),
                f'{remedy} --config.checkpoint.accept="{fields}"',
            ]
        )


def _matches(field: str, patterns: Sequence[str]) -> bool:
    return any(
        fnmatch.fnmatchcase(field, p) or fnmatch.fnmatchcase(field, f"{p}.*")
        for p in patterns
    )
