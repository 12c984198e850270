# SPDX-License-Identifier: Apache-2.0
"""Sentences say what the numbers say, and each has cases in which it must not."""

import math

import pytest

from alignjax.report import (
    figures_responses,
    figures_reward_model,
    figures_rollouts,
    figures_training,
    page,
    story,
)
from alignjax.world.assessment import prose
from tests.report import made_up

CLEAR, NOISE = made_up.interval(0.4, 0.1), made_up.interval(0.4, 0.5)
interval = made_up.interval


def test_a_change_within_its_interval_is_none():
    assert prose.moved(CLEAR, 1.0, 1.4, " here") == "rose from 1.00 to 1.40 here"
    down = interval(-0.4, 0.1)
    assert prose.moved(down, 1.4, 1.0) == "fell from 1.40 to 1.00"
    assert prose.moved(NOISE, 1.0, 1.4).startswith("did not change beyond")


def test_intervals_and_shares_in_words():
    assert prose.interval(CLEAR) == "0.40 [0.30, 0.50]"
    assert prose.delta(CLEAR) == "+0.40 [+0.30, +0.50]"
    assert prose.percent(0.125) == "12 %"


@pytest.mark.parametrize(
    ("chosen", "rejected", "words"),
    [
        (-0.3, -2.1, "lost probability too (likelihood displacement)"),
        (+0.2, -1.0, "likelier: no likelihood displacement"),
        (-1.0, -0.5, "were not learned"),
        (-0.004, -1.0, "hardly moved"),
        (-0.09, -1.0, "hardly moved"),
        (-0.02, -0.05, "no clear margin"),
        (-0.05, -0.02, "no clear margin"),
        (-2.0, -2.05, "no clear margin"),
        (None, -1.0, "no drift on held-out pairs"),
        (-1.0, None, "no drift on held-out pairs"),
        (math.nan, -1.0, "no drift on held-out pairs"),
    ],
)
def test_displacement(chosen, rejected, words):
    texts = ("lost probability", "became likelier", "were not learned")
    texts += ("hardly moved", "no clear margin", "no drift on held-out pairs")
    text = figures_training.displacement(chosen, rejected)
    assert words in text and sum(other in text for other in texts) == 1
    if words != texts[-1]:
        assert f"{chosen:+.2f}" in text
        moving = figures_training.displacement(chosen, rejected, moves=True)
        assert not any(other in moving for other in texts)


def test_displacement_is_of_held_out_pairs():
    row = {"drift/chosen": -3.0, "drift/rejected": -9.0}
    rows = [{"step": i, **row} for i in range(3)]
    stage = story.Stage("dpo", "preference", rows)
    caption = lambda stage: figures_training.drift(story.Story([stage])).caption
    assert "no drift on held-out" in caption(stage)
    rows[1] |= {"eval/drift/chosen": -5.0, "eval/drift/rejected": -7.0}
    rows[2] |= {"eval/drift/chosen": 0.5, "eval/drift/rejected": -7.0}
    assert "+0.50" in caption(stage) and "became likelier" in caption(stage)
    moves = stage._replace(config={"reference": {"update_every": 5}})
    assert "became likelier" not in caption(moves)
    with pytest.raises(story.Missing):
        caption(stage._replace(rows=[{"step": 0, "drift/chosen": 0.0}]))


def drawn(gold, weight=0.0):
    """A run of rollouts of two updates each, whose true reward is only logged."""
    parts = {"gold": {"weight": weight}, "model": {"weight": 1.0}}
    rows = []
    for n, x in enumerate(gold):
        row = {"rollout/reward": float(n), "rollout/kl/reference": n / 10}
        row |= {"rollout/length": 5.0 + n, "rollout/reward/gold": x}
        rows += [{"step": 2 * n, **row}, {"step": 2 * n + 1, "loss": 0.0}]
    rows[-1]["eval/reward/gold"] = gold[-1]
    return story.Stage("rl", "preference", rows, {"rollouts": {"rewards": parts}})


def test_a_proxy_that_was_pushed_too_far_is_said_so():
    figure = lambda stage: figures_rollouts.rewards(story.Story([stage]))
    fell = figure(drawn([1.0, 1.2, 1.5, 1.1, 0.8]))
    assert "highest, 1.50, after 3 rollouts" in fell.caption
    assert "over-optimised" in fell.caption
    assert ["gold, only logged", "1.00", "1.50", "3", "0.80", "0.80"] in [
        list(row) for row in fell.numbers
    ]
    rose = figure(drawn([1.0, 1.2, 1.5, 1.45])).caption
    assert "near its highest" in rose and "over-optimised" not in rose
    assert "never clearly rose" in figure(drawn([1.0, 1.05, 0.7])).caption
    gold = figure(drawn([1.0, 1.2], weight=1.0)).caption
    assert "which was not learned" not in gold
    with pytest.raises(story.Missing):
        figure(story.Stage("dpo", "preference", [{"step": 0, "loss": 1.0}]))
    with pytest.raises(story.Missing):  # its loss tells nothing
        figures_training.losses(story.Story([drawn([1.0])]))


def without(stage, metric, steps=None):
    """The stage whose rows, all or those of some steps, lack a metric."""
    rows = [dict(row) for row in stage.rows]
    for row in rows:
        if steps is None or row["step"] in steps:
            row.pop(metric, None)
    return stage._replace(rows=rows)


def of_rollouts(stage):
    drawn = figures_rollouts.rewards(story.Story([stage]))
    return drawn.caption, {row[0]: list(row[1:]) for row in drawn.numbers}


def test_a_stage_without_kl_is_drawn_and_says_so():
    """As of online DPO, which measures it in evaluations, if at all."""
    stage = without(drawn([1.0, 1.2, 1.5]), "rollout/kl/reference")
    caption, numbers = of_rollouts(stage)
    assert "went from 0.00 to 2.00, and responses from" in caption
    assert "No KL was measured." in caption
    assert not any(label.startswith("KL") for label in numbers)
    stage.rows[-1]["eval/kl/reference"] = 0.7
    caption, numbers = of_rollouts(stage)
    assert "to 2.00, 0.70 nats a response away from the start on held-out" in caption
    assert "No KL" not in caption
    assert numbers["KL from the start, nats a response"] == ["-"] * 4 + ["0.70"]


def test_a_rollout_in_which_nothing_was_scored_leaves_a_gap():
    stage = drawn([1.0, 1.2, 1.5, 1.1])
    for metric in ("rollout/reward", "rollout/reward/gold"):
        stage = without(stage, metric, steps=[2])  # the second of four
    caption, numbers = of_rollouts(stage)
    assert "learned went from 0.00 to 3.00, 0.30 nats" in caption
    assert numbers["gold, only logged"] == ["1.00", "1.50", "3", "1.10", "1.10"]


def test_a_reward_that_never_had_a_score_is_left_out_and_said():
    stage = without(drawn([1.0, 1.2]), "rollout/reward/gold")
    stage = without(stage, "eval/reward/gold")
    caption, numbers = of_rollouts(stage)
    assert caption.endswith("gold, which was not learned, had no score of any rollout.")
    assert "learned reward" in numbers and "gold, only logged" not in numbers
    caption, numbers = of_rollouts(without(stage, "rollout/reward"))
    assert "the reward that is learned was never measured, 0.10 nats" in caption
    assert len(numbers) == 3 and "learned reward" not in numbers


def test_smoothing_is_a_mean_of_the_last():
    assert figures_training.smooth([1, 2, 3, 4], 2) == [1, 1.5, 2.5, 3.5]
    assert figures_training.smooth([1, float("nan"), 3], 2) == [1, 1, 3]


def test_the_legend_of_the_losses_names_what_is_drawn():
    training = [{"step": i, "loss": 1.0} for i in range(3)]
    rows = [{**row, "eval/loss": 2.0} for row in training]
    for found, drawn in ((training, 0), (rows, 1)):
        for names in (("one", "two"), ("one", "two", "three")):
            stages = [story.Stage(name, "sft", found) for name in names]
            svg = figures_training.losses(story.Story(stages)).svg
            assert svg.count(">training<") == 1 and svg.count(">held out<") == drawn


@pytest.mark.parametrize(
    ("held_out", "words"),
    [
        ((2, 1, 1.5), "ended above its lowest in a (1.000, then 1.500 at the end)."),
        ((2, 1, 1.01), "ended at or near its lowest in a."),
        ((2, 1), "ended at or near its lowest in a."),
        ((-0.9, -1.0, -1.0), "ended at or near its lowest in a."),
        ((-0.9, -1.0, -0.9), "ended above its lowest in a"),
        ((1.0,), ""),
        ((2, math.nan, 1), ""),
        ((), "No loss on held-out data was measured."),
    ],
)
def test_overfitting(held_out, words):
    rows = [{"step": i, "loss": 1.0, "eval/loss": x} for i, x in enumerate(held_out)]
    one = story.Stage("a", "sft", rows)
    other = story.Stage("other", "sft", [{"step": 0, "loss": 1.0}])
    text = figures_training.overfitting([one])
    assert words in text and bool(words) == bool(text)
    assert figures_training.overfitting([other, one]) == text


POINTS = {10: (1.8, 0.1), 20: (1.2, 0.4), 30: (1.0, 0.8)}  # step: true reward, nats


@pytest.mark.parametrize(
    ("points", "since"),
    [
        (POINTS, 10),
        (POINTS | {30: (1.8, 0.8)}, None),  # it recovered
        (POINTS | {30: (2.5, 0.8)}, None),  # the best one is the last
        (POINTS | {10: (1.08, 0.1), 20: (1.05, 0.4)}, None),  # within the intervals
        (POINTS | {30: (1.0, 0.05)}, None),  # nearer to the reference, so not by it
        ({10: POINTS[10], 20: POINTS[20]}, None),  # the end was not measured so
        ({30: POINTS[30]}, None),
        (POINTS | {40: (0.5, 0.9)}, 10),  # later than the model that was assessed
        ({}, None),
    ],
)
def test_over_optimisation(points, since):
    trajectory = [
        {"step": n, "gold": {"nine": interval(y)}, "kl": {"kl": interval(x)}}
        for n, (y, x) in points.items()
    ]
    # That the whole model has other prompts and so another mean must not matter.
    for own in (0.5, 3.0):
        dpo = made_up.measured()["models"]["dpo"]
        dpo["trajectory"] = trajectory
        dpo["sampled"]["gold"]["nine"] = interval(own)
        caption = figures_responses._ends({"dpo": dpo}, {"dpo": None})
        assert ("over-optimised" in caption) == (since is not None)
        assert f"since step {since}:" in caption or since is None


def test_a_gain_is_against_the_reference_itself():
    measured = made_up.measured()
    caption = lambda: figures_responses.frontier(story.Story([], measured)).caption
    assert "against its reference" in caption()
    measured["models"]["sft"]["digest"] = "another"  # though its name is the same
    assert "against its reference" not in caption()
    del measured["models"]["dpo"]["kl"]["digest"]
    assert "against its reference" not in caption()


@pytest.mark.parametrize(
    ("mean", "half", "words"),
    [
        (0.1, 0.02, "rose over all kinds (+0.10"),
        (-0.1, 0.02, "fell over all kinds (-0.10"),
        (0.1, 0.2, "did not clearly move over all kinds (+0.10"),
    ],
)
def test_true_reward_has_the_verdict_of_its_own_interval(mean, half, words):
    measured = made_up.measured()
    gold = measured["changes"][0]["gold"]
    gold["nine"] = interval(mean, half)
    gold["seen"] = interval(0.06, 0.04)
    gold["unfamiliar"] = interval(0.06, 0.07)
    (line, *_) = prose.lines(measured, "sft")
    assert line.startswith(f"base -> sft: true reward {words}")
    assert "(+0.06 [+0.02, +0.10])" in line
    assert "(+0.06 [-0.01, +0.13], within the noise)" in line
    # Of two models of which neither began from the other nothing rose.
    measured["models"]["sft"]["started_from"] = "/runs/elsewhere"
    lines = prose.lines(measured, "sft")
    assert not any(word in lines[0] for word in ("rose", "fell", "move "))
    assert not any("why it matters" in line for line in lines)
    assert "With sft" not in figures_responses.stages(story.Story([], measured)).caption


def test_models_descend_by_their_parameters_or_else_by_their_path():
    measured = made_up.measured()
    change, sft = measured["changes"][0], measured["models"]["sft"]
    assert prose.descends(measured, change)
    sft["start"] = "another step of that run"
    assert not prose.descends(measured, change)
    sft |= {"start": "base", "started_from": "/moved/since"}
    assert prose.descends(measured, change)
    sft |= {"start": None, "started_from": None}
    assert not prose.descends(measured, change)


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
        ("dpo", {"fact_recall": -0.3}, ""),  # clear, and no lesson
        ("sft", {"malformed": -0.3}, ""),
        ("sft", {"nine": 0.04}, None),  # within the interval
    ],
)
def test_the_lesson_is_the_one_that_the_numbers_teach(stage, moved, lesson):
    found = made_up.measured()
    change = next(c for c in found["changes"] if c["to"] == stage)
    for group in ("gold", "rates"):
        for name in change[group]:
            mean = moved.get(name, 0.0)
            change[group][name] = interval(mean, 0.05)
    kind = made_up.KINDS[stage]
    lines = prose.lines(found, stage)
    assert len(lines) <= 4
    fits = [
        key for key, text in prose._LESSONS[kind].items() if lines[-1].endswith(text)
    ]
    assert fits == ([lesson] if lesson else [])
    assert lines[-1].startswith("why it matters: ") == (lesson != "")
    assert ("no change stands out" in lines[-1]) == (lesson is None)
    # Nothing that only demonstrations or comparisons do is said of pretraining.
    assert prose.lesson(change, "pretraining") in ("", prose.lesson(change, ""))


def test_the_first_model_imitates_everybody_only_if_it_was_pretrained():
    found = made_up.measured()
    for stage, said in (("pretraining", True), ("sft", False), ("preference", False)):
        model = found["models"]["base"] | {"stage": stage}
        text = "\n".join(prose.first_lines("m", model))
        assert ("imitates everybody" in text) == said and "unsafe requests" in text


@pytest.mark.parametrize(
    ("shift", "gold", "words", "wrongly"),
    [
        (0.271, -0.3, "raise a score (+0.27)", True),
        (0.271, 0.1, "raise a score (+0.27)", False),
        (0.0, -0.3, "do not clearly move a score", False),
        (-0.271, -0.3, "lower a score (-0.27)", False),
    ],
)
def test_padding(shift, gold, words, wrongly):
    found = made_up.measured()
    bias = found["rewards"]["reward"]["padding"]
    bias |= {"shift": interval(shift), "gold": gold}
    line = prose.lines(found, "reward")[2]
    assert words in line and f"{gold:+.2f} of true reward" in line
    assert ("wrongly prefers" in line) == wrongly


def judged(**changes):
    measured = made_up.measured()
    splits = measured["rewards"]["reward"]["splits"]
    splits["preferences"] |= changes
    return splits


def test_agreement_is_compared_by_intervals():
    splits = judged(accuracy=interval(0.52, 0.05), gold_accuracy=interval(0.8, 0.02))
    for mean, words in ((0.7, "fewer,"), (0.9, "more,"), (0.81, "not clearly")):
        splits["any"]["gold_accuracy"] = interval(mean, 0.02)
        text = figures_reward_model._agreement("rm", splits)
        assert f"on any prompt {words}" in text and "not beyond chance" in text
    del splits["any"]
    assert "any prompt" not in figures_reward_model._agreement("rm", splits)


@pytest.mark.parametrize(
    ("chosen", "count", "words"),
    [
        (0.9, 1000, "it is not clearly over- or underconfident"),
        (0.8, 1000, "it is overconfident"),
        (0.8, 10, "it is not clearly over- or underconfident"),
        (0.99, 1000, "it is underconfident"),
        (0.9, 0, ""),
    ],
)
def test_calibration_is_doubted_only_beyond_its_interval(chosen, count, words):
    share = interval(chosen, 0.01, count)
    row = {"ece": 0.3, "count": 7, "calibration": [{"predicted": 0.9, "chosen": share}]}
    row["calibration"].append({"predicted": 0.1, "chosen": interval(0.5, 0.1, 9)})
    text = figures_reward_model._calibration(row)
    assert words in text and ("confident" in text) == bool(words)


@pytest.mark.parametrize(
    ("bins", "words"),
    [
        ({"10 or more shorter": 0.5, "3 to 9 longer": 0.9}, "prefers long responses"),
        ({"3 to 9 shorter": 0.9, "3 to 9 longer": 0.5}, "prefers short responses"),
        ({"3 to 9 shorter": 0.8, "3 to 9 longer": 0.82}, "no clear bias to length"),
        ({"about as long": 0.5, "10 or more longer": 0.9}, ""),
        ({"3 to 9 longer": 0.5, "10 or more longer": 0.9}, ""),
        ({"3 to 9 shorter": 0.9}, ""),
    ],
)
def test_a_bias_to_length_needs_shorter_and_longer_responses(bins, words):
    rows = [{"longer": k, "accuracy": interval(x, 0.03)} for k, x in bins.items()]
    padding = made_up.measured()["rewards"]["reward"]["padding"]
    text = figures_reward_model._length_bias("rm", rows, padding)
    assert words in text and bool(words) == ("prefers" in text or "bias" in text)


def test_kinds_are_best_and_worst_only_beyond_their_intervals():
    measured = made_up.measured() | {"changes": []}
    slices = measured["models"]["dpo"]["sampled"]["slices"]
    caption = lambda: figures_responses.slices(story.Story([], measured)).caption
    for i, figures in enumerate(slices.values()):
        figures["gold"] = interval(1.0 + i / 100)
    assert "does not clearly do better" in caption()
    slices["eval_fact"]["gold"] = interval(1.9)
    slices["eval_safe"]["gold"] = interval(0.1)
    assert "best on fact (1.90) and worst on safe (0.10)" in caption()


def test_kinds_that_did_not_clearly_change_neither_gained_nor_lost():
    measured = made_up.measured()
    gold = measured["changes"][1]["gold"]
    caption = lambda: figures_responses.slices(story.Story([], measured)).caption
    for kind in gold:
        gold[kind] = interval(0.2, 0.3)
    assert "gained on no kind beyond its interval, and lost on none" in caption()
    gold["eval_fact"], gold["eval_safe"] = interval(0.2, 0.1), interval(-0.2, 0.1)
    assert "gained on fact (+0.20), and lost on safe (-0.20); 7 of 9" in caption()


def test_losses_of_text_are_compared_by_intervals():
    for last, words in (
        (0.65, "rose"),
        (0.55, "fell"),
        (0.61, "did not change clearly"),
    ):
        text = [interval(0.6, 0.02), interval(last, 0.02)]
        assert words in figures_responses._loss_changes(["a", "b"], text, text)
    assert "needs" in figures_responses._loss_changes(["a"], text[:1], text[:1])


def test_the_lead_compares_nothing_where_there_is_one_model():
    measured = made_up.measured()
    assert page._lead(story.Story([], measured)).startswith("From base to dpo the true")
    measured["models"] = {"dpo": measured["models"]["dpo"]}
    assert "From" not in page._lead(story.Story([], measured))
    assert "training only" in page._lead(story.Story([]))


@pytest.mark.parametrize(
    ("mean", "half", "verdict", "moved"),
    [(0.2, 0.1, "up", "rose"), (-0.2, 0.1, "down", "fell"), (0.2, 0.3, "", "")],
)
def test_shares_and_lengths_move_only_beyond_their_intervals(
    mean, half, verdict, moved
):
    measured = made_up.measured()
    for group in ("rates", "lengths"):
        figures = measured["changes"][1][group]
        figures |= {name: interval(mean, half) for name in figures}
    data = story.Story([], measured)
    label = {"fact_recall": "facts right (should be high)"}
    text = figures_responses._share_changes(data, label).split("with dpo ")[1]
    assert text == f"({verdict or 'no clear change'})."
    text = figures_responses._length_changes(data).split("With dpo ")[1]
    for word in ("rose", "fell"):
        assert text.count(word) == (2 if word == moved else 0)
    assert text.count("did not change beyond the interval") == (0 if moved else 2)


def test_nothing_is_missing_that_was_given_and_assessed():
    stages = [story.Stage(kind, kind, []) for kind in story.KINDS]
    assert story.Story(stages, made_up.measured()).gaps == []
    (gap,) = story.Story(stages[1:], made_up.measured()).gaps
    assert gap.startswith("pretraining, ") and "--stage" in gap
    assert "was not assessed" not in gap
    gaps = story.Story(stages).gaps
    assert len(gaps) == 4 and not any("--stage" in gap for gap in gaps)
