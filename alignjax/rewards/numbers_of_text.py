# SPDX-License-Identifier: Apache-2.0
"""The last number of a text as an exact fraction, as answers to sums are compared."""

from __future__ import annotations

import fractions
import re

from alignjax.rewards import boxes

MARK = "####"  # GSM8K writes the result behind it
MOST_DIGITS = 60
# 1,234.50 with commas between groups of three, .5, 3/4, -2; a sign after a digit or a
# letter is a dash or a minus between two numbers.
_NUMBER = re.compile(
    r"(?<![\d.])(?:(?<![\w)])[-\u2212]\$?)?"
    r"(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)?(?:(?<=\d)\.\d+|(?<!\d)\.\d+)?(?:/\d+)?"
)


def last(text: str) -> fractions.Fraction | None:
    r"""The last number of a text, or None.

    Where `####` stands it is the first one after it, else where a `\boxed{...}` does
    the last one of the last box. `1,200`, `1200.0` and `2400/2` are equal. A percentage
    is the number before its sign; powers of ten and words are no numbers.
    """
    _, mark, marked = text.rpartition(MARK)
    if not mark and (box := boxes.last(text)) is not None:
        text = boxes.plain(box)
    numbers = [m[0] for m in _NUMBER.finditer(marked if mark else text)]
    numbers = [x for x in numbers if any(c.isdecimal() for c in x)]
    for number in numbers if mark else reversed(numbers):
        if (value := _fraction(number)) is not None:
            return value
    return None


def whole(text: str) -> fractions.Fraction | None:
    """The number that a text is, or None where it is none or has something beside."""
    one = _NUMBER.fullmatch(text) and any(c.isdecimal() for c in text)
    return _fraction(text) if one else None


def _fraction(number: str) -> fractions.Fraction | None:
    plain = number.replace(",", "").replace("\u2212", "-").replace("$", "")
    whole, slash, below = plain.partition("/")
    if len(plain) > MOST_DIGITS or (slash and not int(below)):
        return None
    value = fractions.Fraction(whole)
    return value / int(below) if slash else value
