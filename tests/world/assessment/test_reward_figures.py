# SPDX-License-Identifier: Apache-2.0
"""Figures of a reward model, for scores of known quality."""

import numpy as np
import pytest

from alignjax import world
from alignjax.analysis import scoring
from alignjax.world.assessment import benchmarks, reward_model
from tests.world.assessment import subjects

TOWN = world.build("nano", 0)
BENCHMARK = benchmarks.Benchmark(TOWN, benchmarks.Settings(pairs=600))
PAIRS = BENCHMARK.pairs("eval_preferences", "clean")
TRUTH = np.array([pair.rewards for pair in PAIRS])


def judged(scores_N2, **options):
    return reward_model.judge(PAIRS, scores_N2[:, 0], scores_N2[:, 1], **options)


def test_the_truth_itself():
    """The clean labeler is the true reward at a temperature of 0.4."""
    found = judged(TRUTH / 0.4)
    assert found["gold_accuracy"]["mean"] == 1
    assert found["correlation"] == pytest.approx(1)
    assert found["accuracy"]["low"] <= found["ceiling"] <= found["accuracy"]["high"]
    assert found["ece"] < 0.07
    assert all(b["accuracy"]["mean"] == 1 for b in found["by_length"])
    curve = found["calibration"]
    inside = [
        p["chosen"]["low"] <= p["predicted"] <= p["chosen"]["high"] for p in curve
    ]
    assert len(curve) == 10 and sum(inside) >= 8  # 19 of 20, on average


def test_a_model_that_likes_length_shows_it():
    lengths = [
        [reward_model.words(p.chosen), reward_model.words(p.rejected)] for p in PAIRS
    ]
    found = judged(np.array(lengths, float))
    by_length = {b["longer"]: b["accuracy"]["mean"] for b in found["by_length"]}
    assert by_length["10 or more shorter"] == by_length["3 to 9 shorter"] == 0
    assert by_length["10 or more longer"] == by_length["3 to 9 longer"] == 1
    assert sum(b["accuracy"]["count"] for b in found["by_length"]) < len(PAIRS)


def test_a_model_that_knows_nothing_is_right_half_the_time():
    found = judged(np.zeros((len(PAIRS), 2)))
    assert found["accuracy"]["mean"] == found["gold_accuracy"]["mean"] == 0.5
    assert found["nll"] == pytest.approx(np.log(2))
    assert found["correlation"] == 0
    assert found["ece"] < 0.08  # the order is random, or it would be 1/2


def test_one_that_is_too_sure_is_not_calibrated():
    assert judged(100 * TRUTH)["ece"] > 2 * judged(TRUTH / 0.4)["ece"]


def test_scores_are_of_the_last_token_or_the_mean():
    one = subjects.make("rm", heads=1, data={"chat": "roles"})
    replies = [(pair.prompt, pair.chosen) for pair in PAIRS[:1]]
    found = reward_model.score(one, replies)
    mean = one.run.config | {"objective": {"pooling": "mean"}}
    one.run.config = mean
    averaged = reward_model.score(one, replies)
    for i, (prompt, text) in enumerate(replies):
        before, after = one.format.prompt(prompt.turns), one.format.response(text)
        rows = [scoring.Row(before, after)]
        ((_, row),) = scoring.batches(rows, one.run.model.config.max_length)
        hidden = one.run.model.hidden(one.params, row)
        scores = np.asarray(one.run.model.score(one.params, hidden))[0, :, 0]
        scores = scores[len(before) - 1 : len(before) + len(after) - 1]
        np.testing.assert_allclose(found[i], scores[-1], rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(averaged[i], scores.mean(), rtol=1e-4, atol=1e-5)


def test_the_whole_of_it_is_json_and_the_same_again():
    one = subjects.make("rm", heads=1, data={"chat": "roles"})
    few = benchmarks.Benchmark(TOWN, benchmarks.Settings(pairs=24))
    found = reward_model.assess(one, few)
    assert found == reward_model.assess(one, few)
    assert set(found["splits"]) == {"preferences", "any"}
    # Two fillers cost 0.3, and a constraint on length where there is one.
    assert -1.8 <= found["padding"]["gold"] <= -0.3
