# SPDX-License-Identifier: Apache-2.0
"""A reward for the right number: 1 where a response ends in the answer, else 0."""

from __future__ import annotations

import decimal
import fractions
from collections.abc import Mapping
from typing import Any

from alignjax import rewards
from alignjax.rewards import numbers_of_text


def make(field: str = "answer") -> rewards.Reward:
    """Compares the last number of a response with that of its record, exactly.

    1, 1.0 and 2/2 are equal; see `numbers_of_text`.

    Args:
      field: of the prompt's record, whose last number is the right one.
    """

    def score(response: rewards.Response) -> rewards.Score:
        right, fault = expected(response.record, field)
        if right is None:
            return rewards.Score(None, fault)
        return rewards.Score(float(numbers_of_text.last(response.text) == right))

    return lambda responses: list(map(score, responses))


def expected(record: Any, field: str) -> tuple[fractions.Fraction | None, str]:
    """The number of a record, or None and why there is none."""
    text, fault = text_of(record, field)
    number = None if text is None else numbers_of_text.last(text)
    if text is not None and number is None:
        fault = f"the record's {field!r} is {text!r:.60}, without a number"
    return number, fault


def text_of(record: Any, field: str) -> tuple[str | None, str]:
    """A field of a record as text, or None and why there is none."""
    if not isinstance(record, Mapping):
        return None, "the prompt's source keeps no record"
    value = record.get(field)
    numbers_or_text = (str, int, float, decimal.Decimal)  # the last of a Parquet file
    if isinstance(value, bool) or not isinstance(value, numbers_or_text):
        return None, f"the record's {field!r} is {value!r:.60}, neither text nor number"
    if isinstance(value, float):  # 1e-07 is 0.0000001, and no 7
        value = decimal.Decimal(repr(value))
    if isinstance(value, decimal.Decimal):
        if not value.is_finite():
            return None, f"the record's {field!r} is {value}, which is not finite"
        value = f"{value:f}"
    return str(value), ""
