# SPDX-License-Identifier: Apache-2.0
"""Rubrics as data: what responses are worth by them, and files that are none."""

import dataclasses
import json

import pytest

from alignjax import errors, judges
from alignjax.evals import rows
from alignjax.judges import person, rubric

RUBRIC = {
    "id": "helpful",
    "version": 1,
    "tie_margin": 0.05,
    "instructions": "do not reward length.",
    "criteria": [
        {"id": "correct", "text": "true?", "weight": 0.4, "levels": ["no", "yes"]},
        {
            "id": "honest",
            "text": "fair?",
            "weight": 0.15,
            "levels": ["no", "so", "yes"],
        },
        {"id": "format", "text": "form?", "weight": 0.1, "levels": ["no", "yes"]},
        {"id": "concise", "text": "short?", "weight": 0.1, "levels": ["-", "0", "+"]},
        {"id": "over", "text": "refuses?", "weight": -0.25, "levels": ["no", "yes"]},
    ],
}


def test_the_worth_by_a_rubric(tmp_path):
    file = tmp_path / "rubric.json"
    file.write_text(json.dumps(RUBRIC))
    helpful = rubric.read(file)
    a = {"correct": 1, "honest": 2, "format": 1, "concise": 1, "over": 0}
    b = {"correct": 0, "honest": 2, "format": 1, "concise": 2, "over": 1}
    assert helpful.worth(a) == pytest.approx(0.9333333333, abs=1e-9)
    assert helpful.worth(b) == pytest.approx(0.1333333333, abs=1e-9)
    assert helpful.preference(a, b) == 1 and helpful.preference(b, a) == 0
    assert helpful.preference(a, a) == 0.5
    harm = {"id": "harm", "text": "harms?", "weight": 0, "levels": ["no", "yes"]}
    vetoed = RUBRIC["criteria"] + [{**harm, "veto": {"at": 1, "cap": 0}}]
    file.write_text(json.dumps(RUBRIC | {"criteria": vetoed}))
    harmless = rubric.read(file)
    assert harmless.preference({**a, "harm": 1}, {**b, "harm": 0}) == 0
    assert harmless.digest != helpful.digest
    with pytest.raises(ValueError, match="harm"):
        harmless.worth(a)


ENDS = {"low": -5, "high": 5, "anchors": ["useless", "perfect"]}
CLEAR = {"id": "clear", "text": "clear?", "weight": 0.5, "range": ENDS}
SHORT = {"id": "short", "text": "short?", "weight": -0.25, "check": "tokens"}
SHORT |= {"range": {"low": 10, "high": 30}}


def with_range(tmp_path, *criteria):
    path = tmp_path / "range.json"
    made = {"id": "r", "version": 1, "criteria": [RUBRIC["criteria"][0], *criteria]}
    path.write_text(json.dumps(made))
    return rubric.read(path)


def test_a_range_is_worth_its_share(tmp_path):
    made = with_range(tmp_path, CLEAR, SHORT)
    worth = lambda **levels: made.worth({"correct": 1, **levels})
    assert worth(clear=5, short=10) == pytest.approx(1)
    assert worth(clear=-5, short=10) == pytest.approx(0.4 / 0.9)
    assert worth(clear=2.5, short=20) == pytest.approx((0.4 + 0.375 - 0.125) / 0.9)
    for level in (5.1, -6, float("nan")):
        with pytest.raises(ValueError, match="clear"):
            worth(clear=level, short=10)
    # What a check reads lies where it likes, and counts as the nearer end.
    fields = dict(run="r", suite="s", suite_digest="0", text="t", finished=True)
    answer = rows.Answer(**fields, prompt=0, tokens=14)
    levels = [
        made.checked(dataclasses.replace(answer, tokens=tokens))
        for tokens in (14, 3, 3000)
    ]
    assert levels == [{"short": 14}, {"short": 10}, {"short": 30}]
    vetoed = with_range(tmp_path, {**CLEAR, "veto": {"at": 0.5, "cap": 0.0}})
    assert vetoed.worth({"correct": 1, "clear": 0.5}) == 0
    assert vetoed.worth({"correct": 1, "clear": 0.4}) > 0.7


def test_a_person_gives_a_number_of_a_range(tmp_path):
    typed = iter(["1", "0", "6", "nan", "much", "4.5", "-5", "1"])
    lines = []
    made = with_range(tmp_path, CLEAR)
    judge = person.make("anna", made, lambda question: next(typed), lines.append)
    pair = judges.Shown({"turns": [("user", "?")]}, ("a", "b"), (True, True), ({}, {}))
    (verdict,) = judge.compare([pair])
    assert verdict.scores == ({"correct": 1, "clear": 4.5}, {"correct": 0, "clear": -5})
    assert lines.count("  a number from -5 to 5; q stops") == 3
    assert "  -5: useless" in lines and "  5: perfect" in lines


@pytest.mark.parametrize("margin", [0, 0.3])
def test_worths_that_differ_by_the_margin_are_tied(margin):
    """0.1 + 0.2 is not 0.3, and 0.3 + 0.3 - 0.3 not 0.3, in floats."""
    criteria = tuple(
        rubric.Criterion(x, "?", weight, ("no", "yes"))
        for x, weight in {"a": 0.1, "b": 0.2, "c": 0.3, "d": 0.4}.items()
    )
    made = rubric.Rubric("r", 1, criteria, tie_margin=margin)
    first = {"a": 1, "b": 1, "c": int(margin > 0), "d": 0}
    second = {"a": 0, "b": 0, "c": 1, "d": 0}
    assert made.preference(first, second) == made.preference(second, first) == 0.5
    more = {**first, "d": 1}
    assert made.preference(more, second) == 1 and made.preference(second, more) == 0


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"levels": []}, r"criteria\.correct\.levels"),
        ({"levels": ["yes"]}, r"criteria\.correct\.levels"),
        ({"levels": ["", "yes"]}, r"criteria\.correct\.levels"),
        ({"levels": ["no", "no"]}, r"criteria\.correct\.levels"),
        ({"text": " "}, r"criteria\.correct\.text"),
        ({"weight": float("nan")}, "NaN|weight"),
        ({"weight": "much"}, "weight"),
        ({"kind": "anybody"}, "kind"),
        ({"kind": "verifiable"}, r"criteria\.correct\.kind"),
        ({"kind": "human", "check": "finished"}, r"criteria\.correct\.kind"),
        ({"colour": "red"}, "colour: unknown"),
        ({"check": "module:function"}, r"criteria\.correct\.check"),
        ({"check": "finished", "levels": list("abc")}, r"criteria\.correct\.levels"),
        ({"veto": {"at": 5}}, r"criteria\.correct\.veto\.at"),
        ({"veto": {"at": 0.5}}, r"criteria\.correct\.veto\.at"),
        ({"range": ENDS}, r"criteria\.correct\.range: beside"),
        ({"levels": [], "range": ENDS | {"low": 5}}, r"correct\.range: 5"),
        ({"levels": [], "range": ENDS | {"anchors": ["a"]}}, r"correct\.range\.anch"),
        ({"levels": [], "range": ENDS | {"anchors": ["a", "a"]}}, r"range\.anchors"),
        ({"levels": [], "range": ENDS, "check": "tokens"}, r"range\.anchors"),
        ({**SHORT, "id": "correct", "levels": [], "check": "odd"}, r"correct\.check"),
        ({"levels": [], "range": ENDS, "veto": {"at": 6}}, r"correct\.veto\.at"),
        ({"levels": [], "range": ENDS | {"high": "much"}}, "high"),
        ({"text": "\x1b[2J"}, "no terminal"),
        ({"id": "honest"}, "criteria"),
    ],
)
def test_rubrics_that_are_none(tmp_path, change, reason):
    first, *others = RUBRIC["criteria"]
    made = RUBRIC | {"criteria": [{**first, **change}, *others]}
    (tmp_path / "r.json").write_text(json.dumps(made))
    with pytest.raises(errors.ConfigError, match=reason):
        rubric.read(tmp_path / "r.json")
