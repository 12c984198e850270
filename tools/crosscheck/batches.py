# SPDX-License-Identifier: Apache-2.0
"""The task of both sides as alignjax's batches, in any layout, by its data code."""

from __future__ import annotations

import itertools

import numpy as np

from alignjax import types
from alignjax.data import cache, comparisons, group_plan, group_rows
from tools.crosscheck import task

LAYOUTS = ("padded", "packed", "shared")


def of_pairs(pairs: list[task.Pair], layout: str = "padded") -> types.Responses:
    """The chosen response first; `values` has the margins."""
    documents = [(p.prompt, p.chosen, p.rejected) for p in pairs]
    return of_documents(documents, layout, {"margin": [p.margin for p in pairs]})


def of_labelled(rows: list[task.Labelled], layout: str = "padded") -> types.Responses:
    """Each response with the mismatched one after it."""
    documents = [(r.prompt, r.response, r.mismatched) for r in rows]
    values = {"desirable": [float(r.desirable) for r in rows]}
    return of_documents(documents, layout, values)


def of_documents(
    documents: list[tuple], layout: str, values: dict[str, list[float]]
) -> types.Responses:
    """A batch of groups, each a prompt and its responses as token ids."""
    lengths = np.array([[len(part) for part in found] for found in documents])
    tokens = np.concatenate([part for found in documents for part in found])
    fields = {comparisons.LENGTHS: lengths, comparisons.WEIGHT: np.ones(len(documents))}
    cached = cache.TokenCache(
        path=None,
        key="",
        tokens=tokens.astype(np.uint16),
        weights=None,
        offsets=np.concatenate([[0], np.cumsum(lengths.sum(1))]),
        hashes=None,
        where=None,
        manifest={},
        fields=fields | {name: np.array(found) for name, found in values.items()},
    )
    rows = 2 if layout != "padded" else len(documents)  # groups do not divide evenly
    starts = np.linspace(0, len(documents), rows + 1).round().astype(np.int64)
    made = group_plan.Layout(layout, 1 << 20, lengths.shape[1] - 1)
    sizes = made.size(lengths[:, 0], lengths[:, 1:])
    longest = max(sizes[a:b].sum() for a, b in itertools.pairwise(starts))
    plan = group_plan.Plan(
        key="",
        layout=made._replace(length=int(longest)),
        head=0,
        documents=np.arange(len(documents)),
        cuts=np.zeros(len(documents), np.int32),
        rows=starts,
        manifest={"groups": int(np.diff(starts).max())},
    )
    return types.batch(group_rows.rows(cached, plan, np.arange(rows)))


def of_demonstrations(pairs: list[task.Pair]) -> types.Sequences:
    """Prompts and chosen responses, one a row; the responses count."""
    longest = max(len(p.prompt) + len(p.chosen) for p in pairs) - 1
    shape = (len(pairs), longest)
    names = ("inputs", "targets", "segment_ids", "positions")
    fields = {name: np.zeros(shape, np.int32) for name in names}
    weights = np.zeros(shape, np.float32)
    for i, pair in enumerate(pairs):
        ids = (*pair.prompt, *pair.chosen)
        n = len(ids) - 1
        fields["inputs"][i, :n], fields["targets"][i, :n] = ids[:-1], ids[1:]
        fields["segment_ids"][i, :n], fields["positions"][i, :n] = 1, np.arange(n)
        weights[i, len(pair.prompt) - 1 : n] = 1
    return types.Sequences(weights=weights, **fields)
