# SPDX-License-Identifier: Apache-2.0
"""The embedded world: a town made from a seed, its texts, dialogues and true reward.

Everything works offline and is the same on every machine. `load` is the data source;
`gold_reward(prompt, response)` is the true reward of any reply.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from alignjax import registry
from alignjax.data import records
from alignjax.data.sources.world import lexicon, prepared, views
from alignjax.data.sources.world.gold import Reward, gold_reward
from alignjax.data.sources.world.knowledge import World, build
from alignjax.data.sources.world.prompts import Novelty, Prompt

__all__ = ["Novelty", "Prompt", "Reward", "World", "build", "gold_reward", "load"]


def load(
    preset: str = "small",
    seed: int = 0,
    split: str = "pretrain",
    documents: int | None = None,
    data_dir: str | None = None,
) -> records.Source:
    """A source of Text: the pretraining corpus of a world.

    `where` is "world/small/pretrain:123"; document 123 is always the same one, however
    many there are. The corpus is made on first use and kept in `data_dir`.

    Args:
      preset: "small", about 700 words, or "nano", about 350.
      seed: of the world: its facts and all its texts.
      split: "pretrain".
      documents: how many; None for the preset's default.
      data_dir: where it is kept; None for the user's cache.

    Raises:
      DataError: an unknown preset or split, or a size that is not positive.
    """
    if preset not in lexicon.LEXICONS:
        remedy = registry.closest(preset, lexicon.LEXICONS)
        raise records.DataError(f"world preset {preset!r} is unknown; {remedy}")
    splits = {name: view for view, v in views.VIEWS.items() for name in v.sizes[preset]}
    if split not in splits:
        remedy = registry.closest(split, splits)
        raise records.DataError(f"world split {split!r} is unknown; {remedy}")
    view = splits[split]
    count = views.VIEWS[view].sizes[preset][split] if documents is None else documents
    if count <= 0:
        raise records.DataError(
            f"world documents={documents}: there must be one or more"
        )
    folder = Path(data_dir) if data_dir else prepared.default_data_dir()
    directory = prepared.prepare(folder, preset, seed, view, {split: count})

    def stream() -> Iterator[tuple[str, records.Text]]:
        for index, example in enumerate(prepared.stream(directory, split)):
            yield f"world/{preset}/{split}:{index}", records.Text(example["text"])

    size = sum(file.stat().st_size for file in directory.iterdir())
    key = prepared.identity(preset, seed, view, {split: count})
    return records.Source("world", key, size, stream)
