# SPDX-License-Identifier: Apache-2.0
"""The world as a TensorFlow Datasets builder that never imports TensorFlow.

    builder = AlignjaxWorld(config="small_pretrain", file_format="array_record")
    builder.download_and_prepare()
    documents = builder.as_data_source(split="pretrain")

`world.load` does the same and keeps the result under a name that says all of it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from alignjax.world import knowledge, views

FILE_FORMAT = "array_record"


@dataclasses.dataclass(eq=False, kw_only=True)
class WorldConfig(tfds.core.BuilderConfig):
    """Which data set of which world.

    Attributes:
      preset: "nano" or "small".
      view: a key of `views.VIEWS`.
      seed: of the world.
      sizes: {split: number of examples}; None for the view's defaults.
    """

    preset: str = "small"
    view: str = "pretrain"
    seed: int = 0
    sizes: dict[str, int] | None = None

    @property
    def splits(self) -> dict[str, int]:
        """The number of examples of every split."""
        return self.sizes or views.VIEWS[self.view].sizes[self.preset]


def _feature(kind: Any) -> tfds.features.FeatureConnector:
    if isinstance(kind, list):
        return tfds.features.Sequence(_feature(kind[0]))
    if kind is str:
        return tfds.features.Text()
    kind, shape = kind if isinstance(kind, tuple) else (kind, ())
    dtype = {int: np.int64, float: np.float32}[kind]
    return tfds.features.Tensor(shape=shape, dtype=dtype)


class AlignjaxWorld(tfds.core.GeneratorBasedBuilder):
    """A town with known facts, its dialogues and their true reward."""

    VERSION = tfds.core.Version(f"{views.GENERATOR}.0.0")
    BUILDER_CONFIGS = [  # noqa: RUF012, the name is TFDS's
        WorldConfig(name=f"{preset}_{view}", preset=preset, view=view)
        for view, entry in views.VIEWS.items()
        for preset in entry.sizes
    ]

    def _info(self) -> tfds.core.DatasetInfo:
        fields = views.VIEWS[self.builder_config.view].fields
        return self.dataset_info_from_configs(
            features=tfds.features.FeaturesDict(
                {name: _feature(kind) for name, kind in fields.items()}
            ),
            # Example i of a split is example i of the file.
            disable_shuffling=True,
        )

    def _split_generators(self, download_manager: Any) -> dict[str, Any]:
        del download_manager  # everything is made here
        splits = self.builder_config.splits.items()
        return {split: self._generate_examples(split, size) for split, size in splits}

    def _generate_examples(
        self, split: str, size: int
    ) -> Iterator[tuple[int, dict[str, Any]]]:
        settings = self.builder_config
        world = knowledge.build(settings.preset, settings.seed)
        example = views.VIEWS[settings.view].example
        for index in range(size):
            yield index, example(world, split, index)
