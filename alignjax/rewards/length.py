# SPDX-License-Identifier: Apache-2.0
"""Rewards of the length of a response alone."""

from __future__ import annotations

from collections.abc import Sequence

from alignjax import errors, rewards
from alignjax.bounds import CountOrZero


def make(
    per_token: float = 0.0, unfinished: float = 0.0, overlong: CountOrZero = 0
) -> rewards.Reward:
    """`per_token` times the tokens, and penalties for responses without an end.

    Args:
      per_token: added for each token; negative for shorter responses.
      unfinished: added, so below 0 for a penalty, where a response did not end by
        itself (arXiv:2403.17031).
      overlong: tokens before the end of the room over which a penalty goes from 0 to
        -1 (DAPO, arXiv:2503.14476 Eq. 13); 0 is none.

    Raises:
      ConfigError: all of them are 0.

    The reward raises ConfigError where `overlong` is more than the room.
    """
    if not (per_token or unfinished or overlong):
        raise errors.ConfigError(
            "per_token: 0, and so are unfinished and overlong; set one of them"
        )

    def reward(responses: Sequence[rewards.Response]) -> list[rewards.Score]:
        scores = []
        for response in responses:
            if overlong > response.room:  # a response of no token would be penalised
                raise errors.ConfigError(
                    f"overlong: {overlong:,} tokens before the end of a room of "
                    f"{response.room:,} (max_tokens); lower it, or raise max_tokens"
                )
            value = per_token * response.length
            value += 0.0 if response.finished else unfinished
            if overlong:
                over = response.length - (response.room - overlong)
                value -= min(1.0, max(0.0, over / overlong))
            scores.append(rewards.Score(value))
        return scores

    reward.reads_text, reward.overlong = False, overlong
    return reward
