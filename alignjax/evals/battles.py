# SPDX-License-Identifier: Apache-2.0
"""Strengths of several models from battles of two: Bradley–Terry, and Davidson's ties.

Sequential Elo is no estimator: its points depend on the order of the games. Intervals
resample prompts, with all battles of a prompt together.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy import optimize, sparse, special

from alignjax.evals import differences, logistic

ELO = 400 / math.log(10)  # points of a unit of strength
_BLOCK = 1 << 22  # columns of battles of all draws at one time


class Strengths(NamedTuple):
    """Strengths of M models, whose sum is 0.

    Attributes:
      strength: float [M], in logits of a win.
      covariance: float [M, M], of the strengths.
      tie: Davidson's nu, of which ties are a share nu sqrt(p_i p_j); None without.
      loss: the negative log-likelihood, and penalty.
    """

    strength: np.ndarray
    covariance: np.ndarray
    tie: float | None
    loss: float

    @property
    def error(self) -> np.ndarray:
        """float [M]: the standard errors."""
        return np.sqrt(np.diag(self.covariance))

    @property
    def elo(self) -> np.ndarray:
        """float [M]: points around 1000."""
        return 1000 + ELO * self.strength

    def error_between(self, i: int, j: int) -> float:
        """The standard error of the difference of two strengths."""
        c = self.covariance
        return math.sqrt(c[i, i] + c[j, j] - 2 * c[i, j])


def bradley_terry(wins_MM: np.ndarray, *, l2: float = 0.0) -> Strengths:
    """P(i beats j) = s(b_i - b_j), by maximum likelihood (Bradley and Terry 1952).

    Args:
      wins_MM: how often i beat j; a tie may count half on both sides, which shrinks
        all differences.
      l2: half of it times the squared strengths is added to the loss.

    Raises:
      ValueError: without a penalty, models of which some never lost to the others, so
        that no finite strengths are the most likely; no square of counts.
    """
    return _fit(np.asarray(wins_MM, float), None, l2)


def davidson(wins_MM: np.ndarray, ties_MM: np.ndarray, *, l2: float = 0.0) -> Strengths:
    """Bradley-Terry with ties, P(tie) as nu sqrt(p_i p_j) (Davidson 1970).

    Args:
      wins_MM, l2: as `bradley_terry`.
      ties_MM: how often i and j tied, symmetric.

    Raises:
      ValueError: as `bradley_terry`; ties that are not symmetric, or none.
    """
    wins_MM, ties_MM = np.asarray(wins_MM, float), np.asarray(ties_MM, float)
    if (ties_MM != ties_MM.T).any() or not ties_MM.any():
        raise ValueError("ties must be symmetric, and there must be some")
    return _fit(wins_MM, ties_MM, l2)


def _fit(wins_MM: np.ndarray, ties_MM: np.ndarray | None, l2: float) -> Strengths:
    count = len(wins_MM)
    for counts_MM in (wins_MM, *([] if ties_MM is None else [ties_MM])):
        if counts_MM.shape != (count, count) or not (counts_MM >= 0).all():
            raise ValueError(f"{counts_MM.shape} is no square of counts from 0 on")
    beaten = wins_MM if ties_MM is None else wins_MM + ties_MM
    parts, _ = sparse.csgraph.connected_components(beaten > 0, connection="strong")
    if parts > 1 and not l2:
        raise ValueError(
            f"the models fall into {parts} groups that never lost to one another; "
            "give an l2, such as 0.1"
        )
    upper = np.triu_indices(count, 1)

    def loss(x: np.ndarray) -> float:
        gap_MM = x[:count, None] - x[None, :count]
        penalty = l2 / 2 * float(x[:count] @ x[:count])
        if ties_MM is None:
            return penalty - float((wins_MM * special.log_expit(gap_MM)).sum())
        # Of strengths i and j, and of the tie between them.
        logits = np.stack([gap_MM / 2, -gap_MM / 2, np.full_like(gap_MM, x[count])])
        i_wins, j_wins, tie = special.log_softmax(logits, axis=0)
        total = wins_MM * i_wins + wins_MM.T * j_wins + ties_MM * tie
        return penalty - float(total[upper].sum())

    def slope(x: np.ndarray) -> np.ndarray:
        gap_MM = x[:count, None] - x[None, :count]
        if ties_MM is None:
            games_MM, own_MM = wins_MM + wins_MM.T, wins_MM
            expected_MM = games_MM * special.expit(gap_MM)
            return l2 * x - (own_MM - expected_MM).sum(1)
        logits = np.stack([gap_MM / 2, -gap_MM / 2, np.full_like(gap_MM, x[count])])
        i_wins, _, tie = special.softmax(logits, axis=0)
        games_MM = wins_MM + wins_MM.T + ties_MM
        own_MM = wins_MM + ties_MM / 2 - games_MM * (i_wins + tie / 2)
        of_tie = (ties_MM - games_MM * tie)[upper].sum()
        return np.r_[l2 * x[:count] - own_MM.sum(1), -of_tie]

    start = np.zeros(count + (ties_MM is not None))
    options = {"gtol": 1e-10, "maxiter": 10_000}
    x = optimize.minimize(loss, start, jac=slope, method="BFGS", options=options).x
    hessian = optimize.approx_fprime(x, slope, 1e-6)
    inverse = np.linalg.pinv((hessian + hessian.T) / 2, rcond=1e-6, hermitian=True)
    strength = x[:count] - x[:count].mean()
    tie = None if ties_MM is None else float(np.exp(x[count]))
    return Strengths(strength, inverse[:count, :count], tie, float(loss(x)))


class Standings(NamedTuple):
    """Strengths of M models with 95 % intervals over prompts.

    Attributes:
      strength, low, high: float [M].
      ranks: see `ranks`.
    """

    strength: np.ndarray
    low: np.ndarray
    high: np.ndarray
    ranks: list[tuple[int, int]]


def standings(
    wins_PMM: Sequence, ties_PMM: Sequence | None = None, *, l2=0.1, draws: int = 401
) -> Standings:
    """Strengths and ranks by a bootstrap over prompts, all battles of one together.

    Args:
      wins_PMM: how often i beat j at each prompt.
      ties_PMM: as of `davidson`; without any Bradley and Terry's strengths.
      l2: as `bradley_terry`; some draws lack the only loss of a model.
      draws: of the bootstrap.

    Raises:
      ValueError: as `bradley_terry`; ties that are not symmetric; fewer than two
        prompts.
    """
    parts = [np.asarray(x, float) for x in (wins_PMM, ties_PMM) if x is not None]
    if len(parts[0]) < 2:
        raise ValueError(f"{len(parts[0])} prompts; 2 are the fewest")

    def fit(count_P: np.ndarray) -> np.ndarray:
        wins, *ties = (np.tensordot(count_P, x_PMM, 1) for x_PMM in parts)
        if ties and ties[0].any():
            return davidson(wins, *ties, l2=l2).strength
        return bradley_terry(wins, l2=l2).strength

    strength = fit(np.ones(len(parts[0])))
    rng = np.random.default_rng(0)
    drawn = [*map(fit, differences.counts(rng, len(parts[0]), draws))]
    low, high = np.quantile(drawn, [0.025, 0.975], axis=0)
    return Standings(strength, low, high, ranks(low, high))


class Controlled(NamedTuple):
    """Strengths of M models as if all responses were alike, see `controlled`.

    Attributes:
      standings: the strengths, with intervals and ranks.
      weights: of each gap, in logits of tanh(gap / its root mean square).
    """

    standings: Standings
    weights: list[float]


def controlled(
    first: Sequence[int],
    second: Sequence[int],
    outcomes: Sequence[float],
    gaps_NK: np.ndarray,
    prompts: Sequence,
    *,
    l2: float = 0.1,
    draws: int = 401,
) -> Controlled:
    """Bradley and Terry's strengths beside what judges pay for style.

    P(first beats second) = s(b_first - b_second + w . tanh(gap / rms)), so what length
    and markdown win is no strength of a model; without gaps it is `bradley_terry`.

    Args:
      first, second: the two models of each battle, from 0.
      outcomes: 1 where the first one won, 0 the second, 1/2 for a tie.
      gaps_NK: first less second, such as `style.gaps`.
      prompts: of each battle; the bootstrap draws all of one together.
      l2: half of it times the squares of strengths and weights is added to the loss.
      draws: of the bootstrap.

    Raises:
      ValueError: battles of a model with itself, or of no outcome; no penalty, without
        which what always wins has no finite strength.
    """
    y_N = logistic.checked(outcomes)
    first_N, second_N = (np.asarray(x, int) for x in (first, second))
    if (first_N == second_N).any():
        raise ValueError("a model has no battle with itself")
    if l2 <= 0:
        raise ValueError(f"an l2 of {l2}; give one above 0, such as 0.1")
    gaps_NK = np.asarray(gaps_NK, float)
    unit_K = np.sqrt((gaps_NK**2).mean(0))
    looks_NK = np.tanh(gaps_NK / np.where(unit_K > 0, unit_K, 1.0))
    count, places = int(max(first_N.max(), second_N.max())) + 1, np.arange(len(y_N))
    models_NM = np.zeros((len(y_N), count))
    models_NM[places, first_N], models_NM[places, second_N] = 1.0, -1.0
    columns = np.concatenate([models_NM, looks_NK], axis=1)
    # Each battle from both sides, half each: no side has an advantage, so that the
    # intercept is 0.
    both, both_y = np.concatenate([columns, -columns]), np.r_[y_N, 1 - y_N]

    def fit(counts_WN: np.ndarray) -> tuple[np.ndarray, logistic.Fit]:
        counts_WN = np.concatenate([counts_WN, counts_WN], axis=1) / 2
        fitted = logistic.fit(both, both_y, l2=l2, counts_WN=counts_WN)
        strength_WM = fitted.weights_WK[:, 1 : 1 + count]
        return strength_WM - strength_WM.mean(1, keepdims=True), fitted

    (strength,), fitted = fit(np.ones((1, len(y_N))))
    groups_N = differences.groups(prompts, len(y_N))
    counts_WG = differences.counts(
        np.random.default_rng(0), int(groups_N.max()) + 1, draws
    )
    block = max(1, _BLOCK // both.size)
    blocks = (counts_WG[at : at + block, groups_N] for at in range(0, draws, block))
    drawn = np.concatenate([fit(counts_WN)[0] for counts_WN in blocks])
    low, high = np.quantile(drawn, [0.025, 0.975], axis=0)
    standing = Standings(strength, low, high, ranks(low, high))
    return Controlled(standing, fitted.weights_WK[0, 1 + count :].tolist())


def ranks(low_M: np.ndarray, high_M: np.ndarray) -> list[tuple[int, int]]:
    """The best and the worst rank of each model, from the ends of its interval."""
    low_M, high_M = np.asarray(low_M), np.asarray(high_M)
    return [
        (1 + int((low_M > high).sum()), len(low_M) - int((high_M < low).sum()))
        for low, high in zip(low_M, high_M, strict=True)
    ]
