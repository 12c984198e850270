# SPDX-License-Identifier: Apache-2.0
"""Agreement and biases of raters: known numbers, and planted biases that are found."""

import numpy as np
import pytest

from alignjax import world
from alignjax.evals import agreement, rater_bias
from alignjax.world import chance, examples, gold, labelers
from tests.evals.test_differences import near

FIRST = [0, 0, 1, 1, 2, 2, 0, 1, 2, 0, 1, 1, 2, 0, 0, 1, 2, 2, 1, 0]
SECOND = [0, 1, 1, 1, 2, 0, 0, 1, 2, 0, 0, 1, 2, 0, 2, 1, 2, 1, 1, 0]


def test_two_raters():
    out = agreement.two(FIRST, SECOND)
    assert out == near((0.75, 0.6226415094, 0.6265172736))
    assert agreement.two(FIRST, SECOND, "linear").kappa == near(0.5906432748)
    assert agreement.two(FIRST, SECOND, "quadratic").kappa == near(0.5564516129)
    assert agreement.two("aab", "aab") == (1, 1, 1)


def test_kappas_paradox():
    """They agree nearly always, for one label is the rule."""
    out = agreement.two([1] * 95 + [0] * 5, [1] * 92 + [0] * 3 + [1] * 4 + [0])
    assert out == near((0.93, 0.1860465116, 0.9234177561))


def test_fleiss():
    table = [
        *([0, 0, 0, 0, 14], [0, 2, 6, 4, 2], [0, 0, 3, 5, 6], [0, 3, 9, 2, 0]),
        *([2, 2, 8, 1, 1], [7, 7, 0, 0, 0], [3, 2, 6, 3, 0], [2, 5, 3, 2, 2]),
        *([6, 5, 2, 1, 0], [0, 2, 2, 3, 7]),
    ]
    assert agreement.fleiss(table) == near(0.2099307044)
    small = [[3, 0], [2, 1], [0, 3], [3, 0], [1, 2], [0, 3]]
    assert agreement.fleiss(small) == near(0.5555555556)
    with pytest.raises(ValueError):
        agreement.fleiss([[3, 0], [1, 1]])
    with pytest.raises(ValueError):
        agreement.fleiss([])


N = np.nan
RATINGS = [
    [1, 2, 3, 3, 2, 1, 4, 1, 2, N, N, N],
    [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, N, 3],
    [N, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, N],
    [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, N],
]


def test_krippendorff():
    expected = {
        "nominal": 0.7434210526,
        "ordinal": 0.8153875038,
        "interval": 0.8491071429,
        "ratio": 0.7974027748,
    }
    out = {scale: agreement.krippendorff(RATINGS, scale) for scale in expected}
    assert out == near(expected)
    interval = agreement.krippendorff_interval(RATINGS, "ordinal", draws=200)
    assert interval["mean"] == near(expected["ordinal"])
    assert interval["low"] < interval["mean"] < interval["high"] <= 1
    assert interval["count"] == 11
    with pytest.raises(ValueError):
        agreement.krippendorff([[1, 2], [N, N]])


def test_a_judge_beside_the_truth():
    out = agreement.with_truth([1, 0, 0.5, 0.9, 1], [0.1, -0.1, 0.2, -3, 0])
    assert [row["over"] for row in out] == [0.0, 2.0]
    assert out[0]["mean"] == near(2.5 / 3) and out[1]["mean"] == 0
    (tied,) = agreement.with_truth([0.5] * 5, [0.1] * 5)
    assert tied["low"] == near(1 - tied["high"]) and 0.1 < tied["low"] < 0.2


GOLD = [0.5, -1, 0.25, 1.5, -0.75, 0, 2, -0.25, 0.75, -1.5]
GOLD = [*GOLD, 0.1, -0.4, 1, -0.6, 0.3, -1.2, 0.8, 0.05, -0.9, 0.6]
LENGTH = [4, 6, -3, 2, -5, 8, -6, 5, -2, 7, 3, -4, 1, 6, -7, -2, 5, -3, 4, -1]
CHOICE = [1, 0, 0, 1, 0, 1, 1, 1, 1, 1, 1, 0, 1, 1, 0, 0, 1, 0, 0, 1]


def test_the_model_of_biases():
    sd = np.std(LENGTH, ddof=1)
    assert sd == near(4.6892935165)
    gaps = {"length": np.array(LENGTH) / sd}
    out = rater_bias.fit(CHOICE, GOLD, gaps, l2=1)
    expected = [0.20052177, 1.40327626, 1.29050143]
    assert list(out.weights.values()) == near(expected, 1e-6)
    assert out.prices == near({"length": 0.9196346192}, 1e-6)
    twice = [np.tile(x, 2) for x in (CHOICE, GOLD, gaps["length"])]
    halves = dict(counts=[0.5] * 40, l2=1)
    again = rater_bias.fit(*twice[:2], {"length": twice[2]}, **halves)
    assert again.errors == near(out.errors) and again.weights == near(out.weights)
    out = rater_bias.self_preference(34, 40, 26, 40)
    assert out == near((0.2, 0.0942072184))
    with pytest.raises(ValueError, match="l2"):
        rater_bias.fit((np.array(GOLD) > 0).astype(float), GOLD)


def judged(name, count=1500):
    """Choices of a labeler between two replies in random order, and their gaps."""
    town = world.build("nano", 0)
    rng, rows = chance.stream("judged", name), []
    for i in range(count):
        pair = examples.read(town, "preferences", i, name)
        replies = [pair.chosen, pair.rejected]
        first = rng.random() < 0.5
        rewards = [gold.gold_reward(pair.prompt, text) for text in replies]
        a, b = rewards if first else rewards[::-1]
        rows.append(
            (
                float(first),
                a.total - b.total,
                (a.parts.tokens - b.parts.tokens) / 10,
                a.parts.certainties - b.parts.certainties,
            )
        )
    return np.array(rows).T


@pytest.mark.parametrize("name", ["clean", "biased", "noisy"])
def test_planted_biases_are_found(name):
    """Of a labeler of temperature T: 1 / T of the truth, and its biases by T."""
    choices, truth, length, certainty = judged(name)
    out = rater_bias.fit(choices, truth, {"length": length, "certainty": certainty})
    labeler = labelers.LABELERS[name]
    (judge,), scale = labeler.judges, 1 / labeler.temperature
    within = lambda key, value: abs(out.weights[key] - value) < 2.6 * out.errors[key]
    assert within("position", 0)
    if name == "noisy":  # flips make slopes shallow
        assert out.weights["truth"] < 0.8 * scale
        return
    assert within("truth", scale)
    assert within("length", judge.length * scale)
    assert within("certainty", judge.certainty * scale)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_planted_biases_of_levels_are_found(seed):
    """A rater that gives what is first, and what is longer, higher levels."""
    rng = np.random.default_rng(seed)
    truth, length = rng.normal(size=(2, 400))
    planted = {"position": 0.1, "truth": 0.3, "length": 0.2}
    levels = 0.1 + 0.3 * truth + 0.2 * length + rng.normal(scale=0.5, size=400)
    out = rater_bias.of_levels(levels, {"truth": truth, "length": length})
    for name, weight in planted.items():
        assert out.errors[name] == pytest.approx(0.5 / 20, rel=0.2)
        assert abs(out.weights[name] - weight) < 2.6 * out.errors[name]
    # Judged in both orders a pair is one; then a position of nothing is 0 exactly.
    both = lambda x: np.concatenate([x, -x])
    gaps = {"truth": both(truth), "length": both(length)}
    twice = rater_bias.of_levels(both(levels), gaps, counts=np.full(800, 0.5))
    assert twice.weights["position"] == pytest.approx(0, abs=1e-12)
    assert twice.errors["truth"] == pytest.approx(out.errors["truth"], rel=0.1)
    with pytest.raises(ValueError, match="apart"):
        rater_bias.of_levels(levels, {"truth": truth, "length": 2 * truth})
