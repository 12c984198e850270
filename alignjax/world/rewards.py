# SPDX-License-Identifier: Apache-2.0
"""The world's true reward of a response, for prompts of the world."""

from __future__ import annotations

from collections.abc import Sequence

from alignjax import errors, rewards, world


def make() -> rewards.Reward:
    """`gold_reward`, which knows whether a response ended by itself."""

    def reward(responses: Sequence[rewards.Response]) -> list[rewards.Score]:
        return [rewards.Score(_gold(response)) for response in responses]

    return reward


def _gold(response: rewards.Response) -> float:
    if not isinstance(response.record, world.Prompt):
        raise errors.DataError(
            "the world's reward is of the world's prompts, and these are "
            f"others ({type(response.record).__name__}); name another reward"
        )
    gold = world.gold_reward(response.record, response.text, finished=response.finished)
    return gold.total
