# SPDX-License-Identifier: Apache-2.0
"""Agreement of raters: two or many, with gaps, on names or on an ordered scale.

Where one label is the rule, such as "safe", kappa may be next to 0 though raters nearly
always agree; so report agreement, kappa and AC1 together.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

import numpy as np

from alignjax.evals import statistics

Scale = Literal["nominal", "ordinal", "interval", "ratio"]
DRAWS = 2000
# Differences of true rewards, by which judges are told apart.
GAPS = (0.3, 1.0, 2.0)


class Two(NamedTuple):
    """How far two raters agree: the share, Cohen's kappa, and Gwet's AC1."""

    agreement: float
    kappa: float
    ac1: float


def two(
    first: Sequence,
    second: Sequence,
    weights: Literal["linear", "quadratic"] | None = None,
) -> Two:
    """The agreement of two raters on the same items (Cohen 1960, Gwet 2008).

    Args:
      first, second: labels; for `weights` numbers or others that sort.
      weights: of disagreements of kappa, by the distance of labels in their order.

    Raises:
      ValueError: no items, or unequal numbers of them.
    """
    if len(first) != len(second) or not len(first):
        raise ValueError(f"{len(first)} and {len(second)} labels")
    labels, codes = np.unique([*first, *second], return_inverse=True)
    a, b, count = codes[: len(first)], codes[len(first) :], len(labels)
    joint = np.zeros((count, count))
    np.add.at(joint, (a, b), 1 / len(a))
    apart = np.abs(np.subtract.outer(np.arange(count), np.arange(count))).astype(float)
    cost = {None: apart > 0, "linear": apart, "quadratic": apart**2}[weights]
    shares = joint.sum(1), joint.sum(0)
    observed, expected = (joint * cost).sum(), (np.outer(*shares) * cost).sum()
    agreed, mean = float(np.trace(joint)), sum(shares) / 2
    by_chance = float((mean * (1 - mean)).sum()) / max(1, count - 1)
    kappa = 1 - observed / expected if expected else 1.0
    return Two(agreed, float(kappa), (agreed - by_chance) / (1 - by_chance))


def fleiss(counts: Sequence[Sequence[int]]) -> float:
    """Fleiss' kappa (1971) of `counts` [items, categories], as many ratings an item.

    Raises:
      ValueError: fewer than two ratings an item, or not as many of each.
    """
    counts = np.asarray(counts, float)
    size = counts.sum(1) if counts.ndim == 2 and counts.size else np.zeros(1)
    if size[0] < 2 or (size != size[0]).any():
        raise ValueError("every item needs as many ratings, two or more")
    agreed = (counts * (counts - 1)).sum(1) / (size * (size - 1))
    expected = np.square(counts.sum(0) / counts.sum()).sum()
    return float((agreed.mean() - expected) / (1 - expected)) if expected < 1 else 1.0


def krippendorff(ratings: Sequence[Sequence[float]], scale: Scale = "nominal") -> float:
    """Krippendorff's alpha (2011) of `ratings` [raters, units]; NaN is no rating.

    Units with one rating say nothing and are left out.

    Raises:
      ValueError: no unit with two ratings.
    """
    values, counts = _counts(ratings)
    return _alpha(counts, _distances(values, counts, scale))


def krippendorff_interval(
    ratings: Sequence[Sequence[float]],
    scale: Scale = "nominal",
    *,
    seed: int = 0,
    draws: int = DRAWS,
) -> statistics.Interval:
    """Krippendorff's alpha with a 95 % interval over units."""
    values, counts = _counts(ratings)
    rng, alphas = np.random.default_rng(seed), []
    for _ in range(draws):
        drawn = counts[rng.integers(len(counts), size=len(counts))]
        alphas.append(_alpha(drawn, _distances(values, drawn, scale)))
    low, high = np.quantile(alphas, [0.025, 0.975])
    alpha = _alpha(counts, _distances(values, counts, scale))
    return statistics.Interval(
        mean=alpha, low=float(low), high=float(high), count=len(counts)
    )


def _counts(ratings) -> tuple[np.ndarray, np.ndarray]:
    """The values that occur, and float [units, values] how often each was given."""
    ratings = np.asarray(ratings, float)
    values = np.unique(ratings[~np.isnan(ratings)])
    counts = (ratings[:, :, None] == values).sum(0).astype(float)
    counts = counts[counts.sum(1) > 1]
    if not len(counts):
        raise ValueError("no unit has two ratings")
    return values, counts


def _distances(values: np.ndarray, counts: np.ndarray, scale: Scale) -> np.ndarray:
    """float [values, values]: the squared distance of each two on a scale."""
    gap: Callable = lambda x: np.subtract.outer(x, x)
    if scale == "ordinal":
        each = counts.sum(0)
        return gap(np.cumsum(each) - each / 2) ** 2
    if scale == "interval":
        return gap(values) ** 2
    if scale == "ratio":
        total = np.add.outer(values, values)
        return (gap(values) / np.where(total == 0, 1.0, total)) ** 2
    return (gap(values) != 0).astype(float)


def _alpha(counts: np.ndarray, distances: np.ndarray) -> float:
    size = counts.sum(1, keepdims=True)
    # Ordered pairs of values in a unit, each unit with the weight of its ratings.
    pairs = np.einsum("uc,uk->ck", counts / (size - 1), counts)
    pairs -= np.diag((counts / (size - 1)).sum(0))
    each, total = counts.sum(0), counts.sum()
    expected = (np.outer(each, each) * distances).sum() / (total - 1)
    return 1 - float((pairs * distances).sum() / expected) if expected else 1.0


def with_truth(judgements: Sequence[float], gaps: Sequence[float]) -> list[dict]:
    """How often a judge prefers what is truly better, by how much better it is.

    Args:
      judgements: in favour of the first response, 1/2 for a tie; of a pair that was
        judged in both orders their mean, since it is one pair.
      gaps: true reward of the first response less that of the second.

    Returns:
      A row for each bin between `GAPS`: `over`, its lower edge, and the share with its
      interval, a tie half. Pairs of equal rewards are left out.
    """
    gaps, judged = np.asarray(gaps, float), np.asarray(judgements, float)
    right = np.where(gaps > 0, judged, 1 - judged)
    bins, rows = np.digitize(np.abs(gaps), GAPS), []
    for i, edge in enumerate((0.0, *GAPS)):
        here = right[(bins == i) & (gaps != 0)]
        if len(here):
            votes = float((np.sign(here - 0.5) + 1).sum() / 2)
            rows.append({"over": edge, **statistics.share(votes, len(here))})
    return rows
