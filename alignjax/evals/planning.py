# SPDX-License-Identifier: Apache-2.0
"""How many prompts a comparison needs, and the difference that it could detect."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy import optimize, stats


def z_sum(power: float = 0.8, alpha: float = 0.05) -> float:
    """Standard errors that a difference must have to be detected with this power."""
    return float(stats.norm.ppf(1 - alpha / 2) + stats.norm.ppf(power))


def detectable(
    error: float,
    freedom: float | None = None,
    *,
    power: float = 0.8,
    alpha: float = 0.05,
) -> float:
    """The least difference that an estimate with this standard error detects.

    Args:
      freedom: degrees of freedom of its t; None for a normal one.
    """
    if freedom is None or not math.isfinite(freedom):
        return z_sum(power, alpha) * error
    limit = stats.t.ppf(1 - alpha / 2, freedom)
    short = lambda x: stats.nct.sf(limit, freedom, x) - power
    return error * float(optimize.brentq(short, 0.0, 4 * limit))


class Variances(NamedTuple):
    """The variance of a figure between prompts, and of answers within a prompt."""

    between: float
    within: float


def variances(answers_PK: Sequence[Sequence[float]]) -> Variances:
    """What `prompts_needed` needs, from K answers to each prompt, of a pilot.

    The variance of prompts' means is `between` + `within` / K; where it is less than
    `within` / K, nothing is left between prompts.

    Raises:
      ValueError: fewer than two prompts, or two answers to each.
    """
    x_PK = np.asarray(answers_PK, float)
    if x_PK.ndim != 2 or min(x_PK.shape) < 2:
        raise ValueError(f"{x_PK.shape} answers; 2 to each of 2 prompts are the fewest")
    within = float(x_PK.var(axis=1, ddof=1).mean())
    between = float(x_PK.mean(1).var(ddof=1)) - within / x_PK.shape[1]
    return Variances(max(0.0, between), within)


def prompts_needed(
    difference: float,
    between: float,
    within: tuple[float, float] = (0.0, 0.0),
    samples: tuple[int, int] = (1, 1),
    **options: float,
) -> float:
    """Prompts to detect a paired difference (Miller 2024, arXiv:2411.00640, Eq. 9).

    Args:
      difference: to be detected.
      between: the variance between prompts of the difference of their means.
      within: the variance of answers to a prompt, of each arm.
      samples: answers to a prompt, of each arm.
    """
    noise = sum(v / k for v, k in zip(within, samples, strict=True))
    return z_sum(**options) ** 2 * (between + noise) / difference**2


def pairs_needed(rate: float, *, power: float = 0.8, alpha: float = 0.05) -> float:
    """Pairs, judged once and without ties, that tell a win rate from 1/2.

    The score test of one share, whose variance is 1/4 where nobody is better.

    Raises:
      ValueError: a rate of 1/2, or that is none.
    """
    if not 0 <= rate <= 1 or rate == 0.5:
        raise ValueError(f"{rate} is no win rate other than 1/2")
    error = stats.norm.ppf(1 - alpha / 2) / 2
    error += stats.norm.ppf(power) * math.sqrt(rate * (1 - rate))
    return float((error / (rate - 0.5)) ** 2)


def runs_detectable(spread: float, runs: int, **options: float) -> float:
    """The least difference of two arms that Student's t over runs detects.

    Args:
      spread: the standard deviation between runs of an arm.
      runs: of each arm, two or more.
    """
    return detectable(spread * math.sqrt(2 / runs), 2 * runs - 2, **options)
