# SPDX-License-Identifier: Apache-2.0
"""The world's true reward of a response, for prompts of the world."""

from __future__ import annotations

from collections.abc import Sequence

from alignjax import errors, rewards, world


def make() -> rewards.Reward:
    """`gold_reward`, which knows whether a response ended by itself."""

    def reward(answers: Sequence[rewards.Answer]) -> list[rewards.Score]:
        return [rewards.Score(_gold(answer)) for answer in answers]

    return reward


def _gold(answer: rewards.Answer) -> float:
    if not isinstance(answer.record, world.Prompt):
        raise errors.DataError(
            "the world's reward is of the world's prompts, and these are "
            f"others ({type(answer.record).__name__}); name another reward"
        )
    gold = world.gold_reward(answer.record, answer.text, finished=answer.finished)
    return gold.total
