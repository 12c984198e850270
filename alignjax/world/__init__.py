# SPDX-License-Identifier: Apache-2.0
"""The embedded world: a town made from a seed, its texts, dialogues and true reward.

Everything works offline and is the same on every machine. `load` is the data source;
`gold_reward(prompt, response)` is the true reward of any reply.

    people, procedures, lore, lexicon    what can be said, in two presets
    knowledge                            what is true, from a seed
    reaches, prompts, novelty, tasks/    what is asked: a file for each kind of task
    replies, corruptions, critiques      what is answered, well or badly
    gold, labelers                       what that is worth, and who says so
    turns, stories, corpus               the pretraining documents
    views, supervision, examples         every data set: example i is f(seed, split, i)
    builder, prepared                    the same through TFDS, kept on disk
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from alignjax import errors, registry
from alignjax.data import records
from alignjax.data.chat import format
from alignjax.world import labelers, lexicon, prepared, turns, views
from alignjax.world.examples import Demonstration, Label, Pair, Ranking
from alignjax.world.gold import Reward, gold_reward
from alignjax.world.knowledge import World, build
from alignjax.world.novelty import Novelty
from alignjax.world.prompts import Prompt

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
    """One split of a world, made on first use and kept in `data_dir`.

    `where` is "world/small/pretrain:123"; document 123 is always the same one, however
    many there are. What is yielded depends on the split:

        pretrain                               records.Text, and perhaps Chat
        demonstrations, eval_demonstrations    examples.Demonstration
        preferences, edits, eval_preferences,
        eval_preferences_any                   examples.Pair
        rankings                               examples.Ranking
        labels                                 examples.Label
        prompts, eval_id, eval_<kind>          prompts.Prompt

    Args:
      preset: "small", about 750 words, or "nano", about 350.
      seed: of the world: its facts and all its texts.
      split: one of the above.
      documents: how many examples; None for the preset's default.
      labeler: who judged pairs, rankings and labels, a key of `labelers.LABELERS`; None
        for "clean", and for splits that nobody judged.
      dialogues: of pretraining: "text", the default, where roles are words of plain
        text; or "chat", records.Chat, where an assistant has the last word.
      data_dir: where data sets are kept; None for the user's cache.

    Raises:
      DataError: an unknown preset, split or labeler, a labeler where nothing is judged,
        or a number of documents that is not positive.
    """
    if preset not in lexicon.LEXICONS:
        remedy = registry.closest(preset, lexicon.LEXICONS)
        raise errors.DataError(f"world preset {preset!r} is unknown; {remedy}")
    splits = views.splits(preset)
    if split not in splits:
        remedy = registry.closest(split, splits)
        raise errors.DataError(f"world split {split!r} is unknown; {remedy}")
    count = splits[split] if documents is None else documents
    if count <= 0:
        raise errors.DataError(f"world documents={documents}: need one or more")
    name = views.find(preset, split)
    view = views.VIEWS[name]
    judge = _check_labeler(labeler, split, view.labeled)
    read = _check_dialogues(dialogues, split)
    folder = Path(data_dir).expanduser() if data_dir else prepared.default_data_dir()
    directory = prepared.prepare(folder, preset, seed, name, {split: count})

    def stream() -> Iterator[tuple[str, Any]]:
        for index, example in enumerate(prepared.stream(directory, split)):
            yield f"world/{preset}/{split}:{index}", read(view.record(example, judge))

    size = sum(file.stat().st_size for file in directory.iterdir())
    key = prepared.identity(preset, seed, name, {split: count})
    if view.labeled:
        key["labeler"] = judge
    if dialogues == "chat":
        key["dialogues"] = dialogues
    return records.Source("world", key, size, stream)


def _check_dialogues(dialogues: str | None, split: str) -> Callable[[Any], Any]:
    """What makes of a record what is to be read. Raises DataError."""
    if dialogues is not None and split != "pretrain":
        raise errors.DataError(
            f"world dialogues={dialogues!r}: only of split 'pretrain'; leave it out"
        )
    if dialogues not in (None, "text", "chat"):
        raise errors.DataError(f"world dialogues={dialogues!r} is not text or chat")
    return as_chat if dialogues == "chat" else lambda record: record


def as_chat(document: records.Text) -> records.Text | records.Chat:
    """A document as a dialogue, if all of it is one that an assistant ends."""
    said = turns.parse(document.text)
    if format.fault(said) or said[-1][0] != turns.ASSISTANT:
        return document
    return records.Chat(said)


def _check_labeler(labeler: str | None, split: str, labeled: bool) -> str:
    if labeler is not None and not labeled:
        raise errors.DataError(
            f"world labeler={labeler!r}: nobody judged split {split!r}; leave it out"
        )
    judge = labeler or "clean"
    if judge not in labelers.LABELERS:
        remedy = registry.closest(judge, labelers.LABELERS)
        raise errors.DataError(f"world labeler {judge!r} is unknown; {remedy}")
    return judge
