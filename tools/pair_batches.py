# SPDX-License-Identifier: Apache-2.0
"""Prompts and responses as token ids to a batch of groups, in any layout.

For tools that compare layouts of a few groups; runs have `data.loader`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from alignjax import types
from alignjax.data import packing
from alignjax.data.chat import comparisons
from alignjax.data.packing import groups
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
      values: `Responses.values` of each group, by name.
      rows: B at least; rows without groups are padding.

    Raises:
      ValueError: a group that does not fit.
    """
    lengths = np.array([[len(part) for part in group] for group in documents])
    tokens = np.concatenate([part for group in documents for part in group])
    fields = {comparisons.LENGTHS: lengths, comparisons.WEIGHT: np.ones(len(documents))}
    fields |= {name: np.array(numbers) for name, numbers in (values or {}).items()}
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
    shape = group_rows.Layout(layout, length, lengths.shape[1] - 1)
    sizes = shape.size(lengths[:, 0], lengths[:, 1:])
    if sizes.max() > length:
        raise ValueError(f"length {length}: a group has {sizes.max()} targets")
    padded = layout == "padded"
    row_of = np.arange(len(sizes)) if padded else packing.best_fit(sizes, length)
    starts = np.concatenate([[0], np.cumsum(np.bincount(row_of))])
    plan = groups.Plan(
        key="",
        layout=shape,
        tokens=cached,
        documents=np.argsort(row_of, kind="stable"),
        cuts=np.zeros(len(sizes), np.int32),
        headers=np.full(len(sizes), -1, np.int32),
        partners=np.full(len(sizes), -1),
        offsets=starts,
        manifest={"groups": int(np.diff(starts).max())},
    )
    indices = np.arange(len(starts) - 1)
    if rows is not None and rows > len(indices):
        indices = np.pad(indices, (0, rows - len(indices)), constant_values=-1)
    return types.batch(plan.rows(indices) | ({"one_document": True} if padded else {}))


def of_batch(batch: types.Responses) -> list[tuple[list[int], ...]]:
    """The `documents` of a padded batch, in order."""
    documents = []
    for row, responses_KT in enumerate(np.asarray(batch.responses)):
        parts: list[list[int]] = []
        for k, response_T in enumerate(responses_KT):
            inputs = batch.sequences.inputs[row, k].tolist()
            learned = np.flatnonzero(response_T)
            prompt = inputs[: learned[0] + 1]
            if k == 0:
                parts.append(prompt)
            parts.append(batch.sequences.targets[row, k][learned].tolist())
        documents.append(tuple(parts))
    return documents
