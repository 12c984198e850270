# SPDX-License-Identifier: Apache-2.0
"""Rewards of tests, which a worker imports: so this imports little."""

import os
import time


def vowels(prompt, response, record) -> float:
    """A reward that any text has: the share of its vowels, less that of the prompt."""
    share = lambda text: sum(c in "aeiou" for c in text) / max(1, len(text))
    return share(response) - share(prompt[-1]["content"])


def slow(seconds: float):
    """A reward of 0 that takes its time."""

    def reward(responses):
        time.sleep(seconds)
        return [0.0] * len(responses)

    return reward


def by_process():
    """A reward that each process scores otherwise, as a slow function may be."""
    import jax

    def reward(responses):
        own = 1.0 + jax.process_index()
        return [own * (i % 4) for i in range(len(responses))]

    return reward


def odd(prompt, response, record) -> float:
    """A reward that fails in each of the ways that rewards do."""
    kind = len(response) % 5
    if kind == 0:
        raise ValueError("no")
    if kind == 1:
        return float("nan")
    if kind == 2:
        os._exit(3)
    if kind == 3:
        time.sleep(60)
    return 1.0
