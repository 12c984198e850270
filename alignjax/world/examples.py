# SPDX-License-Identifier: Apache-2.0
"""What the later stages learn from: demonstrations, pairs, rankings and labels."""

from __future__ import annotations

from typing import NamedTuple

from alignjax.data import records
from alignjax.world import prompts, turns


class Demonstration(NamedTuple):
    """A prompt and a reply to imitate."""

    prompt: prompts.Prompt
    response: str

    @property
    def turns(self) -> tuple[turns.Turn, ...]:
        """The whole dialogue."""
        return (*self.prompt.turns, (turns.ASSISTANT, self.response))

    @property
    def record(self) -> records.Chat:
        """What is trained on."""
        return records.Chat(self.turns)


class Pair(NamedTuple):
    """Two replies to a prompt as a labeler has sorted them.

    Attributes:
      chosen, rejected: the replies.
      rewards: their true rewards, chosen first; a labeler may have got it wrong.
      probability: of the labeler choosing as it did.
    """

    prompt: prompts.Prompt
    chosen: str
    rejected: str
    rewards: tuple[float, float]
    probability: float

    @property
    def record(self) -> records.Comparison:
        """What is trained on."""
        values = {"reward": self.rewards, "probability": self.probability}
        said = (self.chosen, self.rejected)
        return records.Comparison(self.prompt.turns, said, values)


class Ranking(NamedTuple):
    """Several replies to a prompt, best first as a labeler saw it, and true rewards."""

    prompt: prompts.Prompt
    responses: tuple[str, ...]
    rewards: tuple[float, ...]

    @property
    def record(self) -> records.Comparison:
        """What is trained on."""
        values = {"reward": self.rewards}
        return records.Comparison(self.prompt.turns, self.responses, values)


class Label(NamedTuple):
    """A reply that a labeler called good or not, and its true reward."""

    prompt: prompts.Prompt
    response: str
    desirable: bool
    reward: float

    @property
    def record(self) -> records.Comparison:
        """What is trained on."""
        values = {"desirable": float(self.desirable), "reward": (self.reward,)}
        return records.Comparison(self.prompt.turns, (self.response,), values)
