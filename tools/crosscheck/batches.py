# SPDX-License-Identifier: Apache-2.0
"""The task of both sides as alignjax's batches, in any layout, by its data code."""

from __future__ import annotations

from alignjax import types
from tools import pair_batches
from tools.crosscheck import task

# Of rows: more than any sequence has, and room for some groups but not for all.
LENGTH = 48


def of_pairs(pairs: list[task.Pair], layout: str = "padded") -> types.Responses:
    """The chosen response first; `values` has the margins."""
    documents = [(p.prompt, p.chosen, p.rejected) for p in pairs]
    values = {"margin": [p.margin for p in pairs]}
    return pair_batches.batch(documents, layout, LENGTH, values)


def of_labelled(rows: list[task.Labelled], layout: str = "padded") -> types.Responses:
    """Each response with the mismatched one after it."""
    documents = [(r.prompt, r.response, r.mismatched) for r in rows]
    values = {"desirable": [float(r.desirable) for r in rows]}
    return pair_batches.batch(documents, layout, LENGTH, values)


def of_demonstrations(pairs: list[task.Pair]) -> types.Sequences:
    """Prompts and chosen responses, one a row; the responses count."""
    return types.Sequences.of(
        [(*pair.prompt, *pair.chosen) for pair in pairs],
        prompts=[len(pair.prompt) for pair in pairs],
    )
