# SPDX-License-Identifier: Apache-2.0
"""Figures of scored pairs: calibration, and a bias to length.

A gap is the chosen response's score less the rejected one's. The sigmoid of a gap is
the probability that the chosen one is preferred (Bradley and Terry 1952), of rewards as
of the implicit rewards beta (log p - log p_ref) of Rafailov et al. (arXiv:2305.18290).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from scipy import optimize, special

from alignjax.evals import statistics

BINS = 10


def wins(gaps_N: Sequence[float]) -> np.ndarray:
    """float [N]: 1 where the chosen response has the higher score, 1/2 for a tie."""
    return (1 + np.sign(np.asarray(gaps_N, float))) / 2


def losses(gaps_N: Sequence[float]) -> np.ndarray:
    """float [N]: nats, -log of the probability of the choice; log 2 is chance."""
    return np.logaddexp(0.0, -np.asarray(gaps_N, float))


def calibration(gaps_N: Sequence[float], *, seed: int = 0) -> dict[str, Any]:
    """How often the first of two responses was chosen, by the probability of it.

    Pairs are stored with the chosen response first, and in that order every model would
    look unsure of itself; so the order is drawn at random.

    Returns:
      calibration: of each bin of probabilities `predicted`, their mean, and `chosen`,
        a share with its interval.
      ece: the mean distance of the two, weighted by pairs.
      nll: nats per pair.
    """
    gaps_N = np.asarray(gaps_N, float)
    first = np.random.default_rng(seed).random(len(gaps_N)) < 0.5
    predicted = special.expit(np.where(first, gaps_N, -gaps_N))
    bins = np.minimum((predicted * BINS).astype(int), BINS - 1)
    curve, error = [], 0.0
    for i in np.unique(bins):
        here = bins == i
        share = statistics.share(int(first[here].sum()), int(here.sum()))
        mean = float(predicted[here].mean())
        error += here.mean() * abs(share["mean"] - mean)
        curve.append({"predicted": mean, "chosen": share})
    nll = float(losses(gaps_N).mean())
    return {"calibration": curve, "ece": float(error), "nll": nll}


class Slope(NamedTuple):
    """The factor of gaps that makes the pairs likeliest, with its 95 % interval.

    Below 1 the probabilities are too sure of themselves, above 1 not sure enough.
    """

    slope: float
    low: float
    high: float


def slope(gaps_N: Sequence[float]) -> Slope | None:
    """Minimises sum log(1 + exp(-s gap)) over s; None where no finite s does.

    That is so where every pair is right, or every one is wrong.
    """
    gaps_N = np.asarray(gaps_N, float)
    if not (gaps_N > 0).any() or not (gaps_N < 0).any():
        return None
    gaps_N, scale = gaps_N / (size := np.abs(gaps_N).max()), size
    gradient = lambda s: float((gaps_N * special.expit(-s * gaps_N)).sum())
    end = 1.0
    while gradient(end) > 0 or gradient(-end) < 0:
        end *= 2
    s = optimize.brentq(gradient, -end, end, xtol=1e-12)
    p_N = special.expit(s * gaps_N)
    error = 1 / math.sqrt((gaps_N**2 * p_N * (1 - p_N)).sum())
    half = float(special.ndtri(0.975)) * error
    return Slope(*(float(x / scale) for x in (s, s - half, s + half)))


def longer_wins(
    gaps_N: Sequence[float], chosen_N: Sequence[int], rejected_N: Sequence[int]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Whether the longer response wins, of pairs of unequal length.

    Args:
      gaps_N: of scores.
      chosen_N, rejected_N: lengths of the responses, in one unit.

    Returns:
      The indices of those pairs; whether the scores prefer the longer one, 1/2 for a
      tie; whether it was chosen. Where the first mean is above the second the scores
      pay for length more than people did.
    """
    longer_N = np.asarray(chosen_N) - np.asarray(rejected_N)
    unequal = np.flatnonzero(longer_N)
    sign = np.sign(longer_N[unequal])
    scores = wins(sign * np.asarray(gaps_N, float)[unequal])
    return unequal, scores, (1 + sign) / 2
