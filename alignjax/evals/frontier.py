# SPDX-License-Identifier: Apache-2.0
"""Reward at equal divergence: curves of runs, and their difference at one KL.

Losses differ first of all in how far they walk from the reference. Reward grows about
as the root of KL near it (Gao et al. 2022, arXiv:2210.10760), so curves are read along
that, and never beyond their points.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from alignjax.evals import differences

MOST_OUTSIDE = 0.05  # of draws


class Curve(NamedTuple):
    """Points of an arm's runs: at each the KL and the reward of every prompt.

    Attributes:
      kl, gold: float [S, J, P], of run s at its point j on prompt p.
    """

    kl: np.ndarray
    gold: np.ndarray


def height(kl_J: Sequence[float], gold_J: Sequence[float], at: float) -> float:
    """The reward of a curve at a KL; NaN where that is outside of its points."""
    order = np.argsort(kl_J, kind="stable")
    kl_J, gold_J = np.asarray(kl_J, float)[order], np.asarray(gold_J, float)[order]
    if not max(kl_J[0], 0.0) <= at <= kl_J[-1]:
        return float("nan")
    # An estimate of KL that is next to 0 may be below it.
    return float(np.interp(np.sqrt(at), np.sqrt(np.maximum(kl_J, 0.0)), gold_J))


def mean_height(
    kl_J: Sequence[float], gold_J: Sequence[float], low: float, high: float
) -> float:
    """The mean reward of a curve between two KLs, over the root of KL."""
    inside = [k for k in kl_J if low < k < high]
    ats = np.sqrt(sorted([low, *inside, high]))
    heights = [height(kl_J, gold_J, at) for at in (low, *sorted(inside), high)]
    return float(np.trapezoid(heights, ats) / (ats[-1] - ats[0]))


def matched(
    a: Curve,
    b: Curve,
    at: float,
    clusters_P: Sequence | None = None,
    *,
    draws: int = differences.DRAWS,
) -> differences.Difference:
    """The reward of `a` less that of `b` at one KL, by one joint bootstrap.

    Each draw takes runs of both arms and prompts, the same for all points of both, and
    computes all KLs and rewards anew: they depend on the same prompts.

    Raises:
      ValueError: the KL is outside of the points of an arm, or of more than 5 % of its
        draws.
    """
    groups_P = differences.groups(clusters_P, a.kl.shape[-1])
    keys = [arm.kl.tobytes() + arm.gold.tobytes() for arm in (a, b)]
    both = b"prompts" + b"".join(sorted(keys))
    (estimate_a, drawn_a_W), (estimate_b, drawn_b_W) = (
        _heights(name, arm, at, groups_P, (key, both), draws)
        for name, arm, key in zip(("first", "second"), (a, b), keys, strict=True)
    )
    drawn_W = drawn_a_W - drawn_b_W
    return differences.by_draws(estimate_a - estimate_b, drawn_W[~np.isnan(drawn_W)])


def _heights(name, arm: Curve, at, groups_P, seeds, draws: int):
    """The height of an arm's curve, and float [W] that of each draw."""
    kl_J, gold_J = (x_SJP.mean((0, 2)) for x_SJP in arm)
    estimate, count = height(kl_J, gold_J, at), len(kl_J)
    points = [x_SP for x_SJP in arm for x_SP in np.moveaxis(x_SJP, 1, 0)]
    drawn_NW = differences.resampled(
        [
            differences.sums(differences.widened(x_SP, groups_P), groups_P)
            for x_SP in points
        ],
        np.bincount(groups_P),
        *seeds,
        draws,
    )
    drawn_W = np.array([height(d[:count], d[count:], at) for d in drawn_NW.T])
    if np.isnan(estimate) or np.isnan(drawn_W).mean() > MOST_OUTSIDE:
        raise ValueError(
            f"a KL of {at:g} is outside of the {name} arm's points, {min(kl_J):.3g} to "
            f"{max(kl_J):.3g}, or of those of more than 5 % of its draws"
        )
    return estimate, drawn_W
