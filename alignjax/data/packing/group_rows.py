# SPDX-License-Identifier: Apache-2.0
"""Rows of groups as the fields of `types.Responses`, in the layouts of `group_plan`.

A row is made of stretches of targets. One has the rest of a prompt: p - 1 targets that
count nothing; one has a response, whose first input is the last token of the prompt.
Layouts differ in where stretches stand and in how often the prompt is said.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from alignjax.data.chat import comparisons
from alignjax.data.packing import documents, group_plan
from alignjax.data.tokens import cache


class Groups(NamedTuple):
    """G groups of some rows, in order; K responses each.

    Attributes:
      row: int64 [G], which of the rows it is in.
      place: int64 [G], how manieth of the row, from 0.
      part: int64 [G], whose document it is.
      document: int64 [G].
      cut: int64 [G], tokens that its prompt has lost.
      prompts: int64 [G], tokens that the prompt has left.
      sources: int64 [G, K], the part that each response is of.
      starts: int64 [G, K], its first token there.
      lengths: int64 [G, K], its tokens, 0 where there is no such response.
    """

    row: np.ndarray
    place: np.ndarray
    part: np.ndarray
    document: np.ndarray
    cut: np.ndarray
    prompts: np.ndarray
    sources: np.ndarray
    starts: np.ndarray
    lengths: np.ndarray


class Places(NamedTuple):
    """Targets of some rows, N in all; a place is one of the [n, R, T].

    Attributes:
      place: int64 [N].
      source, input: int64 [N], the part and the token of its cache that is the input.
      part, target: int64 [N], the same of the target.
      segment, branch, position, response: int64 [N], see `types.Responses`.
    """

    place: np.ndarray
    source: np.ndarray
    input: np.ndarray
    part: np.ndarray
    target: np.ndarray
    segment: np.ndarray
    branch: np.ndarray
    position: np.ndarray
    response: np.ndarray


def find(
    tokens: Sequence[cache.TokenCache],
    plans: Sequence[group_plan.Plan],
    part: np.ndarray,
    row: np.ndarray,
) -> Groups:
    """The groups of n rows, each with the responses of its own document.

    Args:
      part: ints [n], whose plan each row is of.
      row: ints [n], a row of that plan, or -1 for one without groups.
    """
    found = []
    for i, (cached, plan) in enumerate(zip(tokens, plans, strict=True)):
        mine = np.flatnonzero((part == i) & (row >= 0))
        first, last = plan.rows[row[mine]], plan.rows[row[mine] + 1]
        number, place = documents.flat(first, last - first)
        document = np.asarray(plan.documents[number])
        cut = plan.cuts[number].astype(np.int64)
        lengths = cached.fields[comparisons.LENGTHS][document].astype(np.int64)
        ends = cached.offsets[document][:, None] + np.cumsum(lengths, 1)
        found.append(
            Groups(
                row=np.repeat(mine, last - first),
                place=place,
                part=np.full(len(number), i),
                document=document,
                cut=cut,
                prompts=lengths[:, 0] - cut,
                sources=np.full(lengths[:, 1:].shape, i),
                starts=ends[:, :-1],
                lengths=lengths[:, 1:],
            )
        )
    whole = Groups(*(np.concatenate(arrays) for arrays in zip(*found, strict=True)))
    order = np.argsort(whole.row, kind="stable")
    return Groups(*(array[order] for array in whole))


def places(
    groups: Groups,
    layout: group_plan.Layout,
    tokens: Sequence[cache.TokenCache],
    heads: Sequence[int],
) -> Places:
    """Where every token of the groups stands in their rows.

    Args:
      heads: of each part, how many tokens stay where a prompt is cut.
    """
    count, k = groups.lengths.shape
    offsets = np.zeros(count, np.int64)
    head = np.asarray(heads)[groups.part]
    for i, cached in enumerate(tokens):
        mine = groups.part == i
        offsets[mine] = cached.offsets[groups.document[mine]]

    # Stretches [G, S, 2]: a prompt (k = 0) or response k, each group's in order.
    if layout.name == "shared":
        said = np.arange(k + 1)
    else:
        said = np.stack([np.zeros(k, np.int64), np.arange(1, k + 1)], 1).ravel()
    of = np.maximum(said - 1, 0) if layout.name == "shared" else np.arange(2 * k) // 2
    lengths = np.where(said > 0, groups.lengths[:, of], groups.prompts[:, None] - 1)
    if layout.name != "shared":  # no prompt where there is no response
        lengths = np.where(groups.lengths[:, of] > 0, lengths, 0)

    # Where each stretch starts.
    before = np.cumsum(lengths.ravel()).reshape(lengths.shape) - lengths
    if layout.name == "padded":
        start = (groups.row[:, None] * k + of) * layout.length
        start = start + np.where(said > 0, groups.prompts[:, None] - 1, 0)
        segment = np.ones_like(lengths)
    else:
        leading = np.searchsorted(groups.row, groups.row)  # first group of the row
        start = groups.row * layout.length - (before[leading, 0] if count else 0)
        start = start[:, None] + before
        segment = 1 + groups.place[:, None] + np.zeros_like(lengths)
        if layout.name == "packed":
            segment = 1 + groups.place[:, None] * k + of + np.zeros_like(lengths)

    # One entry a target: the group and the stretch it is of, and how far inside.
    flat = lengths.ravel()
    stretch = np.repeat(np.arange(len(flat)), flat)
    place, inside = documents.flat(start.ravel(), flat)
    g, s = np.divmod(stretch, max(1, len(said)))
    is_response = said[s] > 0
    which = np.maximum(said[s] - 1, 0)

    def of_prompt(j: np.ndarray) -> np.ndarray:
        return offsets[g] + j + np.where(j >= head[g], groups.cut[g], 0)

    position = inside + np.where(is_response, groups.prompts[g] - 1, 0)
    response = groups.starts[g, which] + inside
    first = ~is_response | (inside == 0)  # whose input is a token of the prompt
    return Places(
        place=place,
        source=np.where(first, groups.part[g], groups.sources[g, which]),
        input=np.where(first, of_prompt(position), response - 1),
        part=np.where(is_response, groups.sources[g, which], groups.part[g]),
        target=np.where(is_response, response, of_prompt(position + 1)),
        segment=segment.ravel()[stretch],
        branch=np.where(is_response, which + 1, 0),
        position=position,
        response=np.where(is_response, 1 + groups.place[g] * k + which, 0),
    )


def fields(
    groups: Groups,
    layout: group_plan.Layout,
    tokens: Sequence[cache.TokenCache],
    heads: Sequence[int],
    numbers: np.ndarray,
    most: int,
) -> dict[str, Any]:
    """The fields of `types.Responses` that n rows have.

    Args:
      numbers: int64 [n], of the rows in the whole training.
      most: P.
    """
    n = len(numbers)
    found = places(groups, layout, tokens, heads)
    shape = (n, layout.sequences, layout.length)

    def spread(values, dtype=np.int32) -> np.ndarray:
        out = np.zeros(n * layout.sequences * layout.length, dtype)
        out[found.place] = values
        return out.reshape(shape)

    def by_group(values, fill=0, dtype=np.float32) -> np.ndarray:
        out = np.full((n, most, *values.shape[1:]), fill, dtype)
        out[groups.row, groups.place] = values
        return out

    out = {
        "inputs": spread(_look_up(found.source, found.input, tokens, "tokens")),
        "targets": spread(_look_up(found.part, found.target, tokens, "tokens")),
        "weights": spread(found.response > 0, np.float32),
        "segment_ids": spread(found.segment),
        "positions": spread(found.position),
        "responses": spread(found.response),
        "lengths": by_group(groups.lengths, dtype=np.int32),
        "group_weights": by_group(_known(groups, tokens, comparisons.WEIGHT)),
        "index": by_group(
            (numbers[groups.row] * most + groups.place) % 2**31, -1, np.int32
        ),
        "values": {
            name: by_group(_known(groups, tokens, name)) for name in known(tokens)
        },
    }
    if layout.name == "shared":
        out["branches"] = spread(found.branch)
    if all(cached.reference is not None for cached in tokens):
        logps = _look_up(found.part, found.target, tokens, "reference")
        out["reference"] = spread(np.where(found.response > 0, logps, 0), np.float32)
    return out


def known(tokens: Sequence[cache.TokenCache]) -> list[str]:
    """The `comparisons.VALUES` that all of these know, as many numbers of each."""
    return [
        name
        for name in comparisons.VALUES
        if all(name in cached.fields for cached in tokens)
        and len({cached.fields[name].shape[1:] for cached in tokens}) == 1
    ]


def _look_up(part, index, tokens: Sequence[cache.TokenCache], name: str) -> np.ndarray:
    """An array of the caches at some tokens."""
    out = np.zeros(len(index), getattr(tokens[0], name).dtype)
    for i, cached in enumerate(tokens):
        mine = np.flatnonzero(part == i)
        out[mine] = getattr(cached, name)[index[mine]]
    return out


def _known(groups: Groups, tokens, name: str) -> np.ndarray:
    """A field of the caches for each group; float64 [G] or [G, n]."""
    shape = tokens[0].fields[name].shape[1:]
    out = np.zeros((len(groups.part), *shape))
    for i, cached in enumerate(tokens):
        mine = np.flatnonzero(groups.part == i)
        out[mine] = cached.fields[name][groups.document[mine]]
    return out


def rows(
    tokens: cache.TokenCache, plan: group_plan.Plan, indices: np.ndarray
) -> dict[str, Any]:
    """The rows of one plan, numbered as they are in it; -1 is one of padding.

    Groups whose layout has mismatched responses come without them.

    Returns:
      The fields of `types.batch`: `inputs`, `targets`, `weights`, `segment_ids`,
      `positions`, `responses`, and where the layout is shared `branches`, [n, R, T];
      `lengths` [n, P, K]; `group_weights` and `index` [n, P]; `values`, a dict;
      `reference` [n, R, T], where the cache has one.
    """
    indices = np.asarray(indices, np.int64)
    groups = find([tokens], [plan], np.zeros_like(indices), indices)
    groups = without_mismatched(groups, plan.layout)
    most = max(1, plan.manifest["groups"])
    return fields(groups, plan.layout, [tokens], [plan.head], indices, most)


def without_mismatched(groups: Groups, layout: group_plan.Layout) -> Groups:
    """The groups with a response of no tokens where a mismatched one could be."""
    if not layout.mismatched:
        return groups
    none = np.zeros((len(groups.row), 1), np.int64)
    add = lambda array: np.concatenate([array, none], 1)
    return groups._replace(
        sources=np.concatenate([groups.sources, groups.part[:, None]], 1),
        starts=add(groups.starts),
        lengths=add(groups.lengths),
    )


def targets(
    tokens: cache.TokenCache, plan: group_plan.Plan, indices: np.ndarray
) -> np.ndarray:
    """Where the cache has each target of a response; int64 [n, R, T], -1 elsewhere."""
    indices = np.asarray(indices, np.int64)
    groups = find([tokens], [plan], np.zeros_like(indices), indices)
    groups = without_mismatched(groups, plan.layout)
    found = places(groups, plan.layout, [tokens], [plan.head])
    layout = plan.layout
    out = np.full(len(indices) * layout.sequences * layout.length, -1, np.int64)
    out[found.place] = np.where(found.response > 0, found.target, -1)
    return out.reshape(len(indices), layout.sequences, layout.length)
