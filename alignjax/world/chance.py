# SPDX-License-Identifier: Apache-2.0
"""Random draws that are the same on every Python and in every process.

Python promises the sequence of `Random.random()` for a seed, and nothing about `choice`
or `sample`; so every draw of the world goes through `random()`.
"""

from __future__ import annotations

import bisect
import itertools
import random
from collections.abc import Iterable, Sequence
from typing import Generic, TypeVar

T = TypeVar("T")


def stream(*names) -> random.Random:
    """The generator called `names`, such as `stream(seed, "pretrain", 17)`."""
    return random.Random("/".join(map(str, names)))


def pick(rng: random.Random, items: Sequence[T]) -> T:
    """One of `items`, uniformly."""
    return items[int(rng.random() * len(items))]


def pick_other(rng: random.Random, items: Sequence[T], *excluded: T) -> T:
    """One of `items` that is none of `excluded`, uniformly."""
    return pick(rng, [item for item in items if item not in excluded])


def sample(rng: random.Random, items: Iterable[T], count: int) -> list[T]:
    """`count` different positions of `items`, in random order.

    Raises:
      ValueError: there are fewer than `count` items.
    """
    pool = list(items)
    if count > len(pool):
        raise ValueError(f"cannot draw {count} of {len(pool)} items")
    for i in range(count):
        j = i + int(rng.random() * (len(pool) - i))
        pool[i], pool[j] = pool[j], pool[i]
    return pool[:count]


class Weighted(Generic[T]):
    """A distribution over a few outcomes: `Weighted({"heads": 3, "tails": 1})`."""

    def __init__(self, weights: dict[T, float]):
        self.outcomes = tuple(weights)
        self.bounds = list(itertools.accumulate(weights.values()))

    def draw(self, rng: random.Random) -> T:
        """One outcome."""
        point = rng.random() * self.bounds[-1]
        return self.outcomes[bisect.bisect_right(self.bounds, point)]
