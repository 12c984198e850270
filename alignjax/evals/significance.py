# SPDX-License-Identifier: Apache-2.0
"""p-values without a distribution, corrections for many of them, and equivalence.

"No significant difference" is not "no difference": `equivalence` and `non_inferiority`
put the burden of proof where a gate needs it.
"""

from __future__ import annotations

import hashlib
import math
import warnings
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy import integrate, special, stats

from alignjax.evals import differences

EXACT = 20  # differences of which all ways to flip the signs are counted
SPLITS = 50_000  # of runs into two arms, up to which all are counted
DRAWS = 10_000  # beyond these
_BLOCK = 1 << 22  # signs that exist at one time


def sign_flips(differences: Sequence[float]) -> float:
    """p of the mean of paired differences, each as likely to have the other sign.

    Exact up to 20 differences, (1 + hits) / (1 + draws) beyond, seeded by the values.
    """
    d_N = np.asarray(differences, float)
    d_N = d_N[np.argsort(np.abs(d_N), kind="stable")]
    d_N = d_N[d_N != 0]
    sizes_N = np.abs(d_N)
    # Sums of the same numbers in another order may differ in their last bits.
    least = abs(float(d_N.sum())) - 1e-12 * float(sizes_N.sum())
    if d_N.size <= EXACT:
        totals = np.zeros(1)
        for size in sizes_N:
            totals = np.concatenate([totals + size, totals - size])
        return float((np.abs(totals) >= least).mean())
    rng = np.random.default_rng(list(hashlib.sha256(sizes_N.tobytes()).digest()))
    hits, block = 0, max(1, _BLOCK // sizes_N.size)
    for start in range(0, DRAWS, block):
        shape = min(block, DRAWS - start), sizes_N.size
        ups_W = rng.integers(0, 2, shape, np.int8) @ sizes_N
        hits += int((np.abs(2 * ups_W - sizes_N.sum()) >= least).sum())
    return (1 + hits) / (1 + DRAWS)


def signed_ranks(differences: Sequence[float]) -> float:
    """p of Wilcoxon's signed ranks; zeros count half to each side ("zsplit")."""
    d = np.asarray(differences, float)
    return float(stats.wilcoxon(d, zero_method="zsplit", method="auto").pvalue)


def exact_runs(a: Sequence[float], b: Sequence[float], *, paired: bool) -> float:
    """p of the difference of means over all splits of runs, or flips of paired ones.

    See `smallest_p` for how small it can be. Exact up to 50,000 splits, of 9 runs a
    side.
    """
    if paired:
        return sign_flips(np.subtract(a, b))
    # In one order, so that neither that of arms nor that of runs matters to draws.
    arms = sorted(
        (np.sort(np.asarray(x, float)) for x in (a, b)), key=np.ndarray.tolist
    )
    splits = math.comb(len(a) + len(b), len(a))
    test = stats.permutation_test(
        arms,
        lambda x, y, axis: x.mean(axis) - y.mean(axis),
        permutation_type="independent",
        vectorized=True,
        n_resamples=splits if splits <= SPLITS else DRAWS,
        rng=np.random.default_rng(0),
    )
    return float(test.pvalue)


def smallest_p(runs: int, *, paired: bool) -> float:
    """The smallest two-sided p that an exact test over so many runs a side can have."""
    return min(1.0, 2 / (2**runs if paired else math.comb(2 * runs, runs)))


class McNemar(NamedTuple):
    """p of discordant pairs, exact and with half the weight of what was observed."""

    exact: float
    mid: float


def mcnemar(only_first: int, only_second: int) -> McNemar:
    """Whether, of pairs that differ, the first is right as often as the second.

    Raises:
      ValueError: no pair that differs.
    """
    count, fewer = only_first + only_second, min(only_first, only_second)
    if count < 1 or fewer < 0:
        raise ValueError(f"{only_first} and {only_second} pairs that differ")
    exact = float(stats.binomtest(fewer, count).pvalue)
    mid = 2 * float(
        stats.binom.cdf(fewer, count, 0.5) - stats.binom.pmf(fewer, count, 0.5) / 2
    )
    return McNemar(exact, min(1.0, mid))


def holm(ps: Sequence[float]) -> list[float]:
    """p-values adjusted for their number (Holm 1979), in the order given.

    For rates of false discoveries there is `scipy.stats.false_discovery_control`, and
    for arms against one baseline `scipy.stats.dunnett` over means of runs.
    """
    ps = np.asarray(ps, float)
    order = np.argsort(ps, kind="stable")
    steps = (len(ps) - np.arange(len(ps))) * ps[order]
    adjusted = np.empty(len(ps))
    adjusted[order] = np.minimum(1.0, np.maximum.accumulate(steps))
    return adjusted.tolist()


def dunnett(control: Sequence[float], *arms: Sequence[float]) -> list[float]:
    """p of each arm's mean against one control's, for all of them (Dunnett 1955).

    scipy integrates with random points, whose error exceeds a small p; so a p is held
    between that of the arm alone and Bonferroni's, as its definition has it.

    Args:
      control, arms: means of runs, two or more of each.
    """
    with warnings.catch_warnings():  # of arms whose runs are all equal
        warnings.simplefilter("ignore", RuntimeWarning)
        test = stats.dunnett(*arms, control=control, rng=np.random.default_rng(0))
        freedom = sum(map(len, (control, *arms))) - len(arms) - 1
        alone = 2 * stats.t.sf(np.abs(test.statistic), freedom)
    bounded = test.pvalue.clip(alone, np.minimum(1.0, len(arms) * alone))
    # Of arms whose runs are all equal there is no p alone.
    return np.where(np.isnan(alone), test.pvalue, bounded).tolist()


def non_inferiority(difference: differences.Difference, margin: float) -> float:
    """p that the first arm is worse than the second by the margin or more."""
    return _tail(difference, difference.estimate + margin)


def equivalence(difference: differences.Difference, low: float, high: float) -> float:
    """p that a difference is outside of (low, high): two one-sided tests, "TOST".

    Raises:
      ValueError: `low` is not below `high`.
    """
    if not low < high:
        raise ValueError(f"no margin between {low} and {high}")
    middle = difference.estimate
    return max(_tail(difference, middle - low), _tail(difference, high - middle))


def _tail(difference: differences.Difference, distance: float) -> float:
    if difference.error == 0:
        return float(distance <= 0)
    freedom = math.inf if difference.freedom is None else difference.freedom
    return float(special.stdtr(freedom, -distance / difference.error))


def best_of(count: int) -> float:
    """How far the best of `count` equal estimates lies above them, in standard errors.

    The mean of the largest of so many normal draws: what a sweep's winner owes to luck.
    """
    density = lambda x: x * count * stats.norm.pdf(x) * stats.norm.cdf(x) ** (count - 1)
    return float(integrate.quad(density, -12, 12, epsabs=1e-12, limit=200)[0])
