# SPDX-License-Identifier: Apache-2.0
"""Bounds of options, said in annotations, and functions that refuse what is outside."""

from __future__ import annotations

import functools
import typing
from collections.abc import Callable
from typing import Annotated, NamedTuple

from alignjax import errors


class Bound(NamedTuple):
    """What the value of an option must satisfy, and how to say so."""

    holds: Callable[[float], bool]
    text: str


Positive = Annotated[float, Bound(lambda x: x > 0, "above 0")]
NonNegative = Annotated[float, Bound(lambda x: x >= 0, "at least 0")]
Count = Annotated[int, Bound(lambda x: x >= 1, "at least 1")]
Share = Annotated[float, Bound(lambda x: 0 <= x < 1, "in [0, 1)")]
Fraction = Annotated[float, Bound(lambda x: 0 <= x <= 1, "in [0, 1]")]
# A label that is wrong as often as right carries nothing, and more often, the opposite.
Noise = Annotated[float, Bound(lambda x: 0 <= x < 0.5, "in [0, 0.5)")]
PositiveNoise = Annotated[float, Bound(lambda x: 0 < x < 0.5, "in (0, 0.5)")]


def checked(function: Callable) -> Callable:
    """`function`, which now refuses options outside the bounds of its annotations.

    Numbers are checked and traced values pass, so that an option may be swept by vmap.
    """
    hints = typing.get_type_hints(function, include_extras=True)
    bounds = {name: _bound(hint) for name, hint in hints.items() if _bound(hint)}

    @functools.wraps(function)
    def call(*arguments, **options):
        problems = [
            f"{name}: {value!r} is not {bounds[name].text}"
            for name, value in options.items()
            if name in bounds
            and isinstance(value, (int, float))
            and not bounds[name].holds(value)
        ]
        if problems:
            raise errors.ConfigError(problems)
        return function(*arguments, **options)

    return call


def _bound(hint) -> Bound | None:
    """The bound of `Positive`, of `Positive | None`, or none."""
    for part in (hint, *typing.get_args(hint)):
        for extra in getattr(part, "__metadata__", ()):
            if isinstance(extra, Bound):
                return extra
    return None
