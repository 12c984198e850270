# SPDX-License-Identifier: Apache-2.0
"""Drawn responses as rows of a batch, one prompt a row."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from alignjax import types
from alignjax.data.packing import rows


def responses(
    prompts: Sequence[Sequence[int]],
    groups: Sequence[Sequence[Sequence[int]]],
    *,
    prompt_room: int,
    room: int,
    shared: bool,
    numbers: Sequence[int] | None = None,
) -> types.Responses:
    """A batch of B prompts as numpy arrays, of rows [B, 1, T], or else [B, K, T].

    Args:
      prompts: tokens of B prompts, each at most `prompt_room`.
      groups: for each prompt the tokens of its K responses, each at most `room`.
      shared: whether the responses to a prompt are branches of one row, one after the
        other, else each has a row with its own copy of the prompt. All shared rows are
        as long as the longest group needs; `packing` makes rows of several of them.
      numbers: of the prompts, `Responses.index`; by default from 0.
    """
    K = len(groups[0])
    length = prompt_room - 1 + room
    if shared:
        groups_of = zip(prompts, groups, strict=True)
        length = max(len(p) - 1 + sum(map(len, group)) for p, group in groups_of)
    layout = rows.Layout("shared" if shared else "padded", length, K)
    parts = [
        part for p, group in zip(prompts, groups, strict=True) for part in (p, *group)
    ]
    lengths = np.array([len(part) for part in parts], np.int64)
    count = np.arange(len(prompts))
    drawn = rows.Groups(
        row=count,
        place=np.zeros(len(prompts), np.int64),
        starts=(np.cumsum(lengths) - lengths).reshape(-1, 1 + K),
        lengths=lengths.reshape(-1, 1 + K),
        weight=np.ones(len(prompts)),
        values={},
        tokens=np.concatenate([np.asarray(part, np.int64) for part in parts]),
        index=np.zeros(0, np.int64),
        reference=None,
    )
    fields = rows.fields(
        drawn, layout, count if numbers is None else np.asarray(numbers), 1
    )
    fields["one_document"] = not shared
    return types.batch(fields)
