# SPDX-License-Identifier: Apache-2.0
"""A figure of a run as values by prompt: its mean, and its difference from another's.

A value is the mean over the answers to a prompt. Intervals of 95 % are over prompts,
cluster-robust where prompts are alike, so they are of a checkpoint, not of a loss.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple, TypedDict

import numpy as np

from alignjax.evals import differences, statistics


class Interval(TypedDict):
    """A mean and its interval, whose ends are None where one prompt has it all."""

    mean: float
    low: float | None
    high: float | None
    count: int


class Values(NamedTuple):
    """A figure by prompt.

    Attributes:
      totals: of each prompt that has the figure.
      weights: where the figure is the sum of `totals` by the sum of these, such as bits
        by bytes; by default the mean of `totals`.
      clusters: of prompts that are alike; a prompt that is not here is its own.
      share: whether it lies between 0 and 1.
    """

    totals: Mapping[int, float]
    weights: Mapping[int, float] | None = None
    clusters: Mapping[int, str] = {}
    share: bool = False

    def groups(self, prompts: Sequence[int]) -> list[str]:
        """The cluster of each prompt."""
        return [str(self.clusters.get(p, f"prompt {p}")) for p in prompts]


def interval(values: Values) -> Interval | None:
    """The mean and its interval; None without a prompt.

    Shares of yes and no get Wilson's, all others t, ratios by the delta method.
    """
    prompts = sorted(values.totals)
    if not prompts:
        return None
    mean, residuals_P = _mean(values, prompts)
    groups = values.groups(prompts)
    count = len(set(groups))
    out = Interval(mean=mean, low=None, high=None, count=len(prompts))
    if count < 2:
        return out
    plain = values.share and {*values.totals.values()} <= {0.0, 1.0}
    if plain and (count == len(prompts) or mean in (0.0, 1.0)):
        ends = statistics.share(round(mean * count), count)
        return out | {"low": ends["low"], "high": ends["high"]}
    spread = differences.over_prompts(residuals_P, groups)
    low, high = mean + spread.low, mean + spread.high
    if values.share:
        low, high = max(low, 0.0), min(high, 1.0)
    return out | {"low": low, "high": high}


def difference(base: Values, values: Values) -> Interval | None:
    """`values` less `base` on the prompts that both have; None where none is shared."""
    prompts = sorted(set(base.totals) & set(values.totals))
    if not prompts:
        return None
    (was, before_P), (now, after_P) = (_mean(v, prompts) for v in (base, values))
    out = Interval(mean=now - was, low=None, high=None, count=len(prompts))
    groups = values.groups(prompts)
    if len(set(groups)) < 2:
        return out
    spread = differences.over_prompts(after_P - before_P, groups)
    low, high = now - was + spread.low, now - was + spread.high
    if values.share:
        low, high = max(low, -1.0), min(high, 1.0)
        if abs(now - was) == 1.0:  # of every prompt, which leaves no spread
            least = statistics.share(count := len(set(groups)), count)["low"]
            low, high = sorted((now - was, (now - was) * least))
    return out | {"low": low, "high": high}


def exponential(figure: Interval | None) -> Interval | None:
    """The interval of the exponential, such as of nats a token as perplexity."""
    if figure is None:
        return None
    ends = {k: figure[k] for k in ("mean", "low", "high")}
    return figure | {k: None if x is None else _exp(x) for k, x in ends.items()}


def _exp(x: float) -> float:
    return math.exp(min(x, 700.0))  # beyond it is no float


def _mean(values: Values, prompts: Sequence[int]) -> tuple[float, np.ndarray]:
    """The figure, and each prompt's influence on it, whose mean is 0."""
    totals_P = np.array([values.totals[p] for p in prompts], float)
    if values.weights is None:
        mean = float(totals_P.mean())
        return mean, totals_P - mean
    weights_P = np.array([values.weights[p] for p in prompts], float)
    if weights_P.sum() <= 0:
        raise ValueError("a ratio needs a positive weight")
    mean = float(totals_P.sum() / weights_P.sum())
    return mean, (totals_P - mean * weights_P) / weights_P.mean()
