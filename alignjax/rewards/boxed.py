# SPDX-License-Identifier: Apache-2.0
r"""A reward for the right result in a box: `\boxed{...}`, as mathematics is marked."""

from __future__ import annotations

import re

from alignjax import rewards
from alignjax.rewards import number, numbers_of_text

BOX = r"\boxed{"
_FRACTION = re.compile(r"\\[dt]?frac\{(-?\d{1,60})\}\{(\d{1,60})\}")
_SPACES = re.compile(r"\\[,;!: ]|[\s$]")


def make(field: str = "answer") -> rewards.Reward:
    r"""1 where the last `\boxed{...}` of a response holds the record's answer, else 0.

    Two numbers are compared as fractions, `\frac{1}{2}` among them, and anything else
    as text without spaces.

    Args:
      field: of the prompt's record; its last box where it has one, else all of it.
    """

    def score(answer: rewards.Answer) -> rewards.Score:
        text, fault = number.text_of(answer.record, field)
        if text is None:
            return rewards.Score(None, fault)
        box, right = last(answer.text), last(text)
        right = text if right is None else right
        return rewards.Score(float(box is not None and same(box, right)))

    return lambda answers: list(map(score, answers))


def last(text: str) -> str | None:
    r"""What the last closed `\boxed{...}` holds, braces inside it included, or None.

    In one pass from each box, the last one first, until one is closed.
    """
    end = len(text)
    while (start := text.rfind(BOX, 0, end)) >= 0:
        depth = 1
        for place in range(start + len(BOX), end):
            depth += {"{": 1, "}": -1}.get(text[place], 0)
            if not depth:
                return text[start + len(BOX) : place]
        end = start
    return None


def same(first: str, second: str) -> bool:
    """Whether two results are the same number, or else the same text."""
    plain = [_FRACTION.sub(r"\1/\2", _SPACES.sub("", x)) for x in (first, second)]
    numbers = [numbers_of_text.whole(x.removesuffix(r"\%")) for x in plain]
    if None not in numbers:
        return numbers[0] == numbers[1]
    return plain[0] == plain[1]
