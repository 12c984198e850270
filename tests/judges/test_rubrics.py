# SPDX-License-Identifier: Apache-2.0
"""Rubrics as data: what responses are worth by them, and files that are none."""

import json

import pytest

from alignjax import errors
from alignjax.judges import rubric

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
        ({"kind": "human"}, "kind: unknown"),
        ({"check": "module:function"}, r"criteria\.correct\.check"),
        ({"check": "finished", "levels": list("abc")}, r"criteria\.correct\.levels"),
        ({"veto": {"at": 5}}, r"criteria\.correct\.veto\.at"),
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
