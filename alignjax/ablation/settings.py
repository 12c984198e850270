# SPDX-License-Identifier: Apache-2.0
"""Settings of arms, `{field of the config: value}`: grids, zips, seeded random draws.

    grid({"objective.loss": ["dpo", "ipo"], "objective.beta": [0.1, 0.3]})  # 4 settings
    zipped({"objective.loss": ["dpo", "ipo"], "objective.beta": [1.0, 0.3]})  # 2
    drawn(8, {"optimizer.learning_rate": log_uniform(1e-5, 1e-3)}, seed=0)  # 8

Lists of settings are added with `+`, and `product` joins each of one with each of
another. No search looks at results: on differences as small as those between two runs
of one loss it would find noise.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from alignjax import errors

Setting = dict[str, Any]
Draw = Callable[[np.random.Generator], Any]


def grid(fields: Mapping[str, Sequence]) -> list[Setting]:
    """Every combination of the fields' values, the last field changing fastest.

    Raises:
      ConfigError: a field without values, or no field.
    """
    _check(fields)
    combinations = itertools.product(*fields.values())
    return [dict(zip(fields, values, strict=True)) for values in combinations]


def zipped(fields: Mapping[str, Sequence]) -> list[Setting]:
    """The first values of all fields together, then the second ones, and so on.

    Raises:
      ConfigError: fields with other numbers of values, or without any.
    """
    _check(fields)
    counts = {field: len(values) for field, values in fields.items()}
    if len(set(counts.values())) > 1:
        shown = ", ".join(f"{field} has {count}" for field, count in counts.items())
        raise errors.ConfigError(f"arms: {shown} values; zipped takes as many of each")
    rows = zip(*fields.values(), strict=True)
    return [dict(zip(fields, values, strict=True)) for values in rows]


def drawn(
    count: int, fields: Mapping[str, Sequence | Draw], *, seed: int = 0
) -> list[Setting]:
    """`count` settings, each field drawn alone; the first n are the same for any count.

    Args:
      fields: for each its values, equally likely, or `uniform` or `log_uniform`.

    Raises:
      ConfigError: no settings to draw, or a field without values.
    """
    if count < 1:
        raise errors.ConfigError(f"arms: {count} settings to draw; draw one or more")
    _check({field: x for field, x in fields.items() if not callable(x)}, fields)

    def setting(i: int) -> Setting:
        rng = np.random.default_rng([seed, i])
        return {
            field: x(rng) if callable(x) else x[int(rng.integers(len(x)))]
            for field, x in fields.items()
        }

    return [setting(i) for i in range(count)]


def uniform(low: float, high: float) -> Draw:
    """A number between two others, with three digits."""
    return lambda rng: _short(rng.uniform(low, high))


def log_uniform(low: float, high: float) -> Draw:
    """The same with equal chances for equal ratios.

    Raises:
      ConfigError: bounds that are not positive.
    """
    if not 0 < low <= high:
        raise errors.ConfigError(
            f"arms: log_uniform({low}, {high}) is no range above 0"
        )
    return lambda rng: _short(math.exp(rng.uniform(math.log(low), math.log(high))))


def product(*lists: Sequence[Setting]) -> list[Setting]:
    """Each setting of the first list with each of the second, and so on.

    Raises:
      ConfigError: an empty list, or a field that two of them set.
    """
    if not lists or not all(lists):
        raise errors.ConfigError("arms: a product with an empty list has no settings")

    def joined(first: Setting, second: Setting) -> Setting:
        if both := first.keys() & second.keys():
            raise errors.ConfigError(
                f"arms: {min(both)}: two lists of a product set it; leave it out of one"
            )
        return first | second

    return [functools.reduce(joined, parts) for parts in itertools.product(*lists)]


def _check(lists: Mapping[str, Sequence], fields: Mapping | None = None) -> None:
    if not (lists if fields is None else fields):
        raise errors.ConfigError("arms: no field, so that there is nothing to sweep")
    for field, values in lists.items():
        if isinstance(values, str) or not isinstance(values, Sequence) or not values:
            raise errors.ConfigError(
                f"arms: {field}: {values!r:.80} is no list of one or more values"
            )


def _short(number: float) -> float:
    return float(f"{number:.3g}")
