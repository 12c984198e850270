# SPDX-License-Identifier: Apache-2.0
"""How much models are asked."""

from __future__ import annotations

import dataclasses

from alignjax import errors
from alignjax.world.assessment import asked


@dataclasses.dataclass(frozen=True)
class Settings:
    """How much is asked, and with what seed.

    Attributes:
      each: prompts of a slice, and twice as many familiar ones.
      seed: of what models draw, and of the bootstrap.
      length: tokens of an answer at most; the longest good ones have about half of it.
      kinds: of tasks, a slice each.
      documents: of the pretraining corpus, to be read.
      demonstrations: held out, to be read.
      pairs: held out, to be judged by reward models.
    """

    each: int = 64
    seed: int = 0
    length: int = 64
    kinds: tuple[str, ...] = asked.KINDS
    documents: int = 512
    demonstrations: int = 256
    pairs: int = 1000

    def __post_init__(self):
        counts = ("each", "length", "documents", "demonstrations", "pairs")
        problems = [
            f"{name}: {getattr(self, name)} must be at least 1"
            for name in counts
            if getattr(self, name) < 1
        ]
        known = [kind for kind in self.kinds if kind in asked.TASKS]
        if not self.kinds or len(known) != len(set(self.kinds)):
            names = ", ".join(asked.TASKS)
            problems.append(f"kinds: {self.kinds!r} are not different ones of {names}")
        if problems:
            raise errors.ConfigError(problems)
