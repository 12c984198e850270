# SPDX-License-Identifier: Apache-2.0
"""A reward for the form of a response: marks that must stand in it, in order."""

from __future__ import annotations

from collections.abc import Sequence

from alignjax import errors, rewards


def make(
    marks: tuple[str, ...] = ("<think>", "</think>", "<answer>", "</answer>"),
) -> rewards.Reward:
    """1 where each mark stands in a response exactly once, in this order, else 0.

    arXiv:2501.12948 has such a reward beside one for the answer.

    Args:
      marks: texts.

    Raises:
      ConfigError: no mark, or one that is empty or stands twice.
    """
    if not marks or not all(marks) or len(set(marks)) < len(marks):
        raise errors.ConfigError(f"marks: {marks!r}; name one text or more, each once")
    return lambda responses: [
        rewards.Score(float(follows(response.text, marks))) for response in responses
    ]


def follows(text: str, marks: Sequence[str]) -> bool:
    """Whether each mark stands in a text exactly once, one after the other."""
    end = 0
    for mark in marks:
        start = text.find(mark, end)
        if start < 0 or text.count(mark) > 1:
            return False
        end = start + len(mark)
    return True
