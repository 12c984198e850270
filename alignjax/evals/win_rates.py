# SPDX-License-Identifier: Apache-2.0
"""Win rates of judged pairs: both orders, errors of the judge, controls of style.

A judgement is a probability in favour of the first arm, 1/2 for a tie. Judgements that
were refused or failed are 1/2 too and counted, never dropped.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy import special, stats

from alignjax.evals import by_prompt, differences, logistic, statistics

DRAWS = 2001
_BLOCK = 1 << 20  # pairs of all draws at one time


class Orders(NamedTuple):
    """A win rate of pairs that were judged in both orders.

    Attributes:
      rate: of the first arm, with its interval over pairs.
      consistent: the share of pairs with one winner, or a tie, in both orders.
      first_position: of those whose winner changed with the order, the share in which
        what was shown first won twice; None without such pairs.
      p: of that share against 1/2.
    """

    rate: by_prompt.Interval
    consistent: float
    first_position: float | None
    p: float | None


def of_orders(shown_first: Sequence[float], shown_second: Sequence[float]) -> Orders:
    """The win rate of an arm over pairs.

    Args:
      shown_first, shown_second: judgements in favour of the arm's response, shown
        first and shown second; a pair's score is their mean.

    Raises:
      ValueError: no pairs, or unequal numbers of them; a judgement that is none.
    """
    first, second = map(logistic.checked, (shown_first, shown_second))
    if len(first) != len(second):
        raise ValueError(
            f"{len(first)} judgements in one order, {len(second)} in other"
        )
    twice_first = int(((first > 0.5) & (second < 0.5)).sum())
    twice_second = int(((first < 0.5) & (second > 0.5)).sum())
    agree = np.sign(first - 0.5) == np.sign(second - 0.5)
    torn = twice_first + twice_second
    scores = ((first + second) / 2).tolist()
    return Orders(
        by_prompt.interval(by_prompt.Values(dict(enumerate(scores)), share=True)),
        float(agree.mean()),
        twice_first / torn if torn else None,
        float(stats.binomtest(twice_first, torn).pvalue) if torn else None,
    )


class Position(NamedTuple):
    """logit P(win) = ability + preference for what is first, or - where it is second.

    Attributes:
      ability, position: of the arm and of the judge; `error` of both.
      rate: the win probability without the position.
    """

    ability: float
    position: float
    error: float
    rate: float


def without_position(
    wins_first: int, shown_first: int, wins_second: int, shown_second: int
) -> Position:
    """The win rate of an arm that was shown once a pair, in an order drawn at random.

    Raises:
      ValueError: an order in which it won all or none, which has no finite logit.
    """
    counts = [(wins_first, shown_first), (wins_second, shown_second)]
    for wins, shown in counts:
        if not 0 < wins < shown:
            raise ValueError(
                f"{wins} wins of {shown} in one order have no finite logit"
            )
    first, second = (math.log(w / (n - w)) for w, n in counts)
    error = math.sqrt(sum(1 / w + 1 / (n - w) for w, n in counts)) / 2
    ability = (first + second) / 2
    return Position(ability, (first - second) / 2, error, float(special.expit(ability)))


def without_errors(rate: float, sensitivity: float, specificity: float) -> float:
    """The true win rate behind that of a judge who errs (Rogan and Gladen 1978).

    `corrected` has its interval, with that of the error rates.

    Raises:
      ValueError: the judge is right no more often than by chance.
    """
    if sensitivity + specificity <= 1:
        raise ValueError(
            f"a sensitivity of {sensitivity} and a specificity of {specificity} tell "
            "nothing"
        )
    return (rate + specificity - 1) / (sensitivity + specificity - 1)


def corrected(
    judgements: Sequence[float],
    test_judgements: Sequence[float],
    test_truth: Sequence[int],
    *,
    draws: int = DRAWS,
) -> statistics.Interval:
    """`without_errors` of a win rate, by one bootstrap of these pairs and the test's.

    Args:
      judgements: in favour of the arm, 1/2 for a tie.
      test_judgements: the same of pairs whose better response is known.
      test_truth: 1 where that is the arm's.

    Raises:
      ValueError: no pairs of a kind, or a judge who is right by chance in more than 5 %
        of draws.
    """
    judged, tested = (np.asarray(x, float) for x in (judgements, test_judgements))
    truth = np.asarray(test_truth, bool)
    kinds = [judged, tested[truth], tested[~truth]]
    if not all(map(len, kinds)):
        raise ValueError(
            f"{[len(x) for x in kinds]} pairs judged, won and lost: 1 each"
        )
    rate, hits, misses = (float(x.mean()) for x in kinds)
    middle = without_errors(rate, hits, 1 - misses)
    rng = np.random.default_rng(0)
    rates_W, hits_W, misses_W = (
        differences.counts(rng, len(x), draws) @ x / len(x) for x in kinds
    )
    tells = hits_W > misses_W
    if tells.mean() < 0.95:
        raise ValueError(
            f"{len(tested)} test pairs do not show that this judge can tell"
        )
    drawn_W = (rates_W[tells] - misses_W[tells]) / (hits_W[tells] - misses_W[tells])
    low, high = np.clip(np.quantile(drawn_W, [0.025, 0.975]), 0.0, 1.0)
    return statistics.Interval(
        mean=middle, low=float(low), high=float(high), count=len(judged)
    )


class Controlled(NamedTuple):
    """A win rate as if both responses were alike in something, such as their length.

    Attributes:
      rate, low, high: with the 95 % interval of refits over resampled pairs.
      raw: the win rate as it was judged.
      weights: of the intercept, of each gap, and of the difficulty if there was one.
    """

    rate: float
    low: float
    high: float
    raw: float
    weights: list[float]


def length_controlled(
    judgements: Sequence[float],
    lengths: Sequence[float],
    other_lengths: Sequence[float],
    difficulty: Sequence[float] | None = None,
    **options,
) -> Controlled:
    """The length-controlled win rate (Dubois et al. 2024, arXiv:2404.04475).

    `controlled` with the gap of lengths alone; its other arguments are that function's.

    Args:
      lengths, other_lengths: of the arm's responses and of the others', in one unit.
    """
    gap_N = np.asarray(lengths, float) - np.asarray(other_lengths, float)
    return controlled(judgements, gap_N[:, None], difficulty, **options)


def controlled(
    judgements: Sequence[float],
    gaps_NK: np.ndarray,
    difficulty: Sequence[float] | None = None,
    *,
    clusters: Sequence | None = None,
    l2: float = 1.0,
    draws: int = DRAWS,
) -> Controlled:
    """The win rate where no gap between the two responses is left.

    A logistic regression on tanh(gap / sd) of each gap and on the prompt's difficulty;
    the rate is the mean prediction with the terms of all gaps set to 0. Unlike that of
    AlpacaEval 2 it has an L2 penalty, without which separable pairs run away, and an
    interval of the whole fit: theirs leaves out that the weights were fitted.

    Args:
      judgements: in favour of the arm, in [0, 1].
      gaps_NK: the arm's response less the other, such as `style.gaps`.
      difficulty: of each prompt, as the mean logit of other models.
      clusters: of pairs that are alike, such as of one prompt; drawn together.
      l2: on all weights but the intercept.
      draws: of the interval; 0 for none, NaN.

    Raises:
      ValueError: no pairs, a judgement that is none, or no penalty and pairs that can
        be separated.
    """
    y_N = logistic.checked(judgements)
    gaps_NK = np.asarray(gaps_NK, float)
    count = gaps_NK.shape[1]
    own_N1 = np.empty((len(y_N), 0))
    if difficulty is not None:
        own_N1 = np.asarray(difficulty, float)[:, None]

    def rates(counts_WN: np.ndarray) -> tuple[np.ndarray, logistic.Fit]:
        total_W1 = counts_WN.sum(1, keepdims=True)
        looks = [_look(gap_N, counts_WN, total_W1) for gap_N in gaps_NK.T]
        own_WN1 = np.broadcast_to(own_N1, (len(counts_WN), *own_N1.shape))
        columns = np.concatenate([np.stack(looks, axis=2), own_WN1], axis=2)
        fitted = logistic.fit(columns, y_N, l2=l2, counts_WN=counts_WN)
        weights_WK = fitted.weights_WK
        level_WN = weights_WK[:, :1] + weights_WK[:, 1 + count :] @ own_N1.T
        predicted_WN = counts_WN * special.expit(level_WN)
        return predicted_WN.sum(1) / total_W1[:, 0], fitted

    (rate,), fitted = rates(np.ones((1, len(y_N))))
    if not fitted.converged_W[0]:
        raise ValueError("the pairs can be separated by these columns: give an l2")
    low = high = float("nan")
    if draws:
        rng = np.random.default_rng(0)
        groups_N = differences.groups(clusters, len(y_N))
        block, drawn_W = max(1, _BLOCK // (len(y_N) * count)), []
        for start in range(0, draws, block):
            here = min(block, draws - start)
            counts_WG = differences.counts(rng, int(groups_N.max()) + 1, here)
            drawn_W.extend(rates(counts_WG[:, groups_N])[0])
        low, high = np.quantile(drawn_W, [0.025, 0.975])
    return Controlled(
        *map(float, (rate, low, high, y_N.mean())), fitted.weights_WK[0].tolist()
    )


def _look(gap_N, counts_WN, total_W1) -> np.ndarray:
    """float [W, N]: tanh of a gap in deviations, those of each weighting's pairs."""
    mean_W1 = counts_WN @ gap_N[:, None] / total_W1
    squares_WN = counts_WN * (gap_N - mean_W1) ** 2
    sd_W1 = np.sqrt(squares_WN.sum(1, keepdims=True) / np.maximum(total_W1 - 1, 1))
    return np.tanh(gap_N / np.where(sd_W1 > 0, sd_W1, 1.0))
