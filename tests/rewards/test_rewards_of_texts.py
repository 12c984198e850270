# SPDX-License-Identifier: Apache-2.0
"""Rewards that read a response: numbers, boxes, marks and repetition.

Models find whatever a reward accepts, so what is accepted is written out here.
"""

import decimal
import fractions
import time

import pytest

from alignjax import errors, rewards
from alignjax.rewards import boxed, boxes, format, numbers_of_text, repetition


def response(text, record=None):
    return rewards.Response((("user", "?"),), record, text, 9, True, 20)


def values(section, *responses):
    """The scores of responses under a reward of a config."""
    named = rewards.build({"it": section}, "rewards")
    return rewards.score(named, responses).total


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("he has 3 cats and 1,234.50 more", "2469/2"),
        ("so it is $12.00.", "12"),
        ("#### 72", "72"),
        ("4 + 4 = 8\n#### -1,000 cats of 7", "-1000"),
        ("between 3-5", "5"),
        ("it fell to -5", "-5"),
        ("a share of 3/4", "3/4"),
        ("\u22122", "-2"),
        (".5 of it", "1/2"),
        ("1,2", "2"),
        ("in 2024, 7", "7"),
        ("5/0", None),
        ("-$5", "-5"),
        ("#### -$1,000", "-1000"),
        (r"\boxed{42} in 3 steps", "42"),
        (r"\boxed{\frac{1}{2}} of 8", "1/2"),
        (r"\boxed{42} and then #### 43 of 8", "43"),
        (r"\boxed{it} in 3 steps", None),
        ("none", None),
        ("", None),
        ("7 " + "9" * 5000, "7"),
        ("\u0663", "3"),
        (r"The answer is $\frac{3}{4}$.", "3/4"),
        (r"\boxed{\frac{3}{4}}", "3/4"),
        (r"#### -\dfrac{1}{2} of 8", "-1/2"),
        (r"2\frac12", "5/2"),
        (r"2 \tfrac1{2}", "5/2"),
        (r"2.5\frac12", "1/2"),
        (r"\frac{1}{2}3", "3"),
        (r"7 or \frac{1.5}{-3}", "-1/2"),
        (r"-\frac{-1}{2}", "1/2"),
        (r"7 or \frac{1}{0}", "7"),
        (r"\frac{1}{2}\frac{3}{4}", "3/4"),
        (r"\boxed{\text{the loss is } -5}", "-5"),
        (r"\boxed{-\mathbf{5}}", "-5"),
        (r"\boxed{1, 200}", "200"),
        (r"\boxed{1,\,200}", "200"),
        (r"\boxed{1,\!200}", "1200"),
        (r"\boxed{1\,200}", "1200"),
        (r"\boxed{-\$5}", "-5"),
        (r"\boxed{5 \text{ cm}^2}", "5"),
        (r"5 m^{2}", "5"),
        (r"7 or 10^6", "7"),
        (r"7 or 10^{-6}", "7"),
        (r"90^\circ", "90"),
        ("10 and so...42", "42"),
        ("10 and so....5", "5"),
        ("1.2.3", "1.2"),
        ("#### 18\n####", "18"),
        ("#### 18\n#### 20\n#### it", "20"),
        ("18 ####", None),
        ("it is \u20135", "-5"),
        ("it is \uff0d5", "-5"),
        ("of pages 3\u20135", "5"),
        ("\\frac{\u22123}{4}", "-3/4"),
    ],
)
def test_the_last_number(text, number):
    expected = None if number is None else fractions.Fraction(number)
    assert numbers_of_text.last(text) == expected


@pytest.mark.parametrize(
    ("text", "number"),
    [("1,200", 1200), ("-3/6", -0.5), ("12 cats", None), ("", None), ("-", None)],
)
def test_a_text_that_is_a_number(text, number):
    assert numbers_of_text.whole(text) == number


GSM8K = {"answer": "6 + 12 = 18\n#### 18"}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("she has 6 + 12 = 18 eggs", 1.0),
        ("18.0", 1.0),
        ("36/2", 1.0),
        ("#### 18 of 20", 1.0),
        ("18 of 20", 0.0),
        ("-18", 0.0),
        ("eighteen", 0.0),
        ("18,0", 0.0),
        ("180", 0.0),
    ],
)
def test_the_right_number(text, value):
    assert values({"kind": "number"}, response(text, GSM8K)) == [value]


@pytest.mark.parametrize(
    ("record", "fault"),
    [
        (None, "no record"),
        ({"solution": "18"}, "'answer' is None"),
        ({"answer": "none"}, "without a number"),
        ({"answer": True}, "'answer' is True"),
        ({"answer": float("nan")}, "not finite"),
        ({"answer": float("-inf")}, "not finite"),
        ({"answer": decimal.Decimal("Infinity")}, "not finite"),
    ],
)
def test_without_a_right_answer_there_is_no_score(record, fault):
    """And never a 0, which would teach that the response was wrong."""
    for kind in ("number", "boxed"):
        named = rewards.build({"it": {"kind": kind}}, "rewards")
        if (kind, fault) == ("boxed", "without a number"):
            continue  # a text is a right answer too
        scored = rewards.score(named, [response("18", record)])
        assert scored.total == [None] and fault in scored.faults[0]
    section = {"kind": "number", "field": "solution"}
    assert values(section, response("18", {"solution": 18})) == [1.0]


@pytest.mark.parametrize(
    ("right", "text", "other"),
    [
        (1e-07, "0.0000001", "1e-7"),
        (1e22, "1" + 22 * "0", "22"),
        (5.0, "5", "50"),
        (decimal.Decimal("18.00"), "18", "1800"),
        (decimal.Decimal("1E+3"), "1000", "3"),
    ],
)
def test_answers_that_are_numbers_have_no_exponents(right, text, other):
    """As Python would write them; 1e+22 is not 22."""
    for kind, box in (("number", "{}"), ("boxed", r"\boxed{{{}}}")):
        texts = [response(box.format(x), {"answer": right}) for x in (text, other)]
        assert values({"kind": kind}, *texts) == [1.0, 0.0], kind


@pytest.mark.parametrize(
    ("text", "box"),
    [
        (r"so \boxed{18}.", "18"),
        (r"\boxed{1} or \boxed{2}", "2"),
        (r"\boxed{\frac{1}{2}}", r"\frac{1}{2}"),
        (r"\boxed{a{b}{c}} }", "a{b}{c}"),
        (r"\boxed{1} and \boxed{2", "1"),
        (r"\boxed{\boxed{3}}", "3"),
        (r"\boxed{}", ""),
        (r"boxed{3}", None),
        (r"\boxed {5} of 6", "5"),
        (r"so $\boxed 5$.", "5"),
        (r"\boxed 52. Then", "52"),
        (r"\boxed\frac12 is it", r"\frac12"),
        (r"{\boxed 5}", "5"),
        (r"\boxed{5}, in \boxed form", "5"),
        (r"\boxedx{5}", None),
        (r"\boxed{\left\{1\right.}", r"\left\{1\right."),
        (r"\boxed{\{1\}}", r"\{1\}"),
        (r"\boxed{1\\}", "1\\\\"),
    ],
)
def test_the_last_box(text, box):
    assert boxes.last(text) == box


@pytest.mark.parametrize(
    ("first", "second", "same"),
    [
        ("0.50", r"\frac{1}{2}", True),
        (r"-\dfrac{3}{4}", "-0.75", True),
        (r"1{,}200", "1200", False),
        (r"1,200\%", "1200", True),
        ("$ 7 $", "7", True),
        (r"x \, + 1", "x+1", True),
        ("x+1", "1+x", False),
        ("7", "x", False),
        (r"\frac{1}{0}", "1", False),
        (r"1\frac{1}{2}", "3/2", True),
        (r"-3\tfrac{1}{2}", "-3.5", True),
        (r"1\frac{1}{2}", "11/2", False),
        (r"\frac12", "0.5", True),
        (r"\$5", "5", True),
        (r"50\%", "50%", True),
        ("5.", "5", True),
        ("+5", "5", True),
        (r"\text{A}", "A", True),
        (r"\text{A}", "B", False),
        (r"\dfrac{\pi}{2}", r"\frac{\pi}{2}", True),
        (r"\cfrac{x}{2}", r"\tfrac{x}{2}", True),
        (r"\frac{x}{2}", r"\frac{x}{3}", False),
        (r"\frac1{2}", "0.5", True),
        (r"\frac{1}{-2}", "-0.5", True),
        (r"-\frac{1}{-2}", "0.5", True),
        (r"x^2\frac{1}{2}", "x^5/2", False),
        (r"\frac{1}{2}3", "1/23", False),
        (r"90^\circ", "90", True),
        (r"90^{\circ}", "90", True),
        (r"18\text{ cm}", "18", True),
        (r"18\text{ cm}^2", r"18 \mbox{cm}^2", True),
        (r"5\sqrt{2}\text{ cm}", r"5\sqrt{2}", True),
        (r"18\text{ cm}", r"18\text{ m}", False),
        (r"18\text{ cm}", "19", False),
        (r"1\text{2}", "1", False),
        (r"x\text{ or }y", "x", False),
        (r"x = 5", "5", False),
        ("\u20135", "-5", True),
    ],
)
def test_the_same_result(first, second, same):
    assert boxed.same(first, second) == boxed.same(second, first) == same


def test_the_box_of_a_record_without_one_is_what_follows_its_mark():
    texts = (r"\boxed{18}", r"\boxed{6}")
    assert values({"kind": "boxed"}, *(response(x, GSM8K) for x in texts)) == [1.0, 0.0]


@pytest.mark.parametrize("right", ["", " ", "so #### ", r"\boxed{}", r"\boxed{$ $}"])
def test_an_empty_answer_is_none(right):
    """So that an empty box is not right."""
    named = rewards.build({"it": {"kind": "boxed"}}, "rewards")
    scored = rewards.score(named, [response(r"\boxed{}", {"answer": right})])
    assert scored.total == [None] and "without an answer" in scored.faults[0]


def test_the_right_box():
    record = {"answer": r"Thus \boxed{\frac{1}{2}}."}
    texts = (r"\boxed{0.5}", "0.5", r"\boxed{2}", r"\boxed{.5} \boxed{")
    told = [response(text, record) for text in texts]
    assert values({"kind": "boxed"}, *told) == [1.0, 0.0, 0.0, 1.0]
    assert values({"kind": "boxed"}, response(r"\boxed{x}", {"answer": "x"})) == [1.0]


@pytest.mark.parametrize(
    ("text", "follows"),
    [
        ("<think>2</think> <answer>3</answer>", True),
        ("well <think></think><answer></answer> so", True),
        ("<answer>3</answer><think>2</think>", False),
        ("<think>2</think> 3", False),
        ("<think><think>2</think> <answer>3</answer>", False),
        ("", False),
    ],
)
def test_marks_once_and_in_order(text, follows):
    assert values({"kind": "format"}, response(text)) == [float(follows)]
    assert format.follows(text, ["<think>"]) == (text.count("<think>") == 1)


def test_marks_do_not_overlap():
    marks = ["<a>", "<a>b"]
    assert not format.follows("<a>bc", marks)
    assert format.follows("<a><b>", ["<a>", "<b>"])


@pytest.mark.parametrize("marks", [[], [""], ["a", "a"]])
def test_marks_that_are_none(marks):
    with pytest.raises(errors.ConfigError, match=r"rewards\.it\.marks"):
        rewards.build({"it": {"kind": "format", "marks": marks}}, "rewards")


def test_repetition():
    assert repetition.repeated("a b a b a b", 2) == pytest.approx(1 - 2 / 5)
    assert repetition.repeated("a b c d", 2) == repetition.repeated("a", 2) == 0.0
    assert repetition.repeated("no " * 101, 1) == pytest.approx(1 - 1 / 101)
    section = {"kind": "repetition", "words": 2}
    told = response("a b a b a b"), response("a b c")
    assert values(section, *told) == pytest.approx([-0.6, 0.0])


HOSTILE = {
    "digits": "9" * 300_000,
    "groups": ",111" * 75_000 + "1",
    "signs": "-" * 300_000,
    "slashes": "1/" * 150_000,
    "points": "1." * 150_000,
    "marks": "####" * 75_000,
    "boxes": r"\boxed{" * 40_000,
    "braces": r"\boxed{" + "{" * 300_000,
    "fractions": r"\boxed{" + r"\frac{" * 50_000 + "}" * 50_001,
    "spaces": " " * 300_000,
    "boxes and spaces": (r"\boxed" + " " * 1000) * 300,
    "boxes without braces": r"\boxed 5" * 30_000,
    "escaped": r"\boxed{" + r"\{" * 150_000,
    "fractions and spaces": (r"\frac" + " " * 1000) * 300,
    "mixed": r"1\frac{1}{2}" * 20_000,
    "texts": r"\boxed{5" + r"\text{" * 50_000 + "}" * 50_001,
    "numbers and spaces": ("1" * 60 + " ") * 5000,
    "marked numbers": "#### 7 " * 40_000 + "####" * 30_000,
    "points only": "." * 300_000,
    "powers": "1^" * 150_000,
}


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
def test_hostile_texts_take_no_longer_than_their_length(text):
    kinds = ("number", "boxed", "format", "repetition")
    began = time.process_time()
    for kind in kinds:
        values({"kind": kind}, response(text, {"answer": "1"}))
    assert time.process_time() - began < 3
