# SPDX-License-Identifier: Apache-2.0
"""How a response looks beside what it says: its length and its markdown.

Judges pay for both, so win rates are also given as if both responses had looked alike
(Li et al. 2024, "Does style matter?", which counts the same marks).
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

MARKS = ("headers", "items", "bold")
# Code has `#` and `*` of its own, and a fence that is never closed runs to the end.
_CODE = re.compile(r"^[ \t]*```.*?(^[ \t]*```|\Z)", re.M | re.S)
_PATTERNS = (
    re.compile(r"^ {0,3}#{1,6}[ \t]+\S", re.M),
    re.compile(r"^[ \t]*([-*+]|\d{1,3}[.)])[ \t]+\S", re.M),
    re.compile(r"\*\*[^*\n]+\*\*|\b__[^_\n]+__\b"),
)


def marks(text: str) -> tuple[int, ...]:
    """How many of each of MARKS a text has outside of blocks of code."""
    prose = _CODE.sub("", text)
    return tuple(sum(1 for _ in pattern.finditer(prose)) for pattern in _PATTERNS)


def gaps(
    lengths: Sequence[float],
    other_lengths: Sequence[float],
    texts: Sequence[str],
    other_texts: Sequence[str],
) -> np.ndarray:
    """float [N, 1 + len(MARKS)]: of each pair the gap of length, then those of marks.

    Args:
      lengths, other_lengths: in one unit, such as tokens.
      texts, other_texts: of the same responses.
    """
    length_N = np.asarray(lengths, float) - np.asarray(other_lengths, float)
    own, others = (
        np.array([marks(text) for text in each], float).reshape(-1, len(MARKS))
        for each in (texts, other_texts)
    )
    return np.column_stack([length_N, own - others])
