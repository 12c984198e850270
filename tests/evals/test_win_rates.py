# SPDX-License-Identifier: Apache-2.0
"""Win rates and strengths: known numbers, and identities that a fit must have."""

import numpy as np
import pytest

from alignjax.evals import battles, style, win_rates
from tests.evals.test_differences import near


def test_both_orders():
    first = [1] * 46 + [0] * 30 + [1] * 16 + [0] * 8
    second = [1] * 46 + [0] * 30 + [0] * 16 + [1] * 8
    out = win_rates.of_orders(first, second)
    assert out.rate["mean"] == near(0.58) and out.consistent == near(0.76)
    assert out.first_position == near(2 / 3) and out.p == near(0.1515896320)
    swapped = win_rates.of_orders(*(1 - np.array(x) for x in (second, first)))
    assert swapped.rate["mean"] == near(0.42)
    assert swapped.first_position == out.first_position
    ties = win_rates.of_orders([0.5, 0.5], [0.5, 1.0])
    assert ties.rate["mean"] == 0.625 and ties.p is None and ties.consistent == 0.5
    # Twenty of twenty is not certain (Wilson), and of one pair nothing follows.
    always = win_rates.of_orders([1] * 20, [1] * 20).rate
    assert (always["low"], always["high"]) == (near(0.8388748419), 1)
    assert win_rates.of_orders([1], [1]).rate["low"] is None
    for nothing in ([], [np.nan], [1.5]):
        with pytest.raises(ValueError):
            win_rates.of_orders(nothing, nothing)


def test_one_order_at_random():
    out = win_rates.without_position(34, 50, 24, 50)
    assert out.ability == near(0.3368645474) and out.position == near(0.4169072550)
    assert out.error == near(0.2073885061) and out.rate == near(0.5834286835)
    with pytest.raises(ValueError):
        win_rates.without_position(50, 50, 24, 50)


def test_a_judge_that_errs():
    assert win_rates.without_errors(0.62, 0.85, 0.80) == near(0.6461538462)
    assert win_rates.without_errors(0.62, 0.85, 0.85) == near(0.6714285714)
    with pytest.raises(ValueError):
        win_rates.without_errors(0.62, 0.5, 0.5)


def test_the_interval_of_a_corrected_rate_has_that_of_the_error_rates():
    judged, truth = [1] * 62 + [0] * 38, [1] * 20 + [0] * 20
    tested = [1] * 17 + [0] * 3 + [0] * 16 + [1] * 4
    out = win_rates.corrected(judged, tested, truth)
    assert out["mean"] == near(0.6461538462) and 0 <= out["low"] < out["high"] <= 1
    known = win_rates.corrected(judged, tested * 500, truth * 500)
    assert known["mean"] == near(out["mean"])
    width = lambda x: x["high"] - x["low"]
    # With error rates that are known, as wide as the share itself by 0.65.
    assert width(known) == pytest.approx(2 * 1.96 * 0.0485 / 0.65, rel=0.1)
    assert width(out) > 1.4 * width(known)
    with pytest.raises(ValueError, match="can tell"):
        win_rates.corrected(judged, [1, 0, 1, 0, 1], [1, 1, 0, 0, 1])
    with pytest.raises(ValueError, match="1 each"):
        win_rates.corrected(judged, [1, 1], [1, 1])


OTHERS = 100 + 10 * (np.arange(24) % 5)
GAPS = [40, -20, 10, 60, 0, -30, 80, 20, -10, 30, 50, -40, 5, 70, -5, 15, 90, -15]
GAPS = np.array([*GAPS, 25, 35, -25, 45, 0, 55])
JUDGED = [1, 0, 1, 1, 0, 0, 1, 0, 1, 1, 0, 1, 1, 1, 0, 0, 1, 0, 1, 0.5, 0, 1, 0.5, 0]
JUDGED = np.array(JUDGED)


def controlled(judged=JUDGED, lengths=OTHERS + GAPS, others=OTHERS, *more, **options):
    return win_rates.length_controlled(
        judged, lengths, others, *more, **{"draws": 0, **options}
    )


def test_length_controlled_win_rates():
    plain = controlled(l2=0)
    assert plain.raw == near(0.5416666667) and plain.rate == near(0.4439170138)
    assert plain.weights == near([-0.2252799, 1.32885871], 1e-6)
    out = controlled(draws=2001)
    assert out.rate == near(0.4789847886)
    assert out.weights == near([-0.0841104, 0.85153323], 1e-6)
    assert (out.low, out.high) == near((0.285, 0.690), 0.02)
    thrice = [np.repeat(x, 3) for x in (JUDGED, OTHERS + GAPS, OTHERS)]
    prompts = np.repeat(np.arange(24), 3)
    alike = controlled(*thrice, clusters=prompts, draws=401, l2=3)
    assert (alike.low, alike.high) == near((out.low, out.high), 0.03)
    apart = controlled(*thrice, draws=401, l2=3)
    assert apart.high - apart.low < 0.7 * (alike.high - alike.low)
    harder = controlled(JUDGED, OTHERS + GAPS, OTHERS, np.linspace(-1.15, 1.15, 24))
    assert harder.rate == near(0.4777678701)
    assert harder.weights == near([-0.09008354, 0.87900381, -0.32119511], 1e-6)


def test_identities_of_the_length_controlled_rate():
    assert controlled(1 - JUDGED, OTHERS, OTHERS + GAPS).rate == near(0.5210152115)
    assert controlled(lengths=OTHERS).rate == near(JUDGED.mean())
    moved = controlled(JUDGED, OTHERS + GAPS + 7, OTHERS + 7)
    scaled = controlled(JUDGED, 3 * (OTHERS + GAPS), 3 * OTHERS)
    assert moved.rate == scaled.rate == near(controlled().rate)
    with pytest.raises(ValueError, match="separated"):
        controlled((GAPS > 0).astype(float), l2=0)
    assert np.isfinite(controlled((GAPS > 0).astype(float)).rate)
    for nothing in ([], [np.nan], [2]):
        with pytest.raises(ValueError, match="from 0 to 1"):
            controlled(nothing, [3] * len(nothing), [2] * len(nothing))
    assert controlled([1], [3], [2]).rate == near(1)  # without a warning


@pytest.mark.parametrize(
    "text, marks",
    [
        ("plain text, 2 * 3 * 4 and snake__case__name", (0, 0, 0)),
        ("# One\n## Two\n#three", (2, 0, 0)),
        ("- a\n  * b\n1. c\n2) d\n-e", (0, 4, 0)),
        ("**a** and **b c**, __d__; *e* ** f **\n**g\nh**", (0, 0, 4)),
        ("# a\n```\n# no\n- no\n**no**\n```\n- b", (1, 1, 0)),
        ("- b\n```py\n- never closed", (0, 1, 0)),
    ],
)
def test_marks_of_a_text_outside_of_code(text, marks):
    assert style.marks(text) == marks


def test_what_markdown_wins_is_no_win_at_equal_style():
    """A judge who pays for bold alone: at equal style both arms are equal."""
    rng = np.random.default_rng(0)
    bold, others = rng.integers(0, 6, 600), rng.integers(0, 3, 600)
    texts = [["**a** " * n for n in counts] for counts in (bold, others)]
    lengths = rng.integers(20, 30, (2, 600))
    gaps = style.gaps(*lengths, *texts)
    assert gaps[:, 3].tolist() == (bold - others).tolist() and not gaps[:, 1:3].any()
    won = rng.random(600) < 1 / (1 + np.exp(-1.5 * np.tanh((bold - others) / 2)))
    by_length = win_rates.controlled(won, gaps[:, :1], draws=0)
    out = win_rates.controlled(won, gaps, draws=401)
    assert by_length.rate > 0.6 and by_length.raw > 0.6
    assert out.low < 0.5 < out.high and out.high - out.low < 0.15
    swapped = win_rates.controlled(1 - won, -gaps, draws=0)
    assert swapped.rate == near(1 - out.rate)
    one = win_rates.controlled(won, gaps[:, [0, 3]], draws=0)
    assert one.rate == near(out.rate)  # a mark that nobody has changes nothing


WINS = np.array([[0, 8, 9, 6], [4, 0, 7, 7], [3, 5, 0, 6], [2, 3, 4, 0]])
TIES = np.array([[0, 3, 2, 1], [3, 0, 4, 2], [2, 4, 0, 3], [1, 2, 3, 0]])


def test_bradley_terry():
    out = battles.bradley_terry(WINS)
    b = [0.75101326, 0.11596907, -0.25459485, -0.61238747]
    assert out.strength == near(b, 1e-6) and out.loss == near(39.9581105207, 1e-6)
    error = [0.30017656, 0.26888812, 0.27104286, 0.31040342]
    assert out.error == near(error, 1e-6)
    assert out.error_between(0, 1) == near(0.4546443570, 1e-6)
    assert out.elo == near([1130.464, 1020.146, 955.772, 893.617], 1e-3)
    assert battles.bradley_terry(WINS, l2=1e-9).strength == near(b, 1e-6)
    half = [0.62287591, 0.09258778, -0.20959583, -0.50586786]
    assert battles.bradley_terry(WINS + TIES / 2).strength == near(half, 1e-6)
    assert battles.bradley_terry(WINS.T).strength == near([-x for x in b], 1e-6)


def test_davidsons_ties():
    out = battles.davidson(WINS, TIES)
    b = [0.78491322, 0.11627492, -0.26395415, -0.63723400]
    assert out.strength == near(b, 1e-6) and out.loss == near(78.1535051721, 1e-6)
    assert out.tie == near(0.5057472556, 1e-6)
    with pytest.raises(ValueError):
        battles.davidson(WINS, np.triu(TIES))


def test_models_that_never_lost_have_no_finite_strength():
    wins = [[0, 3, 2], [0, 0, 4], [0, 1, 0]]
    with pytest.raises(ValueError, match="2 groups"):
        battles.bradley_terry(wins)
    assert np.isfinite(battles.bradley_terry(wins, l2=0.1).strength).all()
    for none in ([[0, -1], [1, 0]], [[0, np.nan], [1, 0]], [[0, 1, 1], [1, 0, 1]]):
        with pytest.raises(ValueError, match="square"):
            battles.bradley_terry(none, l2=0.1)


def test_standings_resample_prompts_with_all_their_battles():
    rng = np.random.default_rng(0)
    at = lambda counts: rng.multinomial(counts, [1 / 40] * 40)
    wins = np.stack([np.stack([at(c) for c in row]) for row in WINS]).transpose(2, 0, 1)
    out = battles.standings(wins, draws=101)
    assert out.strength == near(battles.bradley_terry(WINS, l2=0.1).strength)
    assert (out.low < out.strength).all() and (out.strength < out.high).all()
    assert out.ranks == battles.ranks(out.low, out.high)
    # Four judges of the same battles are not four times as many prompts.
    again = battles.standings(4 * wins, l2=0.4, draws=101)
    assert again.high - again.low == near(out.high - out.low, 1e-4)
    ties = np.zeros_like(wins)
    ties[3, 0, 1] = ties[3, 1, 0] = 1  # which not all draws have
    assert np.isfinite(battles.standings(wins, ties, draws=21).low).all()
    with pytest.raises(ValueError, match="prompts"):
        battles.standings([WINS])


def test_ranks_are_intervals():
    assert battles.ranks([2, 1, 0], [3, 2.5, 0.5]) == [(1, 2), (1, 2), (3, 3)]


def battles_of(wins):
    """First, second and outcome of every battle in a table of wins."""
    rows = [(i, j, 1) for i, j in np.ndindex(wins.shape) for _ in range(wins[i, j])]
    # Shown in any order: a win of i over j is a loss of j.
    turn = np.arange(len(rows)) % 2 == 1
    first, second, outcome = np.array(rows).T
    return (
        np.where(turn, second, first),
        np.where(turn, first, second),
        np.where(turn, 1 - outcome, outcome),
    )


def test_strengths_without_what_style_wins():
    first, second, outcome = battles_of(WINS)
    prompts = np.arange(len(first)) % 9
    plain = battles.controlled(
        first, second, outcome, np.zeros((len(first), 2)), prompts, l2=1e-9, draws=41
    )
    assert plain.standings.strength == near(battles.bradley_terry(WINS).strength, 1e-6)
    assert plain.weights == near([0, 0])
    penal = battles.controlled(first, second, outcome, np.zeros((64, 1)), prompts)
    assert penal.standings.strength == near(
        battles.bradley_terry(WINS, l2=0.1).strength, 1e-6
    )
    # Three equal models, of which the last writes in bold, which the judge pays for.
    rng = np.random.default_rng(1)
    first, second = rng.integers(0, 3, (2, 3000))
    apart = first != second
    first, second = first[apart], second[apart]
    bold = lambda model: rng.poisson(np.where(model == 2, 3.0, 1.0))
    gap = bold(first) - bold(second)
    won = rng.random(len(gap)) < 1 / (1 + np.exp(-0.6 * gap))
    prompts = np.arange(len(gap)) % 200
    raw = battles.controlled(first, second, won, np.zeros((len(gap), 1)), prompts)
    out = battles.controlled(first, second, won, gap[:, None], prompts)
    assert raw.standings.ranks[2] == (1, 1) and raw.standings.low[2] > 0.3
    assert out.standings.low[2] < 0 < out.standings.high[2] and out.weights[0] > 1
    with pytest.raises(ValueError, match="itself"):
        battles.controlled([0], [0], [1], np.zeros((1, 1)), [0])
    with pytest.raises(ValueError, match="l2"):
        battles.controlled([0, 0], [1, 1], [1, 1], np.zeros((2, 1)), [0, 1], l2=0)
