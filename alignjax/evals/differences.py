# SPDX-License-Identifier: Apache-2.0
"""Differences of two arms, with the interval that the claim asks for.

Two checkpoints differ by `over_prompts`: other prompts of the kind might have been
drawn. Two losses differ by `over_runs` or `crossed`: other runs might have been
trained, and an interval over prompts says nothing of them. All are antisymmetric to the
last bit, and draws are seeded by the values, so that no order of arms matters.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy import special

LEVEL = 0.95
# One more than a multiple of 40, so that the ends of the interval are values drawn.
DRAWS = 4001
_BLOCK = 1 << 22  # counts that exist at one time
FEW_CLUSTERS = 15  # fewer make their robust errors too small


class Difference(NamedTuple):
    """A mean difference and its 95 % interval.

    Attributes:
      estimate, low, high: of the difference.
      error: the standard error.
      p: two-sided, that there is no difference.
      freedom: degrees of freedom of t, or None for a bootstrap.
    """

    estimate: float
    low: float
    high: float
    error: float
    p: float
    freedom: float | None


def over_prompts(
    differences_P: Sequence[float], clusters_P: Sequence | None = None
) -> Difference:
    """The mean of paired differences, by t; cluster-robust where prompts have clusters.

    The error of clusters is that of Liang and Zeger (1986) times G / (G - 1), "CR1",
    with G - 1 degrees of freedom; clusters of one prompt each give the common paired t.
    Fewer than 15 clusters are resampled instead, with their deviations widened as
    `crossed` widens those of runs; p is that of t where it is larger, since draws of
    two or three clusters have next to no tails.

    Raises:
      ValueError: fewer than two prompts or clusters.
    """
    d_P = np.asarray(differences_P, float)
    groups_P = groups(clusters_P, len(d_P))
    count, size = int(groups_P.max(initial=-1)) + 1, len(d_P)
    if count < 2:
        raise ValueError(f"{count} prompts or clusters of them; 2 are the fewest")
    by_t = _by_t(float(d_P.mean()), _clustered_error(d_P, groups_P), count - 1)
    if not _are_few(groups_P):
        return by_t
    drawn = crossed(d_P[None], np.zeros((1, size)), groups_P)
    return drawn._replace(p=max(drawn.p, by_t.p))


def of_means(means_S: Sequence[float]) -> Difference:
    """The mean over runs, by Student's t, from one number a run: plain `t.interval`.

    Args:
      means_S: of two runs at least, or of one for a mean without an interval (NaN).
    """
    count = len(means_S)
    if count < 2:
        return Difference(float(np.mean(means_S)), *[math.nan] * 5)
    error = float(np.std(means_S, ddof=1)) / math.sqrt(count)
    return _by_t(float(np.mean(means_S)), error, count - 1)


def mean_in_words(means_S: Sequence[float]) -> str:
    """As `of_means`: "1.60 (0.33 to 2.87)"; of one run the number alone."""
    mean = of_means(means_S)
    if len(means_S) == 1:
        return f"{mean.estimate:.2f}"
    return f"{mean.estimate:.2f} ({mean.low:.2f} to {mean.high:.2f})"


def over_runs(
    a_SP: np.ndarray,
    b_SP: np.ndarray,
    clusters_P: Sequence | None = None,
    *,
    paired: bool = False,
) -> Difference:
    """The mean of runs `a` less that of runs `b`, by Student's or Welch's t over runs.

    To the squared error of the runs' means is added what is left of `over_prompts`'s
    once the noise of single answers is taken out of it: the difference of two losses
    may depend on the prompts, and all runs share those. With one column it is plain t.

    Args:
      a_SP, b_SP: values of run s at prompt p; as many prompts in both, two runs a side
        at least.
      clusters_P: of prompts that are alike.
      paired: whether run s of both had the same seed, hence the same data order.

    Raises:
      ValueError: fewer than two runs a side.
    """
    a_SP, b_SP = np.asarray(a_SP, float), np.asarray(b_SP, float)
    if min(len(a_SP), len(b_SP)) < 2:
        raise ValueError(f"{len(a_SP)} and {len(b_SP)} runs; 2 a side are the fewest")
    estimate = float(a_SP.mean() - b_SP.mean())
    arms = [a_SP - b_SP] if paired else [a_SP, b_SP]
    runs = [(arm.mean(1).var(ddof=1) / len(arm), len(arm) - 1) for arm in arms]
    prompts = _of_prompts(a_SP, b_SP, arms, clusters_P)
    total = math.fsum(variance for variance, _ in (*runs, prompts))
    # Two runs may be alike by luck: the prompts' freedom is then no freedom of runs.
    counted = runs if min(map(len, arms)) == 2 else [*runs, prompts]
    return _by_t(estimate, math.sqrt(total), _satterthwaite(counted))


def _satterthwaite(parts: Sequence[tuple[float, int]]) -> float:
    """The freedom of a sum of variances, each with its own (Satterthwaite 1946)."""
    total = math.fsum(variance for variance, _ in parts)
    spread = math.fsum(variance**2 / freedom for variance, freedom in parts)
    return total**2 / spread if spread else math.inf


def _of_prompts(a_SP, b_SP, arms, clusters_P) -> tuple[float, int]:
    """The variance due to the prompts' own differences, 0 or more; its freedom."""
    size, groups_P = a_SP.shape[1], groups(clusters_P, a_SP.shape[1])
    if size < 2:
        return 0.0, 1
    noise = 0.0
    for arm in arms:
        rest = arm - arm.mean(0) - arm.mean(1, keepdims=True) + arm.mean()
        freedom = (len(arm) - 1) * (size - 1)
        noise += float(np.square(rest).sum()) / freedom / arm.size
    error = _clustered_error(a_SP.mean(0) - b_SP.mean(0), groups_P)
    return max(0.0, error**2 - noise), max(1, int(groups_P.max()))


def crossed(
    a_SP: np.ndarray,
    b_SP: np.ndarray,
    clusters_P: Sequence | None = None,
    *,
    paired: bool = False,
    draws: int = DRAWS,
) -> Difference:
    """The mean of `a` less that of `b`, by resampling runs and clusters of prompts.

    Percentiles over draws of runs with replacement and, apart from them, of prompts
    (Owen 2007, the pigeonhole bootstrap). The deviations of runs from their mean, and
    of fewer than 15 clusters, are widened by t / z sqrt(S / (S - 1)), without which the
    interval of S = 5 is too narrow by a third (Hesterberg 2015, arXiv:1411.5279, on
    narrowness bias).

    Args:
      a_SP, b_SP: values of run s at prompt p; as many prompts in both.
      clusters_P: prompts of equal ones are drawn together.
      paired: run s of `a` and of `b` are drawn together.
      draws: of the bootstrap, a multiple of 40 and 1.
    """
    a_SP, b_SP = np.asarray(a_SP, float), np.asarray(b_SP, float)
    groups_P = groups(clusters_P, a_SP.shape[1])
    sizes_G = np.bincount(groups_P).astype(float)
    estimate = float(a_SP.mean() - b_SP.mean())
    keys = [x_SP.tobytes() for x_SP in (a_SP, b_SP)]
    both = b"".join(sorted(keys))

    def draw(x_SP: np.ndarray, runs: bytes) -> np.ndarray:
        x_SG = sums(widened(x_SP, groups_P), groups_P)
        return resampled([x_SG], sizes_G, runs, b"prompts" + both, draws)[0]

    if paired:
        drawn_W = draw(a_SP - b_SP, both)
    else:
        drawn_W = draw(a_SP, keys[0]) - draw(b_SP, keys[1])
    return by_draws(estimate, drawn_W)


def by_draws(estimate: float, drawn_W: np.ndarray) -> Difference:
    """The percentile interval of draws, mirrored exactly where they are negated."""
    error, drawn_W, count = float(drawn_W.std()), np.sort(drawn_W), len(drawn_W)
    k = round((1 - LEVEL) / 2 * (count - 1))
    low, high = float(drawn_W[k]), float(drawn_W[count - 1 - k])
    tail = min(int((drawn_W <= 0).sum()), int((drawn_W >= 0).sum()))
    p = min(1.0, 2 * (1 + tail) / (1 + count))
    # Summed in another order, equal values may differ in the last bit.
    low, high = min(low, estimate), max(high, estimate)
    return Difference(estimate, low, high, error, p, None)


def halves(run_means_S: Sequence[float]) -> float:
    """How far two halves of an arm's own runs differ: the yardstick of any difference.

    The root mean square over all splits, s sqrt(1 / n + 1 / m) for halves of n and m.

    Raises:
      ValueError: fewer than two runs.
    """
    count = len(run_means_S)
    if count < 2:
        raise ValueError(f"{count} runs have no halves; 2 are the fewest")
    n = count // 2
    return float(np.std(run_means_S, ddof=1)) * math.sqrt(1 / n + 1 / (count - n))


def _by_t(estimate: float, error: float, freedom: float) -> Difference:
    half = float(special.stdtrit(freedom, (1 + LEVEL) / 2)) * error
    p = 1.0 if estimate == 0 else 0.0
    if error:
        p = 2 * float(special.stdtr(freedom, -abs(estimate) / error))
    return Difference(estimate, estimate - half, estimate + half, error, p, freedom)


def _clustered_error(d_P: np.ndarray, groups_P: np.ndarray) -> float:
    """The standard error of a mean, "CR1" by clusters; 0 where there is but one."""
    residuals_G = np.bincount(groups_P, d_P - d_P.mean())
    count = len(residuals_G)
    if count < 2:
        return 0.0
    total = np.square(residuals_G).sum() * count / (count - 1)
    return math.sqrt(total) / len(d_P)


def widened(x_SP: np.ndarray, groups_P: np.ndarray) -> np.ndarray:
    """`x` with deviations of runs, and of few clusters, as wide as t over them has."""
    mean, out_SP = x_SP.mean(), x_SP
    if len(x_SP) > 1:
        out_SP = out_SP + _more(len(x_SP)) * (x_SP.mean(1, keepdims=True) - mean)
    if _are_few(groups_P):
        sizes_G = np.bincount(groups_P)
        deviations_G = np.bincount(groups_P, x_SP.mean(0) - mean) / sizes_G
        out_SP = out_SP + _more(len(sizes_G)) * deviations_G[groups_P]
    return out_SP


def _more(count: int) -> float:
    """By which share of themselves the deviations of so few are widened."""
    middle = (1 + LEVEL) / 2
    t_over_z = special.stdtrit(count - 1, middle) / special.ndtri(middle)
    return t_over_z * math.sqrt(count / (count - 1)) - 1


def _are_few(groups_P: np.ndarray) -> bool:
    """Whether prompts are of clusters, two or more, that are few."""
    count = int(groups_P.max(initial=-1)) + 1
    return 1 < count < min(len(groups_P), FEW_CLUSTERS)


class Alike(NamedTuple):
    """How far answers to prompts of one cluster are alike.

    Attributes:
      correlation: within clusters, from a one-way analysis of variance.
      size: of a cluster, the n0 of clusters of unequal sizes.
      effect: the factor of the variance of a mean, 1 + (size - 1) correlation.
    """

    correlation: float
    size: float
    effect: float


def design_effect(values_P: Sequence[float], clusters_P: Sequence) -> Alike:
    """The design effect of clusters (Kish 1965; Donner and Koval 1980).

    Raises:
      ValueError: fewer than two clusters, clusters of one prompt each, or equal values.
    """
    x_P = np.asarray(values_P, float)
    groups_P = groups(clusters_P, len(x_P))
    sizes_G = np.bincount(groups_P)
    count, size = len(sizes_G), len(x_P)
    if not 1 < count < size or not np.ptp(x_P):
        raise ValueError(f"{count} clusters of {size} prompts: nothing to take apart")
    means_G = np.bincount(groups_P, x_P) / sizes_G
    between = (sizes_G * (means_G - x_P.mean()) ** 2).sum() / (count - 1)
    within = ((x_P - means_G[groups_P]) ** 2).sum() / (size - count)
    n0 = float((size - (sizes_G**2).sum() / size) / (count - 1))
    rho = float((between - within) / (between + (n0 - 1) * within))
    return Alike(rho, n0, 1 + (n0 - 1) * rho)


# Resampling, which curves of `evals.frontier` share.


def groups(clusters_P: Sequence | None, count: int) -> np.ndarray:
    """int [P]: the number of each prompt's cluster; of its own where there are none."""
    if clusters_P is None:
        return np.arange(count)
    return np.unique(np.asarray(clusters_P), return_inverse=True)[1].reshape(-1)


def sums(x_SP: np.ndarray, groups_P: np.ndarray) -> np.ndarray:
    """float [S, G]: the sum of each run over each group of prompts."""
    return np.stack([np.bincount(groups_P, row) for row in x_SP])


def resampled(
    x_NSG: Sequence[np.ndarray],
    sizes_G: np.ndarray,
    runs: bytes,
    prompts: bytes,
    draws: int,
) -> np.ndarray:
    """float [N, W]: means over resampled runs and, apart from them, groups of prompts.

    Args:
      x_NSG: sums of several figures of the same runs over groups of prompts.
      sizes_G: prompts of a group.
      runs, prompts: seeds of the draws; equal ones draw alike.
    """
    rngs = [
        np.random.default_rng(list(hashlib.sha256(k).digest())) for k in (runs, prompts)
    ]
    count_S, count_G = len(x_NSG[0]), len(sizes_G)
    block = max(1, _BLOCK // max(count_S, count_G))
    out_NW = np.empty((len(x_NSG), draws))
    for start in range(0, draws, block):
        here = min(block, draws - start)
        runs_WS, prompts_WG = (
            counts(rng, count, here)
            for rng, count in zip(rngs, (count_S, count_G), strict=True)
        )
        weights_W = count_S * (prompts_WG @ sizes_G)
        for n, x_SG in enumerate(x_NSG):
            totals_W = np.einsum("wg,wg->w", runs_WS @ x_SG, prompts_WG)
            out_NW[n, start : start + here] = totals_W / weights_W
    return out_NW


def counts(rng: np.random.Generator, count: int, draws: int) -> np.ndarray:
    """float [draws, count]: how often each is drawn, of as many with replacement."""
    drawn = rng.integers(count, size=(draws, count))
    drawn += count * np.arange(draws)[:, None]
    counts = np.bincount(drawn.reshape(-1), minlength=draws * count)
    return counts.reshape(draws, count).astype(float)
