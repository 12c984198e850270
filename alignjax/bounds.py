# SPDX-License-Identifier: Apache-2.0
"""Annotations of numbers that a config may set: `beta: Positive = 0.1`.

They are checked where a config is read (`config.fill`), never where a function is
called, so functions stay bare and an option may be a traced array, swept by `vmap`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, NamedTuple


class Bound(NamedTuple):
    """A condition on a number, and the words for it."""

    holds: Callable[[float], bool]
    text: str


_ABOVE_0 = Bound(lambda x: x > 0, "above 0")
_AT_LEAST_0 = Bound(lambda x: x >= 0, "at least 0")

Positive = Annotated[float, _ABOVE_0]
AboveOne = Annotated[float, Bound(lambda x: x > 1, "above 1")]
NonNegative = Annotated[float, _AT_LEAST_0]
Count = Annotated[int, Bound(lambda x: x >= 1, "at least 1")]
CountOrZero = Annotated[int, _AT_LEAST_0]
# Sizes of arrays, whose indices are int32; and of what there are never more of, such as
# layers, since each of them is looked at one by one.
Size = Annotated[Count, Bound(lambda x: x < 2**31, "at most 2,147,483,647")]
Many = Annotated[Count, Bound(lambda x: x <= 2**16, "at most 65,536")]
ManyOrZero = Annotated[CountOrZero, Bound(lambda x: x <= 2**16, "at most 65,536")]
Processes = Annotated[Count, Bound(lambda x: x <= 1024, "at most 1,024")]
Seconds = Annotated[Positive, Bound(lambda x: x <= 86_400, "at most a day, 86,400 s")]
Share = Annotated[float, Bound(lambda x: 0 <= x < 1, "in [0, 1)")]
Between = Annotated[float, Bound(lambda x: 0 < x < 1, "in (0, 1)")]
PositiveShare = Annotated[float, Bound(lambda x: 0 < x <= 1, "in (0, 1]")]
Fraction = Annotated[float, Bound(lambda x: 0 <= x <= 1, "in [0, 1]")]
# A label that is wrong half of the time carries no information; beyond, it is inverted.
Noise = Annotated[float, Bound(lambda x: 0 <= x < 0.5, "in [0, 0.5)")]
PositiveNoise = Annotated[float, Bound(lambda x: 0 < x < 0.5, "in (0, 0.5)")]
