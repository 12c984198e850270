# SPDX-License-Identifier: Apache-2.0
r"""`\boxed{...}` in a text, and its mathematics as plain text."""

from __future__ import annotations

import re

BOX = r"\boxed{"
# A space, a dollar sign, or what sets letters upright.
_AROUND = re.compile(r"\\[,;!: ]|\s|\\?\$")
_UPRIGHT = re.compile(r"\\(?:text|mathrm|mathbf|textbf)\{([^{}]*)\}")
# `\frac{3}{4}`, `\frac34`, and `2\frac{3}{4}`, which is two and three quarters.
_FRACTION = re.compile(
    r"(?:(?<![\d.])(\d{1,60}))?\\[dt]?frac"
    r"(?:\{(-?\d{1,60})\}\{(\d{1,60})\}|(\d)(\d))"
)


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


def plain(text: str) -> str:
    r"""Mathematics without spaces and dollar signs: `2\frac{1}{2}` is `5/2`."""
    text = _UPRIGHT.sub(r"\1", _AROUND.sub("", text))
    return _FRACTION.sub(_as_quotient, text)


def _as_quotient(match: re.Match) -> str:
    whole, *parts = match.groups()
    above, below = (int(x) for x in parts if x is not None)
    return f"{int(whole or 0) * below + above}/{below}"
