# SPDX-License-Identifier: Apache-2.0
"""The data sets of a world: which there are, their splits, and example i of each.

An example is a pure function of (world, split, index), so any part of any data set can
be made alone, in any order and on any machine.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from alignjax.data.sources.world import corpus, knowledge

# Raised whenever the same seed no longer gives the same examples: it names the data.
GENERATOR = 1


class View(NamedTuple):
    """One data set.

    Attributes:
      fields: {name: type}, with [type] for a list; types are str, int and float.
      sizes: {preset: {split: default number of examples}}.
      example: `(world, split, index) -> {name: value}`.
    """

    fields: dict[str, Any]
    sizes: dict[str, dict[str, int]]
    example: Callable[[knowledge.World, str, int], dict[str, Any]]


def _pretrain(world: knowledge.World, split: str, index: int) -> dict[str, Any]:
    del split
    document = corpus.document(world, index)
    return {"text": document.text, "kind": document.kind}


VIEWS = {
    "pretrain": View(
        {"text": str, "kind": str},
        {"nano": {"pretrain": 40_000}, "small": {"pretrain": 40_000}},
        _pretrain,
    ),
}
