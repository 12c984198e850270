# SPDX-License-Identifier: Apache-2.0
"""The response to another prompt that KTO measures its baseline by (arXiv:2402.01306).

It is that of another row of the same batch, so that it depends on the row's number and
the batch size alone: no order of reading, and no host, has any part in it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from alignjax.data import cache, group_plan, group_rows


def add(
    groups: group_rows.Groups,
    numbers: np.ndarray,
    find: Callable[[np.ndarray], group_rows.Groups],
    tokens: Sequence[cache.TokenCache],
    plans: Sequence[group_plan.Plan],
    batch_size: int,
) -> group_rows.Groups:
    """The groups, each with one more response: that of its partner.

    The partner of a group of row n is the group in its place of the next row of the
    batch, going round; the next again while its prompt is the same, its response does
    not fit, or the row has none. A group that finds none has 0 tokens there.

    Args:
      numbers: int64 [n], of the rows.
      find: the groups of other rows, by their numbers.
      batch_size: rows n with the same n // batch_size are a batch.
    """
    number = numbers[groups.row]
    first = number - number % batch_size
    prompt, room = _prompts(groups, tokens), _room(groups, plans)
    source, start = groups.part.copy(), np.zeros_like(groups.document)
    length = np.zeros_like(groups.document)
    left = np.arange(len(number))
    for step in range(1, batch_size):
        if not len(left):
            break
        wanted = first[left] + (number[left] + step) % batch_size
        rows, which = np.unique(wanted, return_inverse=True)
        others = find(rows)
        counts = np.bincount(others.row, minlength=len(rows))[which]
        able = np.flatnonzero(counts)
        begin = np.searchsorted(others.row, which[able])
        other = begin + groups.place[left[able]] % counts[able]
        fits = others.lengths[other, 0] <= room[left[able]]
        fits &= _prompts(others, tokens)[other] != prompt[left[able]]
        mine, other = left[able[fits]], other[fits]
        source[mine] = others.sources[other, 0]
        start[mine] = others.starts[other, 0]
        length[mine] = others.lengths[other, 0]
        left = np.setdiff1d(left, mine, assume_unique=True)
    join = lambda array, column: np.concatenate([array, column[:, None]], 1)
    return groups._replace(
        sources=join(groups.sources, source),
        starts=join(groups.starts, start),
        lengths=join(groups.lengths, length),
    )


def _prompts(groups: group_rows.Groups, tokens) -> np.ndarray:
    """uint64 [G], equal for equal prompts."""
    out = np.zeros(len(groups.part), np.uint64)
    for i, cached in enumerate(tokens):
        mine = groups.part == i
        out[mine] = cached.hashes[groups.document[mine]]
    return out


def _room(groups: group_rows.Groups, plans) -> np.ndarray:
    """int64 [G], the longest mismatched response that each group has room for."""
    out = np.zeros(len(groups.part), np.int64)
    for i, plan in enumerate(plans):
        mine = groups.part == i
        out[mine] = plan.layout.room(
            groups.prompts[mine], groups.lengths[mine], plan.manifest["reserve"]
        )
    return out
