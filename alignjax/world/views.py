# SPDX-License-Identifier: Apache-2.0
"""The data sets of a world: which there are, their splits, and example i of each.

An example is a pure function of (world, split, index), so any part of any data set can
be made alone, in any order and on any machine. A name that begins with "eval_" is for
evaluation only: besides the pretraining corpus, only there do held-out acts occur.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from alignjax.data import records
from alignjax.world import corpus, examples, knowledge, prompts, reaches, replies
from alignjax.world.tasks import WEIGHTS

# Raised whenever the same seed no longer gives the same examples: it names the data.
GENERATOR = 1
# Demonstrations that are padded, so that padding stays possible and can be exploited.
_PADDED = 0.08


class View(NamedTuple):
    """One data set.

    Attributes:
      sizes: {preset: {split: default number of examples}}.
      example: `(world, split, index) -> {name: value}`, JSON data.
      record: `(example, labeler) -> record`, what a source yields.
      labeled: whether the labeler matters.
    """

    sizes: dict[str, dict[str, int]]
    example: Callable[[knowledge.World, str, int], dict[str, Any]]
    record: Callable[[dict[str, Any], str], Any]
    labeled: bool = False

    def read(self, world, split: str, index: int, labeler: str = "clean") -> Any:
        """The record of an example."""
        return self.record(self.example(world, split, index), labeler)


def _pretrain(world: knowledge.World, _: str, index: int) -> dict[str, Any]:
    document = corpus.document(world, index)
    return {"text": document.text, "kind": document.kind}


def _demonstration(world: knowledge.World, split: str, index: int) -> dict[str, Any]:
    reach = reaches.familiar(world.lexicon.preset)
    rng, prompt = examples.draw(world, reach, split, index)
    reply = replies.best(rng, prompt)
    short = prompt.constraint in ("one word", "brief")
    if not short and rng.random() < _PADDED:
        reply = replies.padded(rng, prompt, reply)
    return examples.encode_prompt(prompt) | {"response": reply}


def _prompt(world: knowledge.World, split: str, index: int) -> dict[str, Any]:
    reach, kind = reaches.everything, split.removeprefix("eval_")
    if split in ("prompts", "eval_id"):
        reach = reaches.preference if split == "prompts" else reaches.familiar
        kind = None
    where = (reach(world.lexicon.preset), split, index, kind)
    return examples.encode_prompt(examples.draw(world, *where)[1])


def _within_reach(example: Callable) -> Callable:
    """`example` on the prompts that its split may speak of."""

    def of_split(world: knowledge.World, split: str, index: int) -> dict[str, Any]:
        reach = reaches.everything if split.endswith("_any") else reaches.preference
        return example(world, reach(world.lexicon.preset), split, index)

    return of_split


def _read_text(example: dict[str, Any], _: str) -> records.Text:
    return records.Text(example["text"])


def _read_prompt(example: dict[str, Any], _: str) -> prompts.Prompt:
    return prompts.from_json(example["prompt"])


def _read_demonstration(example: dict[str, Any], _: str) -> examples.Demonstration:
    prompt = prompts.from_json(example["prompt"])
    return examples.Demonstration(prompt, example["response"])


def _slices(preset: str, each: int) -> dict[str, int]:
    return {"eval_id": 2 * each} | {f"eval_{kind}": each for kind in WEIGHTS[preset]}


_SIZES = {
    "pretrain": dict(nano={"pretrain": 40_000}, small={"pretrain": 40_000}),
    "demonstrations": dict(
        nano={"demonstrations": 256, "eval_demonstrations": 128},
        small={"demonstrations": 2_000, "eval_demonstrations": 512},
    ),
    "preferences": {
        preset: {
            "preferences": train,
            "eval_preferences": held_out,
            "eval_preferences_any": held_out,
        }
        for preset, train, held_out in (("nano", 4_000, 512), ("small", 20_000, 2_000))
    },
    "edits": dict(nano={"edits": 1_000}, small={"edits": 5_000}),
    "rankings": dict(nano={"rankings": 1_000}, small={"rankings": 5_000}),
    "labels": dict(nano={"labels": 4_000}, small={"labels": 20_000}),
    "prompts": dict(nano={"prompts": 4_000}, small={"prompts": 20_000}),
    "evaluation": dict(nano=_slices("nano", 64), small=_slices("small", 512)),
}
VIEWS = {
    name: View(_SIZES[name], example, record, labeled)
    for name, example, record, labeled in (
        ("pretrain", _pretrain, _read_text, False),
        ("demonstrations", _demonstration, _read_demonstration, False),
        ("preferences", _within_reach(examples.pair), examples.read_pair, True),
        ("edits", _within_reach(examples.edit), examples.read_pair, True),
        ("rankings", _within_reach(examples.ranking), examples.read_ranking, True),
        ("labels", _within_reach(examples.label), examples.read_label, True),
        ("prompts", _prompt, _read_prompt, False),
        ("evaluation", _prompt, _read_prompt, False),
    )
}


def find(preset: str, split: str) -> str | None:
    """The view that has `split`, or None."""
    return next((v for v, view in VIEWS.items() if split in view.sizes[preset]), None)


def splits(preset: str) -> dict[str, int]:
    """Every split of every view, and its default size."""
    return {s: n for view in VIEWS.values() for s, n in view.sizes[preset].items()}
