# SPDX-License-Identifier: Apache-2.0
r"""`\boxed{...}` in a text, and its mathematics as plain text."""

from __future__ import annotations

import fractions
import re

BOX = r"\boxed"
MINUS = "-\u2212\u2013\uff0d"  # hyphen, minus, en dash, fullwidth: before a digit
_AS_HYPHEN = str.maketrans(dict.fromkeys(MINUS, "-"))
_OPEN = re.compile(r"\s*\{")
# `\boxed 5`: in prose, "\boxed format" is none.
_BARE = re.compile(rf"\s*(?=[{MINUS}+]?(?:\.?\d|\\[dtc]?frac))")
_PIECE = re.compile(r"\\.|[{}\s$]", re.DOTALL)  # `\{` is no brace
# A space, a dollar sign, or what sets letters upright.
_AROUND = re.compile(r"\\[,;!: ]|\s|\\?\$")
_SPACE = re.compile(r"\\[,;: ]")
_NO_SPACE = re.compile(r"\\!|(?<=\d)\\,(?=\d{3}(?!\d))")  # 1\,200 and 1,\!200
_UPRIGHT = re.compile(r"\\(?:text|mathrm|mathbf|textbf|textrm|mbox)\{([^{}]*)\}")
_UNIT = re.compile(r"\\(?:text|textrm|mbox)\{([^{}\d]*)\}(\^(?:\d|\{\d\}))?\.?$")
_DEGREE = re.compile(r"\^(?:\\circ|\{\\circ\})")
_FRAC = re.compile(r"\\[dtc]frac")
_PART = rf"\s*(?:\{{\s*([{MINUS}]?\d{{1,60}}(?:\.\d{{1,60}})?)\s*\}}|(\d))"
# `\frac{3}{4}`, `\frac34`, `\frac3{4}`, and `2\frac{3}{4}`, which is two and three
# quarters.
_FRACTION = re.compile(
    rf"(?:(?<![\d.^])(\d{{1,60}})\s?|([{MINUS}]))?\\[dtc]?frac{_PART}{_PART}"
)


def last(text: str) -> str | None:
    r"""What the last closed `\boxed{...}` holds, braces inside it included, or None.

    `\boxed {5}` is one too, and so is a number without braces, `\boxed 5`. In one pass
    from each box, the last one first, until one is closed.
    """
    end = len(text)
    while (start := text.rfind(BOX, 0, end)) >= 0:
        if (box := _held(text, start + len(BOX), end)) is not None:
            return box
        end = start
    return None


def _held(text: str, start: int, end: int) -> str | None:
    braces = _OPEN.match(text, start, end)
    begins = braces or _BARE.match(text, start, end)
    if begins is None:
        return None
    start, depth = begins.end(), 0
    for piece in _PIECE.finditer(text, start, end):
        if piece[0] == "}" and not depth:
            return text[start : piece.start()]
        depth += {"{": 1, "}": -1}.get(piece[0], 0)
        if not braces and not depth and (piece[0] == "$" or piece[0].isspace()):
            end = piece.start()
            break
    return None if braces else text[start:end].rstrip(".,;:!?")


def plain(text: str) -> str:
    r"""Mathematics to be compared: no spaces, dollar signs and degrees.

    `2\frac{1}{2}` is `5/2`, and other fractions have one name.
    """
    text = _UPRIGHT.sub(r"\1", _AROUND.sub("", text))
    text = _FRACTION.sub(_as_quotient, _DEGREE.sub("", text))
    return _FRAC.sub(r"\\frac", text)


def without_unit(text: str) -> tuple[str, str]:
    r"""What is before a unit, and the unit: `18\text{ cm}^2` is `18` and `cm^2`.

    A text in the end is a unit where there is a digit before it.
    """
    text = _AROUND.sub("", text)
    unit = _UNIT.search(text)
    if unit is None or not any(c.isdecimal() for c in text[: unit.start()]):
        return text, ""
    return text[: unit.start()], unit[1] + (unit[2] or "")


def spoken(text: str) -> str:
    r"""A text in which numbers stay apart as they did, with fractions as `3/4`."""
    text = _SPACE.sub(" ", _NO_SPACE.sub("", text)).replace(r"\$", "$")
    return _FRACTION.sub(_as_quotient, _UPRIGHT.sub(r"\1", text))


def number(text: str) -> fractions.Fraction:
    """The number of digits with a minus sign of any kind, or none."""
    return fractions.Fraction(text.translate(_AS_HYPHEN))


def _as_quotient(match: re.Match) -> str:
    whole, minus, *parts = match.groups()
    above, below = (number(x) for x in parts if x is not None)
    before = match.string[max(0, match.start() - 1) : match.start()]
    after = match.string[match.end() : match.end() + 1]
    sign = minus or ""
    if whole and above >= 0 and below >= 0:
        above += int(whole) * below
    elif whole:
        sign = f"{whole} "
    # What stands beside it would become a digit of it.
    elif not minus and (before.isdecimal() or before in (".", "}")):
        sign = " "
    if minus and above * below < 0:
        sign, above = "+", -above
    ratio = above / (below or 1)
    parts = f"{ratio.numerator}/{ratio.denominator if below else 0}"
    return f"{sign}{parts}{' ' if after.isdecimal() else ''}"
