# SPDX-License-Identifier: Apache-2.0
r"""A reward for the right result in a box: `\boxed{...}`, as mathematics is marked."""

from __future__ import annotations

from alignjax import rewards
from alignjax.rewards import boxes, number, numbers_of_text


def make(field: str = "answer") -> rewards.Reward:
    r"""1 where the last `\boxed{...}` of a response holds the record's answer, else 0.

    See `same`. A record whose answer is empty leaves the response without a score.

    Args:
      field: of the prompt's record; its last box where it has one, else what follows
        its last `####`, else all of it.
    """

    def score(response: rewards.Response) -> rewards.Score:
        text, fault = number.text_of(response.record, field)
        if text is None:
            return rewards.Score(None, fault)
        box, right = boxes.last(response.text), boxes.last(text)
        if right is None:
            right = text.rpartition(numbers_of_text.MARK)[2]
        if not boxes.plain(right):
            fault = f"the record's {field!r} is {text!r:.60}, without an answer"
            return rewards.Score(None, fault)
        return rewards.Score(float(box is not None and same(box, right)))

    return lambda responses: list(map(score, responses))


def same(first: str, second: str) -> bool:
    r"""Whether two results are the same number, or else the same text without spaces.

    Two numbers are compared as fractions, `\frac{1}{2}`, `50\%` and `90^\circ` among
    them. A unit, `\text{ cm}` in the end, counts only where both have one.
    """
    (first, unit), (second, other) = map(boxes.without_unit, (first, second))
    if unit and other and unit != other:
        return False
    plain = [boxes.plain(x) for x in (first, second)]
    numbers = [_number(x) for x in plain]
    if None not in numbers:
        return numbers[0] == numbers[1]
    return plain[0] == plain[1]


def _number(text: str):
    """The number that a text is, `50\\%`, `+5` and `5.` among them, or None."""
    text = text.removesuffix("%").removesuffix("\\").removesuffix(".")
    return numbers_of_text.whole(text.removeprefix("+"))
