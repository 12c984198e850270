# SPDX-License-Identifier: Apache-2.0
"""What models are asked: the same prompts of every slice for each of them.

`eval_id` has the mixture of the demonstrations and nothing that is new to them; a slice
`eval_<kind>` has one kind of task and anything the world knows.
"""

from __future__ import annotations

import functools
import itertools
from typing import NamedTuple

from alignjax import world
from alignjax.world import corpus, prompts, tasks, views

FAMILIAR = "eval_id"
# The nine kinds that every preset has; the mean over their slices is the headline.
KINDS = tuple(tasks.NANO_WEIGHTS)
# All kinds of tasks.
TASKS = tuple(tasks.TASKS)
# Training counts documents from 0; from here on they are of no run's data.
_UNSEEN = 1 << 30


class Asked(NamedTuple):
    """A prompt and the slice that it was drawn for."""

    slice: str
    prompt: prompts.Prompt

    @property
    def familiar(self) -> bool:
        """Whether nothing in it is new to whoever has seen the demonstrations."""
        return self.prompt.novelty == 0


def draw(town: world.World, each: int, kinds=KINDS) -> list[Asked]:
    """`each` prompts of every kind, after twice as many familiar ones.

    Prompt i of a slice is the same one for any `each`, and that of `world.load`.
    """
    sizes = {FAMILIAR: 2 * each} | {f"eval_{kind}": each for kind in kinds}
    view = views.VIEWS["evaluation"]
    return [
        Asked(name, view.record(view.example(town, name, index), "clean"))
        for name, size in sizes.items()
        for index in range(size)
    ]


def documents(town: world.World, count: int) -> list[str]:
    """Pretraining documents that no run has read, nor any that says the same.

    Short documents, such as sums, recur: one in five would be known otherwise.
    """
    read = _corpus(town.lexicon.preset, town.seed)
    fresh = (corpus.document(town, _UNSEEN + i).text for i in itertools.count())
    return list(itertools.islice((text for text in fresh if text not in read), count))


@functools.lru_cache(maxsize=2)
def _corpus(preset: str, seed: int) -> frozenset[str]:
    """What the corpus of the default size says."""
    town = world.build(preset, seed)
    size = views.VIEWS["pretrain"].sizes[preset]["pretrain"]
    return frozenset(corpus.document(town, i).text for i in range(size))


def demonstrations(town: world.World, count: int) -> list[world.Demonstration]:
    """Held-out demonstrations, those of the split `eval_demonstrations`."""
    return _examples(town, "demonstrations", "eval_demonstrations", count, "clean")


def pairs(town: world.World, split: str, count: int, labeler: str) -> list[world.Pair]:
    """Held-out pairs as `labeler` sorted them.

    Args:
      town: the world.
      split: "eval_preferences", about what preferences are about, or
        "eval_preferences_any", about anything.
      count: how many.
      labeler: a key of `labelers.LABELERS`.
    """
    return _examples(town, "preferences", split, count, labeler)


def _examples(town, view: str, split: str, count: int, labeler: str) -> list:
    entry = views.VIEWS[view]
    return [
        entry.record(entry.example(town, split, index), labeler)
        for index in range(count)
    ]
