# SPDX-License-Identifier: Apache-2.0
"""How many prompts a comparison needs, and the difference that it could detect."""

from __future__ import annotations

import math

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


def runs_detectable(spread: float, runs: int, **options: float) -> float:
    """The least difference of two arms that Student's t over runs detects.

    Args:
      spread: the standard deviation between runs of an arm.
      runs: of each arm, two or more.
    """
    return detectable(spread * math.sqrt(2 / runs), 2 * runs - 2, **options)
