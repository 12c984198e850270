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
from alignjax.world import (
    chance,
    corpus,
    examples,
    knowledge,
    prompts,
    reaches,
    replies,
    supervision,
)
from alignjax.world.tasks import WEIGHTS, draw_prompt

# Raised whenever the same seed no longer gives the same examples: it names the data.
GENERATOR = 1
# Demonstrations that are padded, so that padding stays possible and can be exploited.
_PADDED = 0.08


class View(NamedTuple):
    """One data set.

    Attributes:
      fields: {name: type}; types are str, int, float, [str] or (type, shape).
      sizes: {preset: {split: default number of examples}}.
      example: `(world, split, index) -> {name: value}`.
      record: `(example, labeler) -> record`, what a source yields.
      labeled: whether the labeler matters.
    """

    fields: dict[str, Any]
    sizes: dict[str, dict[str, int]]
    example: Callable[[knowledge.World, str, int], dict[str, Any]]
    record: Callable[[dict[str, Any], str], Any]
    labeled: bool = False


def _pretrain(world: knowledge.World, split: str, index: int) -> dict[str, Any]:
    del split
    document = corpus.document(world, index)
    return {"text": document.text, "kind": document.kind}


def _demonstration(world: knowledge.World, split: str, index: int) -> dict[str, Any]:
    rng = chance.stream(world.seed, world.lexicon.preset, split, index)
    prompt = draw_prompt(rng, world, reaches.familiar(world.lexicon.preset))
    reply = replies.best(rng, prompt)
    short = prompt.constraint in ("one word", "brief")
    if not short and rng.random() < _PADDED:
        words = world.lexicon
        reply = f"{chance.pick(rng, words.fillers + words.certainties)} {reply}"
    return supervision.encode_prompt(prompt) | {"response": reply}


def _prompt(world: knowledge.World, split: str, index: int) -> dict[str, Any]:
    preset = world.lexicon.preset
    rng = chance.stream(world.seed, preset, split, index)
    if split == "prompts":
        reach, kind = reaches.preference(preset), None
    elif split == "eval_id":
        reach, kind = reaches.familiar(preset), None
    else:
        reach, kind = reaches.everything(preset), split.removeprefix("eval_")
    return supervision.encode_prompt(draw_prompt(rng, world, reach, kind))


def _within_reach(example: Callable) -> Callable:
    """`example` on the prompts that its split may speak of."""

    def of_split(world: knowledge.World, split: str, index: int) -> dict[str, Any]:
        reach = reaches.everything if split.endswith("_any") else reaches.preference
        return example(world, reach(world.lexicon.preset), split, index)

    return of_split


def _read_text(example: dict[str, Any], labeler: str) -> records.Text:
    del labeler
    return records.Text(example["text"])


def _read_prompt(example: dict[str, Any], labeler: str) -> prompts.Prompt:
    del labeler
    return prompts.from_json(example["prompt"])


def _read_demonstration(example: dict[str, Any], labeler: str):
    prompt = _read_prompt(example, labeler)
    return examples.Demonstration(prompt, example["response"])


def _sizes(nano: dict[str, int], small: dict[str, int]) -> dict[str, dict[str, int]]:
    return {"nano": nano, "small": small}


def _slices(preset: str, each: int) -> dict[str, int]:
    return {"eval_id": 2 * each} | {f"eval_{kind}": each for kind in WEIGHTS[preset]}


VIEWS = {
    "pretrain": View(
        {"text": str, "kind": str},
        _sizes({"pretrain": 40_000}, {"pretrain": 40_000}),
        _pretrain,
        _read_text,
    ),
    "demonstrations": View(
        supervision.PROMPT_FIELDS | {"response": str},
        _sizes(
            {"demonstrations": 256, "eval_demonstrations": 128},
            {"demonstrations": 2_000, "eval_demonstrations": 512},
        ),
        _demonstration,
        _read_demonstration,
    ),
    "preferences": View(
        supervision.PAIR_FIELDS,
        _sizes(
            {
                "preferences": 4_000,
                "eval_preferences": 512,
                "eval_preferences_any": 512,
            },
            {
                "preferences": 20_000,
                "eval_preferences": 2_000,
                "eval_preferences_any": 2_000,
            },
        ),
        _within_reach(supervision.pair),
        supervision.read_pair,
        labeled=True,
    ),
    "edits": View(
        supervision.PAIR_FIELDS,
        _sizes({"edits": 1_000}, {"edits": 5_000}),
        _within_reach(supervision.edit),
        supervision.read_pair,
        labeled=True,
    ),
    "rankings": View(
        supervision.RANKING_FIELDS,
        _sizes({"rankings": 1_000}, {"rankings": 5_000}),
        _within_reach(supervision.ranking),
        supervision.read_ranking,
        labeled=True,
    ),
    "labels": View(
        supervision.LABEL_FIELDS,
        _sizes({"labels": 4_000}, {"labels": 20_000}),
        _within_reach(supervision.label),
        supervision.read_label,
        labeled=True,
    ),
    "prompts": View(
        supervision.PROMPT_FIELDS,
        _sizes({"prompts": 4_000}, {"prompts": 20_000}),
        _prompt,
        _read_prompt,
    ),
    "evaluation": View(
        supervision.PROMPT_FIELDS,
        _sizes(_slices("nano", 64), _slices("small", 512)),
        _prompt,
        _read_prompt,
    ),
}


def find(preset: str, split: str) -> str | None:
    """The view that has `split`, or None."""
    return next((v for v, view in VIEWS.items() if split in view.sizes[preset]), None)


def splits(preset: str) -> dict[str, int]:
    """Every split of every view, and its default size."""
    return {s: n for view in VIEWS.values() for s, n in view.sizes[preset].items()}
