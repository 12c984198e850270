# SPDX-License-Identifier: Apache-2.0
"""Intervals hold the truth as often as they say, and follow from the seed alone."""

import math

import numpy as np
import pytest

from alignjax.evals import statistics


@pytest.fixture(autouse=True)
def fewer_draws(monkeypatch):
    """Enough to be within a per cent or two of the interval."""
    monkeypatch.setattr(statistics, "DRAWS", 400)


def covered(draw, truth, repeats=300):
    """How often the interval of what `draw(rng)` measures holds the truth."""
    rng = np.random.default_rng(0)
    found = [draw(rng) for _ in range(repeats)]
    return sum(i["low"] <= truth <= i["high"] for i in found) / repeats


def test_coverage_of_a_skewed_mean():
    draw = lambda rng: statistics.mean(rng.exponential(2.0, size=100))
    assert 0.90 <= covered(draw, 2.0) <= 0.985


def test_coverage_of_strata_that_differ():
    """Resampled together, strata this far apart would give far too wide intervals."""

    def draw(rng):
        strata = [rng.normal(10 * k, 1.0, size=50) for k in range(4)]
        return statistics.stratified(strata)

    assert 0.90 <= covered(draw, 15.0) <= 0.985
    width = draw(np.random.default_rng(1))
    assert width["high"] - width["low"] == pytest.approx(
        2 * 1.96 / math.sqrt(200), rel=0.2
    )


def test_strata_count_the_same_whatever_their_size():
    assert statistics.stratified([[1.0] * 99, [3.0]])["mean"] == 2.0


def test_coverage_of_a_ratio():
    """Tokens of one document are alike, so documents have to be resampled."""

    def draw(rng):
        lengths = rng.integers(5, 50, size=80)
        totals = lengths * rng.normal(1.0, 0.3, size=80)
        return statistics.ratio(totals, lengths)

    assert 0.90 <= covered(draw, 1.0) <= 0.985


def test_the_normal_answer_for_many_values():
    values = np.random.default_rng(3).normal(1.0, 2.0, size=4000)
    found = statistics.mean(values)
    half = 1.96 * values.std() / math.sqrt(4000)
    assert found["mean"] == pytest.approx(values.mean())
    assert found["low"] == pytest.approx(values.mean() - half, abs=0.1 * half)
    assert found["high"] == pytest.approx(values.mean() + half, abs=0.1 * half)


def test_pairing_takes_out_what_prompts_have_in_common():
    rng = np.random.default_rng(0)
    hard = rng.normal(0, 10, size=200)
    before, after = hard, hard + 0.5 + rng.normal(0, 0.1, size=200)
    found = statistics.paired(before, after)
    assert found["low"] > 0 and found["high"] - found["low"] < 0.1


def test_wilson_known_values():
    """Of Brown, Cai and DasGupta 2001: 0 of 10 and 1 of 10."""
    none = statistics.share(0, 10)
    assert (none["mean"], none["low"]) == (0.0, 0.0)
    assert none["high"] == pytest.approx(0.2775, abs=1e-4)
    one = statistics.share(1, 10)
    assert one["low"] == pytest.approx(0.0179, abs=1e-4)
    assert one["high"] == pytest.approx(0.4042, abs=1e-4)
    assert statistics.share(10, 10)["high"] == 1.0


def test_the_same_seed_the_same_interval():
    values = np.arange(50.0)
    assert statistics.mean(values, seed=1) == statistics.mean(values, seed=1)
    assert statistics.mean(values, seed=1) != statistics.mean(values, seed=2)


def test_equal_values_have_an_interval_without_width():
    found = statistics.mean([0.1] * 7)
    assert found["low"] <= found["mean"] <= found["high"]
    assert found["high"] - found["low"] < 1e-12 and found["low"] > 0


@pytest.mark.parametrize(
    "call",
    [
        lambda: statistics.mean([]),
        lambda: statistics.stratified([]),
        lambda: statistics.stratified([[1.0], []]),
        lambda: statistics.ratio([1.0], [0.0]),
        lambda: statistics.paired([1.0], [1.0, 2.0]),
        lambda: statistics.share(0, 0),
        lambda: statistics.share(3, 2),
    ],
)
def test_means_of_nothing_are_refused(call):
    with pytest.raises(ValueError):
        call()
