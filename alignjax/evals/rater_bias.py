# SPDX-License-Identifier: Apache-2.0
"""Biases of a rater, fitted with the true reward as the control.

logit P(first) = position + truth * gap of true rewards + further gaps of length,
politeness, certainty ..., over pairs in random order. The weight of a gap by that of
truth is its price in reward.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from alignjax.evals import logistic

POSITION, TRUTH = "position", "truth"


class Bias(NamedTuple):
    """What moves a rater.

    Attributes:
      weights, errors: in logits and by name, "position" and "truth" among them; of a
        gap in the unit that it was given in.
      prices: of each further gap, its weight by that of the truth, in true reward; NaN
        where the truth has none.
    """

    weights: dict[str, float]
    errors: dict[str, float]
    prices: dict[str, float]


def fit(
    choices: Sequence[float],
    truth: Sequence[float],
    gaps: Mapping[str, Sequence[float]] | None = None,
    *,
    counts: Sequence[float] | None = None,
    l2: float = 0.0,
) -> Bias:
    """The weights by which a rater chose.

    Args:
      choices: probabilities that the first of two was chosen, or 1, 0 and 1/2.
      truth: the gap of true rewards, first less second.
      gaps: further ones by name; divide them by their deviation to compare weights.
      counts: how much each counts: 1/2 where a pair was judged in both orders, which
        are not two pairs.
      l2: a penalty on all but the position.

    Raises:
      ValueError: choices that the columns separate, where there is no penalty.
    """
    names = [POSITION, TRUTH, *(gaps or {})]
    columns = np.stack([truth, *(gaps or {}).values()], axis=1)
    counts_WN = None if counts is None else np.asarray(counts, float)[None]
    fitted = logistic.fit(columns, np.asarray(choices), l2=l2, counts_WN=counts_WN)
    if not fitted.converged_W[0]:
        raise ValueError("these columns separate the choices: give an l2, such as 1")
    weights = dict(zip(names, fitted.weights_WK[0].tolist(), strict=True))
    variances = np.diag(fitted.covariance_WKK[0]).tolist()
    errors = dict(zip(names, map(math.sqrt, variances), strict=True))
    price = lambda weight: weight / weights[TRUTH] if weights[TRUTH] else math.nan
    prices = {name: price(weights[name]) for name in gaps or {}}
    return Bias(weights, errors, prices)


class Levels(NamedTuple):
    """What moves the levels that a rater gives by one criterion.

    Attributes:
      weights, errors: by name, "position" among them, in shares of the criterion's
        span; of a gap in the unit that it was given in.
    """

    weights: dict[str, float]
    errors: dict[str, float]


def of_levels(
    levels: Sequence[float],
    gaps: Mapping[str, Sequence[float]],
    *,
    counts: Sequence[float] | None = None,
) -> Levels:
    """Least squares of the gap of two responses' levels, over pairs in random order.

    Args:
      levels: first less second, in shares of the span, from -1 to 1.
      gaps: by name, first less second, such as of the true reward and of length.
      counts: how much each counts, as of `fit`.

    Raises:
      ValueError: gaps that are no columns of their own, or too few pairs.
    """
    names = [POSITION, *gaps]
    y = np.asarray(levels, float)
    X = np.stack([np.ones(len(y)), *gaps.values()], axis=1)
    counts = np.ones(len(y)) if counts is None else np.asarray(counts, float)
    if np.linalg.matrix_rank(X) < len(names) or counts.sum() <= len(names):
        raise ValueError(f"{len(y)} pairs do not tell {', '.join(names)} apart")
    inverse = np.linalg.inv(X.T @ (counts[:, None] * X))
    weights = inverse @ (X.T @ (counts * y))
    variance = (counts * (y - X @ weights) ** 2).sum() / (counts.sum() - len(names))
    errors = np.sqrt(variance * np.diag(inverse))
    named = lambda values: dict(zip(names, values.tolist(), strict=True))
    return Levels(named(weights), named(errors))


class SelfPreference(NamedTuple):
    """How much oftener a judge picks its own than another's better response."""

    gap: float
    error: float


def self_preference(
    own_picked: int, own_better: int, other_picked: int, other_better: int
) -> SelfPreference:
    """Self-preference as unequal opportunity (Wataoka et al. 2024, arXiv:2410.21819).

    Args:
      own_picked: of `own_better` pairs, in which the judge's own response is better by
        the true reward, those in which it was picked.
      other_picked, other_better: the same of pairs in which the other one is better.

    Raises:
      ValueError: no pairs of a kind.
    """
    if min(own_better, other_better) < 1:
        raise ValueError(f"{own_better} and {other_better} pairs; 1 each is the fewest")
    own, other = own_picked / own_better, other_picked / other_better
    variance = own * (1 - own) / own_better + other * (1 - other) / other_better
    return SelfPreference(own - other, math.sqrt(variance))
