# SPDX-License-Identifier: Apache-2.0
r"""A reward for the right result in a box: `\boxed{...}`, as mathematics is marked."""

from __future__ import annotations

from alignjax import rewards
from alignjax.rewards import boxes, number, numbers_of_text


def make(field: str = "answer") -> rewards.Reward:
    r"""1 where the last `\boxed{...}` of a response holds the record's answer, else 0.

    Two numbers are compared as fractions, `\frac{1}{2}` among them, and anything else
    as text without spaces.

    Args:
      field: of the prompt's record; its last box where it has one, else what follows
        its last `####`, else all of it.
    """

    def score(answer: rewards.Answer) -> rewards.Score:
        text, fault = number.text_of(answer.record, field)
        if text is None:
            return rewards.Score(None, fault)
        box, right = boxes.last(answer.text), boxes.last(text)
        if right is None:
            right = text.rpartition(numbers_of_text.MARK)[2]
        return rewards.Score(float(box is not None and same(box, right)))

    return lambda answers: list(map(score, answers))


def same(first: str, second: str) -> bool:
    """Whether two results are the same number, or else the same text."""
    plain = [boxes.plain(x) for x in (first, second)]
    numbers = [_number(x) for x in plain]
    if None not in numbers:
        return numbers[0] == numbers[1]
    return plain[0] == plain[1]


def _number(text: str):
    """The number that a text is, `50\\%`, `+5` and `5.` among them, or None."""
    text = text.removesuffix("%").removesuffix("\\").removesuffix(".")
    return numbers_of_text.whole(text.removeprefix("+"))
