# SPDX-License-Identifier: Apache-2.0
"""Prompts and responses as token ids to a batch of groups, made by the data's own code.

For tools that want the same few groups in every layout; runs have `data.loader`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from alignjax import types
from alignjax.data.chat import comparisons
from alignjax.data.packing import best_fit, groups
from alignjax.data.packing import rows as group_rows
from alignjax.data.tokens import cache

LAYOUTS = ("padded", "packed", "shared")


def batch(
    documents: Sequence[Sequence[Sequence[int]]],
    layout: str,
    length: int,
    values: Mapping[str, Sequence[float]] | None = None,
    rows: int | None = None,
) -> types.Responses:
    """A batch of all groups.

    Args:
      documents: `(prompt, response 1, ..., response K)` each, token ids.
      layout: one of `LAYOUTS`.
      length: T, the targets of a sequence. Packed and shared rows have as many groups
        as fit, padded rows one.
      values: what is known of each group, by name.
      rows: B at least; rows without groups are padding.

    Raises:
      ValueError: a group that does not fit.
    """
    lengths = np.array([[len(part) for part in found] for found in documents])
    tokens = np.concatenate([part for found in documents for part in found])
    fields = {comparisons.LENGTHS: lengths, comparisons.WEIGHT: np.ones(len(documents))}
    fields |= {name: np.array(found) for name, found in (values or {}).items()}
    cached = cache.TokenCache(
        path=None,
        key="",
        tokens=tokens.astype(np.uint32),
        weights=None,
        offsets=np.concatenate([[0], np.cumsum(lengths.sum(1))]),
        hashes=None,
        where=None,
        manifest={},
        fields=fields,
    )
    made = group_rows.Layout(layout, length, lengths.shape[1] - 1)
    sizes = made.size(lengths[:, 0], lengths[:, 1:])
    if sizes.max() > length:
        raise ValueError(f"length {length}: a group has {sizes.max()} targets")
    row_of = np.arange(len(sizes))
    if layout != "padded":
        row_of = best_fit.rows(sizes, length)
    starts = np.concatenate([[0], np.cumsum(np.bincount(row_of))])
    plan = groups.Plan(
        key="",
        layout=made,
        tokens=cached,
        documents=np.argsort(row_of, kind="stable"),
        cuts=np.zeros(len(sizes), np.int32),
        headers=np.full(len(sizes), -1, np.int32),
        offsets=starts,
        manifest={"groups": int(np.diff(starts).max())},
    )
    indices = np.arange(len(starts) - 1)
    if rows is not None and rows > len(indices):
        indices = np.pad(indices, (0, rows - len(indices)), constant_values=-1)
    return types.batch(plan.rows(indices))


def of_batch(made: types.Responses) -> list[tuple[list[int], ...]]:
    """The `documents` of a padded batch, in order."""
    found = []
    for row, whose in enumerate(np.asarray(made.responses)):
        parts: list[list[int]] = []
        for k, of in enumerate(whose):
            inputs = made.sequences.inputs[row, k].tolist()
            there = np.flatnonzero(of)
            ids = [*inputs[: there[0] + 1], *made.sequences.targets[row, k][there]]
            if k == 0:
                parts.append([int(i) for i in ids[: there[0] + 1]])
            parts.append([int(i) for i in ids[there[0] + 1 :]])
        found.append(tuple(parts))
    return found
