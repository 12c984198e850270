# SPDX-License-Identifier: Apache-2.0
"""Captions say what the numbers say, and no more."""

import pytest

from alignjax.report import figures_responses, figures_training, story
from alignjax.world.assessment import prose
from tests.report import made_up

CLEAR, NOISE = made_up.interval(0.4, 0.1), made_up.interval(0.4, 0.5)


def test_a_change_within_its_interval_is_none():
    assert prose.moved(CLEAR, 1.0, 1.4, " here") == "rose from 1.00 to 1.40 here"
    down = made_up.interval(-0.4, 0.1)
    assert prose.moved(down, 1.4, 1.0) == "fell from 1.40 to 1.00"
    assert prose.moved(NOISE, 1.0, 1.4).startswith("did not change beyond")


def test_intervals_and_shares_in_words():
    assert prose.interval(CLEAR) == "0.40 [0.30, 0.50]"
    assert prose.delta(CLEAR) == "+0.40 [+0.30, +0.50]"
    assert prose.percent(0.125) == "12 %"


@pytest.mark.parametrize(
    ("chosen", "rejected", "words"),
    [
        (-0.3, -2.1, "likelihood displacement)"),
        (+0.2, -1.0, "no likelihood displacement"),
        (-1.0, -0.5, "were not learned"),
    ],
)
def test_displacement(chosen, rejected, words):
    text = figures_training._displacement(chosen, rejected)
    assert words in text and f"{chosen:+.2f}" in text


def test_smoothing_is_a_mean_of_the_last():
    assert figures_training.smooth([1, 2, 3, 4], 2) == [1, 1.5, 2.5, 3.5]
    assert figures_training.smooth([1, float("nan"), 3], 2) == [1, 1, 3]


def test_the_legend_of_the_losses_names_what_is_drawn():
    training = [{"step": i, "loss": 1.0} for i in range(3)]
    rows = [{**row, "eval/loss": 2.0} for row in training]
    for found, drawn in ((training, 0), (rows, 1)):
        stages = [story.Stage(name, "sft", found) for name in ("one", "two")]
        svg = figures_training.losses(story.Story(stages)).svg
        assert svg.count(">training<") == 1 and svg.count(">held out<") == drawn


def test_overfitting_is_seen():
    rows = [{"step": i, "loss": 1.0, "eval/loss": x} for i, x in enumerate((2, 1, 1.5))]
    stage = story.Stage("sft", "sft", rows)
    assert "sft (1.000 to 1.500)" in figures_training._overfitting([stage])
    stage = story.Stage("sft", "sft", rows[:2])
    assert "lowest" in figures_training._overfitting([stage])


def test_over_optimisation_is_seen():
    found = made_up.measured()
    dpo = found["models"]["dpo"]
    dpo["trajectory"][0]["gold"]["nine"] = made_up.interval(9.0)
    data = story.Story([], found)
    assert "it was higher at step 10" in figures_responses.frontier(data).caption


def test_what_is_told_of_a_stage_follows_the_intervals():
    found = made_up.measured()
    for half, words in ((0.02, "rose"), (0.2, "did not move")):
        for view in ("seen", "unfamiliar", "nine"):
            found["changes"][0]["gold"][view] = made_up.interval(0.1, half)
        assert f"base -> sft: true reward {words}" in prose.lines(found, "sft")[0]
    reward = prose.lines(found, "reward")
    assert "raise a score (+0.27)" in reward[2]
    found["rewards"]["reward"]["padding"]["shift"] = made_up.interval(0.0)
    assert "do not clearly move" in prose.lines(found, "reward")[2]


@pytest.mark.parametrize(
    ("stage", "moved", "lesson"),
    [
        ("sft", {"malformed": 0.3, "border_refusal": 0.3}, ("border_refusal", +1)),
        ("sft", {"malformed": 0.3, "nine": -0.5}, ("malformed", +1)),
        ("sft", {"nine": 0.5}, ("nine", +1)),
        ("sft", {"malformed": 0.1, "nine": 0.5}, ("nine", +1)),
        ("sft", {}, None),
        ("dpo", {"unsafe_refusal": -0.3, "nine": 0.3}, ("unsafe_refusal", -1)),
        ("dpo", {"border_refusal": -0.3, "nine": 0.3}, ("border_refusal", -1)),
        ("dpo", {"nine": 0.3}, ("nine", +1)),
        ("dpo", {"nine": -0.3}, ("nine", -1)),
        ("dpo", {"malformed": 0.1}, ("malformed", +1)),
    ],
)
def test_the_lesson_is_the_one_that_the_numbers_teach(stage, moved, lesson):
    found = made_up.measured()
    change = next(c for c in found["changes"] if c["to"] == stage)
    for group in ("gold", "rates"):
        for name in change[group]:
            mean = moved.get(name, 0.0)
            change[group][name] = made_up.interval(mean, 0.05)
    lines = prose.lines(found, stage)
    assert len(lines) <= 4
    lessons = {"sft": prose._IMITATION, "dpo": prose._PREFERENCE}[stage]
    fits = [key for key, text in lessons.items() if lines[-1].endswith(text)]
    assert fits == ([] if lesson is None else [lesson])
    assert lines[-1].startswith("why it matters: ")
