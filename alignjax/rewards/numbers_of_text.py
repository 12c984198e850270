# SPDX-License-Identifier: Apache-2.0
"""The last number of a text as an exact fraction, as answers to sums are compared."""

from __future__ import annotations

import fractions
import re
from collections.abc import Iterable

from alignjax.rewards import boxes

MARK = "####"  # GSM8K writes the result behind it
MOST_DIGITS = 60
# 1,234.50 with commas between groups of three, .5, 3/4, -2; a sign after a digit or a
# letter is a dash or a minus between two numbers. Points before digits may be "...".
_NUMBER = re.compile(
    rf"(?<!\d)(?<!\d\.)(?:(?<![\w)])[{boxes.MINUS}]\$?)?"
    r"(?:(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d+)?|(?<![\d.])\.\d+)(?:/\d+)?"
)
_EXPONENT = re.compile(rf"\^\{{?[{boxes.MINUS}]?\d")


def last(text: str) -> fractions.Fraction | None:
    r"""The last number of a text, or None.

    Where `####` stands it is the first one after the last `####` that has one, else
    where a `\boxed{...}` does the last one of the last box. `1,200`, `1200.0` and
    `2400/2` are equal, and so are `3/4` and `\frac{3}{4}`. A percentage is the number
    before its sign; powers such as 10^6, exponents and words are no numbers.
    """
    _, *marked = text.split(MARK)
    if marked:
        values = (_first(_numbers(part)) for part in reversed(marked))
        return next((value for value in values if value is not None), None)
    box = boxes.last(text)
    return _first(reversed(_numbers(text if box is None else box)))


def whole(text: str) -> fractions.Fraction | None:
    """The number that a text is, or None where it is none or has something beside."""
    return _fraction(text) if _NUMBER.fullmatch(text) else None


def _numbers(text: str) -> list[str]:
    text = boxes.spoken(text)
    return [m[0] for m in _NUMBER.finditer(text) if not _is_of_power(text, m)]


def _is_of_power(text: str, match: re.Match) -> bool:
    start, end = match.span()
    before = text[max(0, start - 2) : start]
    return before.endswith(("^", "^{")) or _EXPONENT.match(text, end) is not None


def _first(numbers: Iterable[str]) -> fractions.Fraction | None:
    values = map(_fraction, numbers)
    return next((value for value in values if value is not None), None)


def _fraction(number: str) -> fractions.Fraction | None:
    plain = number.replace(",", "").replace("$", "")
    whole, slash, below = plain.partition("/")
    if len(plain) > MOST_DIGITS or (slash and not int(below)):
        return None
    value = boxes.number(whole)
    return value / int(below) if slash else value
