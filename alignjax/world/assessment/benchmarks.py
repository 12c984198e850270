# SPDX-License-Identifier: Apache-2.0
"""The world as a benchmark: the same prompts, documents and pairs for every model.

`eval_id` has the mixture of the demonstrations and nothing that is new to them; a slice
`eval_<kind>` has one kind of task, about anything in the world.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
from typing import Any, NamedTuple

from alignjax import bounds, errors, world
from alignjax.evals import rows
from alignjax.world import corpus, examples, prompts, tasks

FAMILIAR = "eval_id"
# The nine kinds that every preset has; the mean over their slices is the headline.
KINDS = tuple(tasks.NANO_WEIGHTS)
# Training counts documents from 0; from here on no run trains on them.
_UNSEEN = 1 << 30


@dataclasses.dataclass(frozen=True)
class Settings:
    """Sizes of the benchmark, and its seed.

    Attributes:
      each: prompts of a slice, and twice as many familiar ones.
      seed: of sampling and of the bootstrap.
      length: most tokens of a response; the longest good ones have about half of it.
      kinds: of tasks, a slice each.
      documents: of the pretraining corpus, for perplexity.
      demonstrations: held out, for perplexity.
      pairs: held out, for reward models.
    """

    each: bounds.Count = 64
    seed: bounds.CountOrZero = 0
    length: bounds.Count = 64
    kinds: tuple[str, ...] = KINDS
    documents: bounds.Count = 512
    demonstrations: bounds.Count = 256
    pairs: bounds.Count = 1000

    def __post_init__(self):
        if not self.kinds or set(self.kinds) - set(tasks.TASKS):
            names = ", ".join(tasks.TASKS)
            raise errors.ConfigError(f"kinds: {self.kinds!r}; name some of {names}")
        if len(set(self.kinds)) < len(self.kinds):
            raise errors.ConfigError(f"kinds: {self.kinds!r} names one twice")


class Question(NamedTuple):
    """A prompt and the slice that it was drawn for."""

    slice: str
    prompt: prompts.Prompt

    def as_json(self) -> dict[str, str | int]:
        """Its fields in the file of results."""
        fields = ("text", "best", "novelty")
        return {"slice": self.slice} | {f: getattr(self.prompt, f) for f in fields}


@dataclasses.dataclass(frozen=True)
class Benchmark:
    """Everything that models are measured on; drawn on first use.

    Attributes:
      town: the world.
      settings: how much of it.
    """

    town: world.World
    settings: Settings = Settings()

    @functools.cached_property
    def questions(self) -> list[Question]:
        """`each` prompts of every kind, after twice as many familiar ones.

        Prompt i of a slice is the same one for any `each`, and that of `world.load`.
        """
        each = self.settings.each
        sizes = {FAMILIAR: 2 * each}
        sizes |= {f"eval_{kind}": each for kind in self.settings.kinds}
        return [
            Question(split, prompt)
            for split, size in sizes.items()
            for prompt in self._records(split, size)
        ]

    @functools.cached_property
    def suite(self) -> list[dict[str, Any]]:
        """The questions' prompts as JSON data: texts, and all that decides rewards."""
        return [question.prompt._asdict() for question in self.questions]

    @functools.cached_property
    def digest(self) -> str:
        """The digest of the suite."""
        return rows.digest_of(self.suite)

    @functools.cached_property
    def documents(self) -> list[str]:
        """Texts of the pretraining corpus of which no run trained on an equal one.

        Short documents, such as sums, recur: one in five would be known otherwise.
        """
        trained = _corpus(self.town.lexicon.preset, self.town.seed)
        indices = itertools.count(_UNSEEN)
        fresh = (corpus.document(self.town, index).text for index in indices)
        unseen = (text for text in fresh if text not in trained)
        return list(itertools.islice(unseen, self.settings.documents))

    @functools.cached_property
    def demonstrations(self) -> list[world.Demonstration]:
        """Held-out demonstrations."""
        return self._records("eval_demonstrations", self.settings.demonstrations)

    def pairs(self, split: str, labeler: str) -> list[world.Pair]:
        """Held-out pairs as `labeler` sorted them.

        Args:
          split: "eval_preferences", about what preferences are about, or
            "eval_preferences_any", about anything.
          labeler: a key of `labelers.LABELERS`.
        """
        return self._records(split, self.settings.pairs, labeler)

    def _records(self, split: str, count: int, labeler: str = "clean") -> list:
        return [
            examples.read(self.town, split, index, labeler) for index in range(count)
        ]


@functools.lru_cache(maxsize=2)
def _corpus(preset: str, seed: int) -> frozenset[str]:
    """The texts of a corpus of the default size."""
    town = world.build(preset, seed)
    size = examples.splits(preset)["pretrain"]
    return frozenset(corpus.document(town, i).text for i in range(size))
