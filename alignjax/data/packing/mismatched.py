# SPDX-License-Identifier: Apache-2.0
"""The response to another prompt that KTO measures its baseline by (arXiv:2402.01306).

It is that of another row of the same batch, so that it depends on the row's number and
the batch size alone: no order of reading, and no host, has any part in it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from alignjax.data.chat import comparisons
from alignjax.data.packing import group_plan, group_rows
from alignjax.data.tokens import cache

FORMAT = 2  # changes when a group has another partner
SAMPLE = 1024  # rows that a report looks at


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
    """uint64 [G], equal for equal prompts: of all their tokens, before any cut.

    The hashes of a cache are of how dialogues open, which other prompts may share.
    """
    out = np.zeros(len(groups.part), np.uint64)
    for g, (i, document) in enumerate(zip(groups.part, groups.document, strict=True)):
        start = int(tokens[i].offsets[document])
        stop = start + int(tokens[i].fields[comparisons.LENGTHS][document, 0])
        said = tokens[i].tokens[start:stop].tobytes()
        digest = hashlib.blake2b(said, digest_size=8).digest()
        out[g] = int.from_bytes(digest)
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


def report(
    read: Callable[[np.ndarray], Mapping[str, Any]], num_rows: int, batch_size: int
) -> str | None:
    """How many groups of the first batches have no partner; None if all have one.

    Args:
      read: the rows of some numbers; see `dataset.Dataset.rows`.
    """
    batches = min(-(-num_rows // batch_size), max(1, SAMPLE // batch_size))
    count = alone = 0
    for i in range(batches):
        rows = read(np.arange(i * batch_size, (i + 1) * batch_size))
        there = rows["group_weights"] > 0
        count += there.sum()
        alone += (there & (rows["lengths"][..., -1] == 0)).sum()
    if not alone:
        return None
    return (
        f"{alone:,} of {count:,} groups in the first {batches:,} batches have no "
        "response to another prompt of their batch that fits, so the baseline is "
        "measured without them, and 0 where a batch has none; raise batch_size, or "
        "give more prompts"
    )
