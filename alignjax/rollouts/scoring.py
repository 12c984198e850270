# SPDX-License-Identifier: Apache-2.0
"""Rewards of drawn responses, the same on every process, and their figures."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from alignjax import errors, rewards
from alignjax.distributed import multihost
from alignjax.rollouts import drawing

# A larger reward is none: float32 has to hold the sum of the squares of a rollout's.
LARGEST = 1e15


def score(
    named: Sequence[rewards.Named], responses: Sequence[rewards.Response]
) -> rewards.Scored:
    """See `rewards.score`; every process has the scores that process 0 came to.

    A function that is too slow or a judge that is asked again may answer otherwise on
    another process; a line says how often.

    Raises:
      DataError: as `rewards.score`, on every process if on one.
    """
    with multihost.all_or_none("rollouts.rewards", errors.DataError):
        scored = rewards.score(named, responses)
    own_RN = np.array([_floats(x) for x in (scored.total, *scored.parts.values())])
    first_RN = multihost.array_from_primary(own_RN)
    same_RN = (own_RN == first_RN) | (np.isnan(own_RN) & np.isnan(first_RN))
    faults = list(scored.faults)
    if others := multihost.total(int((~same_RN).any(0).sum())):
        faults.append(
            f"rewards: {others} scores of other processes differ from those of process "
            "0, which count"
        )
    if beyond := int((np.abs(first_RN) > LARGEST).any(0).sum()):
        faults.append(f"rewards: {beyond} beyond {LARGEST:g} count as none")
    values = [[None if np.isnan(x) else float(x) for x in row] for row in first_RN]
    total, *parts = values
    return rewards.Scored(total, dict(zip(scored.parts, parts, strict=True)), faults)


def numbers(values: Sequence[float | None]) -> np.ndarray:
    """float64; NaN where there is no reward, or one beyond `LARGEST`."""
    numbers_N = _floats(values)
    return np.where(np.abs(numbers_N) <= LARGEST, numbers_N, np.nan)


def _floats(values: Sequence[float | None]) -> np.ndarray:
    return np.array([np.nan if x is None else x for x in values], np.float64)


def figures(scored: rewards.Scored, drawn: drawing.Drawn) -> dict[str, float]:
    """Means over the responses: rewards, their parts, lengths, and how many ended."""
    total_N = numbers(scored.total)
    lengths_N = np.array([len(ids) for ids in drawn.ids])
    means = {
        "length": float(lengths_N.mean()),
        "finished": float(drawn.finished.mean()),
        "unscored": float(np.isnan(total_N).mean()),
    }
    named = {"reward": total_N}
    named |= {f"reward/{name}": numbers(x) for name, x in scored.parts.items()}
    for name, values_N in named.items():
        if np.isfinite(values_N).any():
            means[name] = float(np.nanmean(values_N))
    if np.isfinite(total_N).any():
        means["reward/std"] = float(np.nanstd(total_N))
    return means
