# SPDX-License-Identifier: Apache-2.0
"""A penalty for a response that repeats itself, by its words."""

from __future__ import annotations

from alignjax import rewards
from alignjax.bounds import Count


def make(words: Count = 4) -> rewards.Reward:
    """0 where no run of words stands twice, towards -1 where all are the same.

    -(1 - distinct runs / runs): the penalty of arXiv:2502.03373 section 4.3, for all
    runs of a response at once.

    Args:
      words: of a run.
    """
    return lambda responses: [
        rewards.Score(-repeated(response.text, words)) for response in responses
    ]


def repeated(text: str, words: int) -> float:
    """The share of runs of so many words that stood in the text before."""
    parts = text.split()
    runs = len(parts) - words + 1
    if runs < 1:
        return 0.0
    distinct = {tuple(parts[i : i + words]) for i in range(runs)}
    return 1.0 - len(distinct) / runs
