# SPDX-License-Identifier: Apache-2.0
"""The embedded world: a town made from a seed, its texts, dialogues and true reward.

Everything works offline and is the same on every machine. `load` is the data source;
`gold_reward(prompt, response)` is the true reward of any reply.

    vocabulary, lexicon        names, things, acts and phrases, in two presets
    chance, knowledge          random draws, and the facts of a town, from a seed
    prompts, reaches           dialogues, prompts, and what each split may ask
    tasks/                     the kinds of prompts: how each is asked and parsed
    replies                    good replies and bad ones
    gold, labelers             the true reward, and labelers with known biases
    corpus, examples           documents, and every data set: example i is
                               f(seed, split, i)
    assessment/                trained models measured on all of this
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from alignjax import errors, registry
from alignjax.data import records
from alignjax.data.chat import format
from alignjax.world import examples, labelers, prompts
from alignjax.world.examples import Demonstration, Label, Pair, Ranking
from alignjax.world.gold import Reward, gold_reward
from alignjax.world.knowledge import World, build
from alignjax.world.prompts import Novelty, Prompt

__all__ = [
    "Demonstration",
    "Label",
    "Novelty",
    "Pair",
    "Prompt",
    "Ranking",
    "Reward",
    "World",
    "as_chat",
    "build",
    "gold_reward",
    "load",
]


def load(
    preset: str = "small",
    seed: int = 0,
    split: str = "pretrain",
    documents: int | None = None,
    labeler: str | None = None,
    dialogues: str | None = None,
    data_dir: str | None = None,
) -> records.Source:
    """One split of a world, made as it is read.

    `where` is "world/small/pretrain:123"; document 123 is always the same one, however
    many there are. The records depend on the split:

        pretrain                               records.Text, and perhaps Chat
        demonstrations, eval_demonstrations    examples.Demonstration
        preferences, edits, eval_preferences,
        eval_preferences_any                   examples.Pair
        rankings; labels                       examples.Ranking; examples.Label
        prompts, eval_id, eval_<kind>          prompts.Prompt

    Args:
      preset: "small", about 750 words, or "nano", about 350.
      seed: of the world: its facts and all its texts.
      split: one of the above.
      documents: the number of examples; None for the preset's default.
      labeler: of pairs, rankings and labels, a key of `labelers.LABELERS`; None for
        "clean", and for splits without a labeler.
      dialogues: of pretraining: "text", the default, where roles are words of plain
        text; or "chat", records.Chat, where an assistant has the last word.
      data_dir: of no effect, and the log says so: nothing is stored any more. Configs
        of earlier runs may have it.

    Raises:
      DataError: an unknown preset, split or labeler, a labeler for a split without
        one, or a number of documents that is not positive.
    """
    name = examples.find(preset, split)
    count = examples.splits(preset)[split] if documents is None else documents
    if count <= 0:
        raise errors.DataError(f"world documents={documents}: need one or more")
    judge, view = labeler or "clean", examples.VIEWS[name]
    if labeler is not None and not view.labeled:
        raise errors.DataError(
            f"world labeler={labeler!r}: split {split!r} has no labeler; leave it out"
        )
    if judge not in labelers.LABELERS:
        remedy = registry.closest(judge, labelers.LABELERS)
        raise errors.DataError(f"world labeler {judge!r} is unknown; {remedy}")
    if dialogues not in (None, "text", "chat") or (dialogues and split != "pretrain"):
        raise errors.DataError(
            f"world dialogues={dialogues!r} of split {split!r}: only 'pretrain' has "
            "them, as 'text' or as 'chat'; leave it out"
        )

    def stream() -> Iterator[tuple[str, Any]]:
        town = build(preset, seed)
        for index in range(count):
            record = view.make(town, split, index, judge)
            if dialogues == "chat":
                record = as_chat(record)
            yield f"world/{preset}/{split}:{index}", record

    identity = {
        "preset": preset,
        "seed": seed,
        "view": name,
        "sizes": {split: count},
        "generator": examples.GENERATOR,
    }
    if view.labeled:
        identity["labeler"] = judge
    if dialogues == "chat":
        identity["dialogues"] = dialogues
    note = "data_dir has no effect: the world is not stored any more"
    return records.Source("world", identity, None, stream, note if data_dir else "")


def as_chat(document: records.Text) -> records.Text | records.Chat:
    """A document as a dialogue, if all of it is one that an assistant ends."""
    dialogue = prompts.parse(document.text)
    fault = format.fault(records.Chat(tuple(dialogue)), literal=True)
    if fault or dialogue[-1][0] != prompts.ASSISTANT:
        return document
    return records.Chat(dialogue)
