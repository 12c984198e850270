# SPDX-License-Identifier: Apache-2.0
"""Judges as rewards: who is compared with whom, and what has no score."""

import pytest

from alignjax import errors, rewards, world
from alignjax.experiment import build
from alignjax.world import examples, labelers
from tests.judges import opinions
from tests.rollouts import small

HI, BYE = (("user", "hi"),), (("user", "bye"),)


def response(text, turns=HI, record=None, finished=True):
    return rewards.Response(turns, record, text, len(text), finished, 20)


def score(responses, judge="longer", **options):
    section = dict(kind="judge", judge=f"tests.judges.opinions:{judge}", **options)
    return rewards.score(rewards.build({"j": section}, "rewards"), responses)


def test_each_response_is_compared_with_all_others_to_its_prompt_in_both_orders():
    opinions.ASKED.clear()
    texts = ["a", "bbb", "a", "cc"]
    responses = [response(x) for x in texts] + [
        response("dddd", BYE),
        response("", BYE),
    ]
    out = score(responses)
    # a: ties with its equal, .3 beside bbb, .4 beside cc; what is read first cancels.
    a = (0.5 + 0.3 + 0.4) / 3
    bbb, cc = (0.7 + 0.7 + 0.6) / 3, (0.6 + 0.6 + 0.4) / 3
    assert out.total == pytest.approx([a, bbb, a, cc, 0.9, 0.1])
    pairs = [(prompt, {x, y}) for prompt, x, y in opinions.ASKED]
    assert len(set(opinions.ASKED)) == len(pairs) == 2 * 3 + 2  # none twice
    assert ("bye", {"dddd", ""}) in pairs and ("hi", {"a", "cc"}) in pairs


def test_a_failure_is_no_score_and_no_zero():
    out = score(
        [response(x) for x in ("bad", "x", "yyy")], "squeamish", most_failed=0.7
    )
    assert out.total == [None, 0.0, 1.0]  # the last two are compared with each other
    assert "will not read" in out.faults[0] and "1 without a score" in out.faults[0]
    with pytest.raises(errors.DataError, match="will not read"):
        score([response("bad"), response("x")], "squeamish", most_failed=0.4)


def test_a_single_response_has_no_rival_but_one_of_its_record():
    alone = score([response("x"), response("x", BYE)])
    assert alone.total == [None, None] and "no other response" in alone.faults[0]
    known, without = {"ideal": "yyy"}, {"other": 1}
    responses = [response("x", record=known), response("yyy", record=known)]
    out = score([*responses, response("x", record=without)], against="ideal")
    assert out.total == pytest.approx([0.3, 0.5, None])
    assert "'ideal'" in out.faults[0]


def test_a_labeler_of_the_world_judges_its_prompts():
    prompt = examples.read(world.build("nano", 0), "prompts", 3)
    texts = [("no.", True), ("i do not know.", False)]
    golds = [world.gold_reward(prompt, x, finished=f) for x, f in texts]
    first = labelers.prefers(labelers.LABELERS["clean"], prompt, *golds)
    responses = [response(x, prompt.turns, prompt, f) for x, f in texts]
    section = dict(kind="judge", judge="labeler:clean")
    out = rewards.score(rewards.build({"j": section}, "rewards"), responses)
    assert out.total == pytest.approx([first, 1 - first])
    assert first != 0.5


def test_responses_that_are_drawn_alone_are_refused(tmp_path):
    """By ReMax, as the best checkpoint of evaluations, and where one is drawn."""
    taste = {"taste": dict(kind="judge", judge="labeler:noisy")}
    fields = [
        dict(rollouts__advantage={"name": "remax"}),
        dict(rollouts__advantage={"name": "reinforce"}, rollouts__samples=1),
        dict(checkpoint__keep_best=["eval/reward", "max"], evaluation__every=2),
    ]
    for own in fields:
        section = small.section(tmp_path, rollouts__rewards=taste, **own)
        with pytest.raises(errors.ConfigError, match=r"taste|keep_best: no 'eval"):
            build.check(section)


def test_a_run_is_of_the_judge_that_it_learned_from(tmp_path):
    section = dict(kind="judge", judge="labeler:noisy", weight=1.0)
    config = small.section(tmp_path, rollouts__rewards={"taste": section})
    run = build.build(config)
    assert run.identity["rewards"]["taste"]["judge"] == "labeler:noisy"
    with pytest.raises(errors.ConfigError, match=r"rewards\.taste\.judge"):
        rewards.build({"taste": {**section, "judge": "labeler:nobody"}}, "rewards")
