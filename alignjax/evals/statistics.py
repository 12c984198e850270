# SPDX-License-Identifier: Apache-2.0
"""Means with intervals: what a number could have been on other prompts.

Means of measurements get percentile bootstrap intervals (Efron and Tibshirani 1993,
chapter 13), shares of yes and no Wilson's (1927), which stay honest at none and at all.
Everything is numpy and a function of its arguments, the seed among them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

DRAWS = 2000
LEVEL = 0.95
_NORMAL = 1.959963984540054  # the two-sided 95 % point of a standard normal
_BLOCK = 1 << 22  # resampled values that exist at one time


class Interval(NamedTuple):
    """A mean, the ends of its 95 % interval, and how many values it is of."""

    mean: float
    low: float
    high: float
    count: int

    @property
    def nonzero(self) -> bool:
        """Whether the interval leaves out zero."""
        return self.low > 0 or self.high < 0


def mean(values: Sequence[float], *, seed: int = 0, draws: int = DRAWS) -> Interval:
    """The mean of values that were drawn alike.

    Raises:
      ValueError: there are none.
    """
    return stratified([values], seed=seed, draws=draws)


def stratified(
    strata: Sequence[Sequence[float]], *, seed: int = 0, draws: int = DRAWS
) -> Interval:
    """The mean of the strata's means, each counting the same, resampled inside each.

    Raises:
      ValueError: there is no stratum, or an empty one.
    """
    arrays = [np.asarray(values, np.float64) for values in strata]
    if not arrays or any(len(array) == 0 for array in arrays):
        raise ValueError("a mean of nothing: every stratum needs a value or more")
    rng = np.random.default_rng(seed)
    means_N = np.zeros(draws)
    for array in arrays:
        means_N += _resampled(rng, array[:, None], draws)[:, 0] / len(array)
    middle = float(np.mean([array.mean() for array in arrays]))
    return _interval(middle, means_N / len(arrays), sum(map(len, arrays)))


def ratio(
    totals: Sequence[float],
    weights: Sequence[float],
    *,
    seed: int = 0,
    draws: int = DRAWS,
) -> Interval:
    """The sum of `totals` by that of `weights`, such as nats a token over documents.

    Documents are resampled, not tokens: those of one document are not independent.

    Raises:
      ValueError: there are none, or their weights are not all positive.
    """
    both = np.stack([np.asarray(totals, float), np.asarray(weights, float)], axis=1)
    if not len(both) or (both[:, 1] <= 0).any():
        raise ValueError("a ratio needs a positive weight, and at least one")
    sums_N2 = _resampled(np.random.default_rng(seed), both, draws)
    middle = float(both[:, 0].sum() / both[:, 1].sum())
    return _interval(middle, sums_N2[:, 0] / sums_N2[:, 1], len(both))


def paired(
    before: Sequence[float],
    after: Sequence[float],
    *,
    seed: int = 0,
    draws: int = DRAWS,
) -> Interval:
    """The mean of `after - before`, where both are of the same prompts in one order.

    Raises:
      ValueError: there are none, or not as many of the one as of the other.
    """
    if len(before) != len(after):
        raise ValueError(f"{len(before)} values before and {len(after)} after")
    change = np.asarray(after, float) - np.asarray(before, float)
    return mean(change, seed=seed, draws=draws)


def share(hits: int, count: int) -> Interval:
    """How often something happened, with Wilson's score interval.

    Raises:
      ValueError: it could not have happened at all, or happened too often.
    """
    if not 0 <= hits <= count or count < 1:
        raise ValueError(f"{hits} of {count} is no share")
    p, z2 = hits / count, _NORMAL**2
    scale = 1 + z2 / count
    center = (p + z2 / (2 * count)) / scale
    half = _NORMAL / scale * math.sqrt(p * (1 - p) / count + z2 / (4 * count**2))
    # The ends are exact at none and at all, where rounding would leave a crumb.
    low = 0.0 if hits == 0 else center - half
    high = 1.0 if hits == count else center + half
    return Interval(p, low, high, count)


def _resampled(rng: np.random.Generator, rows_NK: np.ndarray, draws: int):
    """float64 [draws, K]: sums of as many rows, drawn with replacement."""
    n, sums = len(rows_NK), []
    size = max(1, _BLOCK // n)
    for start in range(0, draws, size):
        picks = rng.integers(n, size=(min(size, draws - start), n))
        sums.append(rows_NK[picks].sum(axis=1))
    return np.concatenate(sums)


def _interval(middle: float, resampled_N: np.ndarray, count: int) -> Interval:
    tail = (1 - LEVEL) / 2
    low, high = np.quantile(resampled_N, [tail, 1 - tail])
    # Summed in another order, equal values may differ in the last bit.
    return Interval(middle, min(float(low), middle), max(float(high), middle), count)
