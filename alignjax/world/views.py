# SPDX-License-Identifier: Apache-2.0
"""The data sets of a world: which there are, their splits, and example i of each.

An example is a pure function of (world, split, index), so any part of any data set can
be made alone, in any order and on any machine. A name that begins with "eval_" is for
evaluation only: besides the pretraining corpus, only there do held-out acts occur.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from alignjax import errors, registry
from alignjax.data import records
from alignjax.world import corpus, examples, knowledge, lexicon
from alignjax.world.tasks import NANO_WEIGHTS, SMALL_WEIGHTS

# Raised whenever the same seed no longer gives the same examples: it names the data.
GENERATOR = 1


class View(NamedTuple):
    """One data set.

    Attributes:
      make: `(world, split, index, labeler) -> example`.
      splits: {split: default numbers of examples, in "nano" and in "small"}; 0 is none.
      labeled: whether the labeler matters.
    """

    make: Callable[[knowledge.World, str, int, str], Any]
    splits: dict[str, tuple[int, int]]
    labeled: bool = False


def _document(world: knowledge.World, _: str, index: int, labeler: str) -> records.Text:
    del labeler
    return records.Text(corpus.document(world, index).text)


VIEWS = {
    "pretrain": View(_document, {"pretrain": (40_000, 40_000)}),
    "demonstrations": View(
        examples.demonstration,
        {"demonstrations": (256, 2_000), "eval_demonstrations": (128, 512)},
    ),
    "preferences": View(
        examples.pair,
        {
            "preferences": (4_000, 20_000),
            "eval_preferences": (512, 2_000),
            "eval_preferences_any": (512, 2_000),
        },
        labeled=True,
    ),
    "edits": View(examples.edit, {"edits": (1_000, 5_000)}, labeled=True),
    "rankings": View(examples.ranking, {"rankings": (1_000, 5_000)}, labeled=True),
    "labels": View(examples.label, {"labels": (4_000, 20_000)}, labeled=True),
    "prompts": View(examples.prompt, {"prompts": (4_000, 20_000)}),
    "evaluation": View(
        examples.prompt,
        {"eval_id": (128, 1_024)}
        | {f"eval_{k}": (64 * (k in NANO_WEIGHTS), 512) for k in SMALL_WEIGHTS},
    ),
}


def splits(preset: str) -> dict[str, int]:
    """Every split of every view, and its default size."""
    place = ("nano", "small").index(preset)
    sizes = {k: n[place] for view in VIEWS.values() for k, n in view.splits.items()}
    return {split: size for split, size in sizes.items() if size}


def find(preset: str, split: str) -> str:
    """The name of the view that has `split`.

    Raises:
      DataError: an unknown preset or split.
    """
    lexicon.find(preset)
    if split not in splits(preset):
        remedy = registry.closest(split, splits(preset))
        raise errors.DataError(f"world split {split!r} is unknown; {remedy}")
    return next(name for name, view in VIEWS.items() if split in view.splits)


def read(world: knowledge.World, split: str, index: int, labeler: str = "clean") -> Any:
    """Example `index` of `split`; `labeler` is a key of `labelers.LABELERS`."""
    view = VIEWS[find(world.lexicon.preset, split)]
    return view.make(world, split, index, labeler)
