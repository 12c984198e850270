# SPDX-License-Identifier: Apache-2.0
"""How often to save, and which of what was saved to keep."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from alignjax import errors
from alignjax.bounds import Count, Positive


@dataclasses.dataclass(frozen=True)
class CheckpointConfig:
    """The section `checkpoint` of a config.

    Attributes:
      every: steps between saves.
      keep_last: how many of the newest to keep.
      keep_every: keep also each multiple of this, for ever.
      keep_best: (metric, "min" or "max"): keep also the best by this metric.
      timeout: seconds after which a save that does not end is given up.
      accept: fields, or patterns, in which a resumed config may differ from the run's.
    """

    every: Count
    keep_last: Count = 2
    keep_every: Count | None = None
    keep_best: tuple[str, ...] | None = None
    timeout: Positive = 600.0
    accept: tuple[str, ...] = ()

    def __post_init__(self):
        best = self.keep_best
        if best is not None and (len(best) != 2 or best[1] not in ("min", "max")):
            problem = f"keep_best: {best!r} is not (metric, 'min' or 'max')"
            raise errors.ConfigError(problem)


def retained(
    metrics: Mapping[int, Mapping[str, float | None]], options: CheckpointConfig
) -> set[int]:
    """Which of the steps in `metrics` to keep. A metric that is None is no value."""
    steps = sorted(metrics)
    keep = set(steps[-options.keep_last :])
    if options.keep_every is not None:
        keep |= {step for step in steps if step % options.keep_every == 0}
    if options.keep_best is not None:
        name, mode = options.keep_best
        scored = [
            (m[name], step) for step, m in metrics.items() if m.get(name) is not None
        ]
        if scored:
            keep.add((min if mode == "min" else max)(scored)[1])
    return keep
