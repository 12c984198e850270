# SPDX-License-Identifier: Apache-2.0
"""Why a source has no rows in a split, and what helps."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def no_rows(
    cfg: Any, counts: Mapping[str, int], split: str, length: int, data: str
) -> str:
    """In words.

    Args:
      cfg: the section `data`.
      counts: the manifest of the source's plan, which has no rows.
      data: what is learned from; see `loader.build`.
    """
    lost = [
        f"{counts[name]:,} {why}"
        for name, why in (
            ("long", "are too long"),
            ("short", "have fewer than 2 tokens"),
        )
        if counts.get(name)
    ]
    what = f"of {counts['documents']:,} documents {' and '.join(lost)}"
    return (
        f"no rows in {split}: {what if lost else 'it has no documents'}; "
        f"{_remedy(cfg, counts, split, length, data)}"
    )


def _remedy(cfg, counts, split: str, length: int, data: str) -> str:
    if counts["long"]:
        told = f"raise length, which is {length}"
        if cfg.long_documents != "skip":
            return told
        other = "split" if data == "text" else "truncate_prompt"
        return f'{told}, or say data.long_documents = "{other}"'
    if not cfg.validation_fraction:
        return "give more data"
    change = "lower" if split == "train" else "raise"
    told = f"{change} data.validation_fraction = {cfg.validation_fraction}"
    if data != "text" or cfg.validation_by == "tail":
        return told
    tail = 'data.validation_by = "tail" for a corpus of a few long documents'
    return f"{told}, or say {tail}"
