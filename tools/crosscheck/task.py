# SPDX-License-Identifier: Apache-2.0
"""The task of both sides: a model's sizes and a batch of ragged pairs, by token ids.

Ids below `FIRST` are the padding and the token that ends a response.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

PAD, END, FIRST = 0, 1, 2
VOCAB = 61
# Grouped queries and an untied head, so that nothing is square or shared by chance.
SIZES = dict(d_model=32, layers=2, heads=4, kv_heads=2, d_ff=48, max_length=64)
EPSILON, THETA = 1e-6, 10_000.0


class Pair(NamedTuple):
    """Token ids; responses end in `END`. `margin`: how far the chosen one is ahead."""

    prompt: tuple[int, ...]
    chosen: tuple[int, ...]
    rejected: tuple[int, ...]
    margin: float


class Group(NamedTuple):
    """Responses that were drawn for a prompt, and their rewards.

    Those that do not end in `END` were cut off.
    """

    prompt: tuple[int, ...]
    responses: tuple[tuple[int, ...], ...]
    rewards: tuple[float, ...]


# The most tokens of a response that was drawn, for losses divided by it.
LONGEST = 12


class Labelled(NamedTuple):
    """A response judged alone, and another prompt's response for KTO's baseline."""

    prompt: tuple[int, ...]
    response: tuple[int, ...]
    mismatched: tuple[int, ...]
    desirable: bool


def pairs(count: int = 6, seed: int = 0) -> list[Pair]:
    """Prompts of 2 to 7 tokens, responses of 1 to 12, their `END` included."""
    rng = np.random.default_rng(seed)
    draw = lambda n: tuple(int(x) for x in rng.integers(FIRST, VOCAB, n))
    rows = []
    for i in range(count):
        chosen, rejected = rng.integers(1, 12, 2)
        if i == 0:  # an empty one: nothing but its end
            rejected = 0
        prompt = draw(rng.integers(2, 8))
        responses = [(*draw(size), END) for size in (chosen, rejected)]
        rows.append(Pair(prompt, *responses, margin=float(rng.uniform(0, 2))))
    return rows


def groups(count: int = 4, size: int = 4, seed: int = 0) -> list[Group]:
    """Prompts of 2 to 7 tokens, responses of 1 to 12, the last one cut off."""
    rng = np.random.default_rng(seed)
    draw = lambda n: tuple(int(x) for x in rng.integers(FIRST, VOCAB, n))
    rows = []
    for _ in range(count):
        responses = [(*draw(n), END) for n in rng.integers(0, LONGEST, size - 1)]
        rewards = rng.normal(0, 2, size).tolist()
        prompt = draw(rng.integers(2, 8))
        rows.append(Group(prompt, (*responses, draw(LONGEST)), tuple(rewards)))
    return rows


def labelled(pairs: list[Pair]) -> list[Labelled]:
    """One response of each pair, more of them chosen than rejected.

    The mismatched one of a row is the response of the row before it, and of the first
    row that of the last: what TRL makes of a batch.
    """
    desirable = [i % 3 != 1 for i in range(len(pairs))]
    both = zip(pairs, desirable, strict=True)
    responses = [pair.chosen if good else pair.rejected for pair, good in both]
    return [
        Labelled(pair.prompt, responses[i], responses[i - 1], desirable[i])
        for i, pair in enumerate(pairs)
    ]
