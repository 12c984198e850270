# SPDX-License-Identifier: Apache-2.0
"""Rewards by kind."""

import sys

import numpy as np
import pytest

from alignjax import analysis, errors, rewards, world
from alignjax.experiment import build as experiment_of
from alignjax.rewards import function as function_of_worker
from alignjax.world import examples
from tests.rollouts import small


def response(text, **fields):
    plain = dict(turns=(("user", "hi"),), record=None, text=text, length=len(text))
    return rewards.Response(**plain | dict(finished=True, room=20) | fields)


def build(**section):
    return rewards.build({"r": section}, "rewards")


def values(named, *responses):
    return rewards.score(named, responses).total


def test_a_function_that_fails_in_every_way(monkeypatch):
    """Exception, NaN, exit and hang: no score, and why; never 0."""
    monkeypatch.setenv("PYTHONPATH", str(small.ROOT))
    named = build(
        kind="function",
        function="tests.rollouts.functions:odd",
        seconds=0.5,
        most_failed=0.9,
    )
    scored = rewards.score(named, [response("x" * n) for n in range(5)])
    assert scored.total == [None, None, None, None, 1.0]
    assert "4 without a score" in scored.faults[0] and "ValueError" in scored.faults[0]
    named = build(kind="function", function="tests.rewards.quitters:quits")
    texts = ("exit", "none", "base")
    scored = [rewards.score(named, [response(x), response("")]) for x in texts]
    assert [x.total for x in scored] == [[None, 1.0]] * 3
    for told, one in zip(("exit(2)", "returned", "Odd: mine"), scored, strict=True):
        assert told in one.faults[0] and "memory" not in one.faults[0]
    few = build(
        kind="function", function="tests.rollouts.functions:odd", most_failed=0.1
    )
    with pytest.raises(errors.DataError, match="most_failed"):
        rewards.score(few, [response("")])


@pytest.mark.parametrize(
    "reward",
    [
        lambda responses: sys.exit(0),  # not the end of training
        lambda responses: None,
        lambda responses: {0: 1.0},
        lambda responses: [1.0] * (len(responses) + 1),
        lambda responses: ["good"] * len(responses),
        lambda responses: ["1.5"] * len(responses),
        lambda responses: np.array(5.0),
        lambda responses: [10**400] * len(responses),
    ],
)
def test_what_is_no_list_of_scores(reward):
    with pytest.raises(errors.DataError, match=r"rewards\.mine"):
        rewards.score([rewards.Named("mine", 1.0, reward)], [response("a")])


def test_a_text_of_a_function_is_no_number():
    function = "tests.rewards.quitters:written"
    value, fault = function_of_worker.call([function, [], "", None, 5.0])
    assert value is None and "'1.0' is a text" in fault


@pytest.mark.parametrize("raised", [KeyError("score"), ConnectionError("refused")])
def test_a_module_of_someone_else_fails_by_the_name_of_its_reward(raised):
    """With the line that failed; a network that is down is no broken checkpoint."""

    def reward(responses):
        raise raised

    named = rewards.Named("mine", 1.0, reward)
    with pytest.raises(errors.DataError) as caught:
        rewards.score([named._replace(outside=True)], [response("a")])
    assert str(caught.value).startswith(f"rewards.mine: {type(raised).__name__}")
    assert "test_rewards.py:" in str(caught.value)
    with pytest.raises(type(raised)):  # ours has a fault, and shows all of it
        rewards.score([named], [response("a")])


@pytest.mark.parametrize("kind", [errors.ConfigError, errors.DataError])
def test_what_a_reward_refuses_has_its_name(kind):
    def reward(responses):
        raise kind("no such room")

    with pytest.raises(kind, match=r"^rewards\.mine: no such room$"):
        rewards.score([rewards.Named("mine", 1.0, reward)], [response("a")])


def test_a_bound_is_of_what_is_added_and_not_of_what_is_logged():
    scores = lambda responses: [9.0, -7.0, 1.0, None]
    named = [rewards.Named("mine", -0.5, scores, clip=4.0)]
    scored = rewards.score(named, [response("")] * 4)
    assert scored.total == [-2.0, 2.0, -0.5, None]
    assert scored.parts == {"mine": [9.0, -7.0, 1.0, None]}
    assert build(kind="world", clip=4)[0].clip == 4.0
    for field in ("weight", "clip"):
        for value in (10**400, -(10**400)):
            with pytest.raises(errors.ConfigError, match=rf"r\.{field}: -?inf is no"):
                build(kind="world", **{field: value})


def test_a_function_in_the_place_of_a_factory_and_the_other_way_round():
    name = "tests.rollouts.functions:vowels"
    with pytest.raises(errors.ConfigError) as caught:
        build(kind=name)
    assert f"rewards.r.kind: {name} makes a reward of its options" in str(caught.value)
    with pytest.raises(
        errors.ConfigError, match=r"r\.function: slow\(seconds: float\)"
    ):
        build(kind="function", function="tests.rollouts.functions:slow")
    with pytest.raises(errors.ConfigError, match="did you mean 'vowels'"):
        build(kind="function", function="tests.rollouts.functions:vowel")
    with pytest.raises(errors.ConfigError, match=r"None; one of .*, or module:fun"):
        build(function=name)


def test_a_module_that_ends_the_process(tmp_path, monkeypatch):
    (tmp_path / "ends_at_import.py").write_text("import sys\nsys.exit(0)\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(errors.ConfigError, match=r"r\.kind"):
        build(kind="ends_at_import:reward")
    (tmp_path / "ends_later.py").write_text(
        "import sys\nmake = sys.exit\nfive = lambda: 5\n"
    )
    for kind in ("ends_later:make", "ends_later:five", "builtins:int"):
        with pytest.raises(errors.ConfigError, match=r"rewards\.r"):
            build(kind=kind)


def test_the_world_knows_what_is_true():
    town = world.build("nano", 0)
    prompt = examples.read(town, "prompts", 3)
    texts = ["no.", "i do not know."]
    responses = [
        response(t, record=prompt, finished=f) for t in texts for f in (True, False)
    ]
    expected = [
        world.gold_reward(prompt, a.text, finished=a.finished).total for a in responses
    ]
    assert values(build(kind="world"), *responses) == expected
    with pytest.raises(errors.DataError, match="world"):
        values(build(kind="world"), response("no."))


def test_a_reward_model_scores_as_its_run_does():
    path = str(small.RUNS / "reward_model")
    turns = (("user", "what is two plus two?"),)
    responses = [response("four.", turns=turns), response(" ", turns=turns)]
    score = analysis.open_run(path).score([list(turns)], ["four."])[0].reward
    named = build(kind="run", run=path, mean=0.5, std=2.0)
    first, empty = values(named, *responses)
    assert first == pytest.approx((score - 0.5) / 2) and empty is None
    # One that the model cannot read is left out, and the others keep their scores.
    bad = [response(x, turns=turns) for x in ("fo\0ur", "x" * 5000)]
    scored = rewards.score(named, [bad[0], responses[0], bad[1]])
    assert scored.total == pytest.approx([None, first, None])
    assert "2 without a score: a NUL character" in scored.faults[0]
    assert "the model takes 1 to 512" in rewards.score(named, bad[1:]).faults[0]


def test_a_reward_model_of_texts_scores_no_dialogues(monkeypatch):
    monkeypatch.setattr(analysis.Run, "chats", None)
    with pytest.raises(errors.ConfigError, match=r"r\.run: .*did not learn dialogues"):
        build(kind="run", run=str(small.RUNS / "reward_model"))


def test_a_policy_is_of_the_parameters_of_its_reward_model(tmp_path):
    """Its run may train on: the policy does not go on with the newer checkpoint."""
    section = dict(kind="run", run=str(small.RUNS / "reward_model"), weight=1.0)
    opened = analysis.open_run(section["run"]).at()
    expected = {"rm": {"digest": opened.digest()}}
    config = small.section(tmp_path, rollouts__rewards={"rm": section})
    assert experiment_of.build(config).identity["rewards"] == expected


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (dict(per_token=-0.5), [-2.5, -9.0, -10.0]),
        (dict(unfinished=-1.0), [0.0, 0.0, -1.0]),
        # DAPO's Eq. 13 with 4 tokens before the end of 20.
        (dict(overlong=4), [0.0, -0.5, -1.0]),
    ],
)
def test_length(options, expected):
    responses = [response("x" * n, finished=n < 20) for n in (5, 18, 20)]
    assert values(build(kind="length", **options), *responses) == pytest.approx(
        expected
    )


def test_a_penalty_of_more_tokens_than_there_can_be():
    named = build(kind="length", overlong=20)
    assert values(named, response("x" * 10)) == [-0.5]
    with pytest.raises(errors.ConfigError, match=r"overlong: 21 .* room of 20"):
        values(build(kind="length", overlong=21), response("x"))


def test_sums_are_weighted_and_parts_are_kept():
    sections = {
        "a": dict(kind="length", per_token=1.0, weight=2.0),
        "b": dict(kind="length", unfinished=-1.0),
        "watched": dict(kind="length", per_token=7.0, weight=0.0),
    }
    named = rewards.build(sections, "rewards")
    scored = rewards.score(named, [response("xxx", finished=False)])
    assert scored.total == [5.0]
    assert scored.parts == {"a": [3.0], "b": [-1.0], "watched": [21.0]}
    for section in (5, None, "length"):
        with pytest.raises(errors.ConfigError, match=r"rewards\.a"):
            rewards.build({"a": section}, "rewards")
    with pytest.raises(errors.ConfigError, match="not 0"):
        rewards.build({"watched": sections["watched"]}, "rewards")
