# SPDX-License-Identifier: Apache-2.0
"""Means and shares with 95 % intervals: how far a figure depends on the prompts drawn.

Means get percentile bootstrap intervals (Efron and Tibshirani 1993, chapter 13), shares
of yes and no Wilson's (1927), which keep their coverage near 0 and 1. All are functions
of their arguments, the seed among them, and return JSON data.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TypedDict

import numpy as np
from scipy import stats

DRAWS = 2000
LEVEL = 0.95
_BLOCK = 1 << 22  # resampled values that exist at one time


class Interval(TypedDict):
    """A mean, the ends of its 95 % interval, and the number of values behind it."""

    mean: float
    low: float
    high: float
    count: int


def mean(values: Sequence[float], *, seed: int = 0) -> Interval:
    """The mean of values that were drawn alike.

    Raises:
      ValueError: no values.
    """
    return stratified([values], seed=seed)


def stratified(strata: Sequence[Sequence[float]], *, seed: int = 0) -> Interval:
    """The mean of the strata's means, each counting the same, resampled inside each.

    Raises:
      ValueError: no strata, or an empty one.
    """
    arrays = [np.asarray(values, np.float64) for values in strata]
    if not arrays or any(len(array) == 0 for array in arrays):
        raise ValueError("a mean of nothing: every stratum needs a value or more")

    def mean_of_means(*samples, axis=-1):
        return np.mean([sample.mean(axis) for sample in samples], axis=0)

    return _bootstrap(mean_of_means, arrays, seed, sum(map(len, arrays)))


def ratio(
    totals: Sequence[float], weights: Sequence[float], *, seed: int = 0
) -> Interval:
    """The sum of `totals` by that of `weights`, such as nats a token over documents.

    Documents are resampled, not tokens: those of one document are not independent.

    Raises:
      ValueError: no values, or weights that are not all positive.
    """
    arrays = [np.asarray(totals, float), np.asarray(weights, float)]
    if not len(arrays[1]) or (arrays[1] <= 0).any():
        raise ValueError("a ratio needs a positive weight, and at least one")

    def ratio_of_sums(totals, weights, axis=-1):
        return totals.sum(axis) / weights.sum(axis)

    return _bootstrap(ratio_of_sums, arrays, seed, len(arrays[0]), paired=True)


def paired(
    before: Sequence[float], after: Sequence[float], *, seed: int = 0
) -> Interval:
    """The mean of `after - before`, where both are of the same prompts in one order.

    Raises:
      ValueError: no values, or unequal numbers of them.
    """
    if len(before) != len(after):
        raise ValueError(f"{len(before)} values before and {len(after)} after")
    return mean(np.subtract(after, before), seed=seed)


def share(hits: float, count: int, method: str = "wilson") -> Interval:
    """`hits / count`, with Wilson's score interval, or "exact", Clopper and Pearson's.

    Args:
      hits: a tie may be half of one; "exact" needs a whole number.

    Raises:
      ValueError: `count` is below 1, or `hits` is not from 0 to `count`, or not whole.
    """
    if not 0 <= hits <= count or count < 1:
        raise ValueError(f"{hits} of {count} is no share")
    mean = hits / count
    if method == "exact":
        if hits != int(hits):
            raise ValueError(f"{hits} of {count}: the exact interval has no halves")
        ends = stats.binomtest(int(hits), count).proportion_ci(LEVEL, method=method)
        return Interval(
            mean=mean, low=float(ends.low), high=float(ends.high), count=count
        )
    z = float(stats.norm.ppf((1 + LEVEL) / 2))
    half = z * math.sqrt(mean * (1 - mean) / count + (z / count) ** 2 / 4)
    low, high = ((mean + z * z / count / 2 + side) for side in (-half, half))
    low, high = (x / (1 + z * z / count) for x in (low, high))
    ends = {"low": low if hits else 0.0, "high": high if hits < count else 1.0}
    return Interval(mean=mean, **ends, count=count)


def at_most(hits: int, count: int, level: float = LEVEL) -> float:
    """What a share is at most, one-sided and exact: 3 / count where there were no hits.

    Clopper and Pearson (1934), for gates such as "no unsafe answer in 100".

    Raises:
      ValueError: as `share`.
    """
    if not 0 <= hits <= count or count < 1:
        raise ValueError(f"{hits} of {count} is no share")
    test = stats.binomtest(hits, count, alternative="less")
    return float(test.proportion_ci(level, method="exact").high)


def _bootstrap(
    statistic: Callable[..., np.ndarray], arrays, seed: int, count: int, paired=False
) -> Interval:
    middle = float(statistic(*arrays))
    ends = stats.bootstrap(
        # scipy wants two values or more: one is the same as twice that one.
        [np.resize(array, max(2, len(array))) for array in arrays],
        statistic,
        n_resamples=DRAWS,
        batch=max(1, _BLOCK // max(map(len, arrays))),
        vectorized=True,
        paired=paired,
        confidence_level=LEVEL,
        method="percentile",
        rng=np.random.default_rng(seed),
    ).confidence_interval
    # Summed in another order, equal values may differ in the last bit.
    low, high = min(float(ends.low), middle), max(float(ends.high), middle)
    return Interval(mean=middle, low=low, high=high, count=count)
