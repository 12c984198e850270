# SPDX-License-Identifier: Apache-2.0
"""Rows of groups as the fields of `types.Responses`, in three layouts.

A group is p tokens of a prompt, then K responses of r_k tokens. It takes as many
targets as its layout says:

    padded   p - 1 + r_k in a sequence for each response, one group a row
    packed   the sum of these, in one sequence
    shared   p - 1 + sum r_k: the responses are branches of one prompt

A row is made of stretches of targets. One has the rest of a prompt: p - 1 targets of
weight 0; one has a response, whose first input is the last token of the prompt. Layouts
differ in where stretches stand and in how often the prompt is written.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from alignjax.data.chat import comparisons
from alignjax.data.tokens import cache

Locate = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]


class Layout(NamedTuple):
    """The settings by which groups are put into rows.

    Attributes:
      name: "padded", "packed" or "shared".
      length: T, the targets of a sequence.
      responses: K, of a group in a row.
      mismatched: whether the last of them is another prompt's, which the document does
        not have; see `groups.mismatch`.
      most: groups of a row at most, or None.
      pack: "best_fit", or "none" for one group a row.
      long_documents: of groups that do not fit into a row: "error", "skip", or
        "truncate_prompt": whole turns of the beginning of the prompt are left out, or
        if that is not enough the beginning of what the last one says; and where
        nothing would stay of that, all.
      head: tokens of a prompt that stay where its beginning is cut: a start token.
      turns: the tokens that turns begin with.
      header, tail: how many tokens of a prompt's last turn stay, before and after what
        it says, where the beginning of that is cut.
    """

    name: str
    length: int
    responses: int
    mismatched: bool = False
    most: int | None = None
    pack: str = "best_fit"
    long_documents: str = "error"
    head: int = 0
    turns: tuple[int, ...] = ()
    header: int = 0
    tail: int = 0

    @property
    def sequences(self) -> int:
        """R, of a row."""
        return self.responses if self.name == "padded" else 1

    def size(self, prompts: np.ndarray, responses: np.ndarray) -> np.ndarray:
        """Targets that groups take of a sequence: the longest, where it has several.

        Args:
          prompts: ints [D], p. responses: ints [D, K], r_k; 0 where there is none.
        """
        if self.name == "shared":
            return prompts - 1 + responses.sum(1)
        each = np.where(responses > 0, prompts[:, None] - 1 + responses, 0)
        return each.max(1) if self.name == "padded" else each.sum(1)

    def room(self, prompts: np.ndarray, responses: np.ndarray) -> np.ndarray:
        """The longest further response with which each group fits a row; [D]."""
        if self.name == "padded":
            return self.length - (prompts - 1)
        left = self.length - self.size(prompts, responses)
        return left - (prompts - 1) * (self.name == "packed")

    def places(self, plans: Sequence[Any]) -> int:
        """P, the places for groups in a row."""
        return max(1, *(plan.manifest["groups"] for plan in plans))

    def one_document(self, _: Sequence[Any]) -> bool:
        """Whether no sequence has more than one response."""
        return self.name == "padded"

    def identity(self, plans: Sequence[Any]) -> dict[str, Any]:
        """The settings that rows depend on, besides their plans and numbers."""
        # No row depends on the size of batches, which runs keep the name of.
        return {"groups": self.places(plans), "batch_size": None}

    def notes(self, data: Any) -> list[str]:
        """Lines of the report about the sources of a `Dataset` together."""
        shared = values([part.tokens for part in data.parts])
        lines = []
        for part in data.parts:
            own = values([part.tokens])
            if more := ", ".join(value for value in own if value not in shared):
                lines.append(f"{part.name}: {more}: not in all sources, so left out")
        return lines

    def rows(
        self, plans: Sequence[Any], numbers: np.ndarray, locate: Locate
    ) -> dict[str, Any]:
        """The rows of some numbers, out of several plans.

        Args:
          plans: each a `groups.Plan`.
          numbers: int64 [n], of rows of the dataset.
          locate: the plan of each number, and the row of that plan; -1 for padding.

        Returns:
          The fields of `types.batch`: `inputs`, `targets`, `weights`, `segment_ids`,
          `positions`, `responses`, and where the layout is shared `branches`,
          [n, R, T]; `lengths` [n, P, K]; `group_weights` and `index` [n, P]; `values`,
          a dict; `reference` [n, R, T], where the caches have one.
        """
        groups = self.read(plans, numbers, locate)
        return fields(groups, self, numbers, self.places(plans))

    def read(self, plans, numbers, locate: Locate) -> Groups:
        """The groups of the rows of some numbers; as `rows`."""
        names = values([plan.tokens for plan in plans])
        source, row = locate(numbers)
        groups = [plan.groups(row, source == i) for i, plan in enumerate(plans)]
        return join(groups, names)


class Groups(NamedTuple):
    """G groups of some rows and all their N tokens; K responses each.

    Attributes:
      row: int64 [G], the row that each is in, ascending.
      place: int64 [G], its index within the row.
      starts: int64 [G, 1 + K], where its prompt and its responses start in `tokens`.
      lengths: int64 [G, 1 + K], their tokens, 0 where there is no such response.
      weight: float64 [G].
      values: float64 [G] or [G, n] by name.
      tokens: uint16 or uint32 [N].
      index: int64 [N], where the cache of its source has each token.
      reference: float32 [N], the reference log-probability of each token, or None.
    """

    row: np.ndarray
    place: np.ndarray
    starts: np.ndarray
    lengths: np.ndarray
    weight: np.ndarray
    values: dict[str, np.ndarray]
    tokens: np.ndarray
    index: np.ndarray
    reference: np.ndarray | None


OF_GROUP = ("row", "place", "starts", "lengths", "weight")


def values(caches: Sequence[cache.TokenCache]) -> list[str]:
    """The `comparisons.VALUES` that all of these have, with one shape."""
    return [
        name
        for name in comparisons.VALUES
        if all(name in tokens.fields for tokens in caches)
        and len({tokens.fields[name].shape[1:] for tokens in caches}) == 1
    ]


def join(sources: Sequence[Groups], names: Sequence[str]) -> Groups:
    """The groups of several sources, in the order of their rows, with these values."""
    sizes = np.cumsum([0, *(len(groups.tokens) for groups in sources)])
    sources = [
        groups._replace(starts=groups.starts + start)
        for groups, start in zip(sources, sizes, strict=False)
    ]
    whole = lambda name: np.concatenate([getattr(groups, name) for groups in sources])
    order = np.argsort(whole("row"), kind="stable")
    values = {
        name: np.concatenate([groups.values[name] for groups in sources])[order]
        for name in names
    }
    stored = all(groups.reference is not None for groups in sources)
    return Groups(
        **{name: whole(name)[order] for name in OF_GROUP},
        values=values,
        tokens=whole("tokens"),
        index=whole("index"),
        reference=whole("reference") if stored else None,
    )


class Targets(NamedTuple):
    """M targets of some rows.

    Attributes:
      at: int64 [M], the place of each, of the n * R * T.
      input, target: int64 [M], where `Groups.tokens` has its input and itself.
      segment, branch, position, response: int64 [M], see `types.Responses`.
    """

    at: np.ndarray
    input: np.ndarray
    target: np.ndarray
    segment: np.ndarray
    branch: np.ndarray
    position: np.ndarray
    response: np.ndarray


def targets_of(groups: Groups, layout: Layout) -> Targets:
    """Every target of the groups, and its place in the rows."""
    count, k = len(groups.row), layout.responses
    prompts, responses = groups.lengths[:, 0], groups.lengths[:, 1:]

    # Stretches [G, S] of a group in order: the prompt (0) or response k (k).
    if layout.name == "shared":
        part = np.arange(k + 1)
        of = np.maximum(part - 1, 0)
    else:
        part = np.stack([np.zeros(k, np.int64), np.arange(1, k + 1)], 1).ravel()
        of = np.arange(2 * k) // 2
    lengths = np.where(part > 0, responses[:, of], prompts[:, None] - 1)
    if layout.name != "shared":  # no prompt where there is no response
        lengths = np.where(responses[:, of] > 0, lengths, 0)

    # Where each stretch starts.
    before = np.cumsum(lengths.ravel()).reshape(lengths.shape) - lengths
    if layout.name == "padded":
        start = (groups.row[:, None] * k + of) * layout.length
        start = start + np.where(part > 0, prompts[:, None] - 1, 0)
        segment = np.ones_like(lengths)
    else:
        leading = np.searchsorted(groups.row, groups.row)  # first group of the row
        start = groups.row * layout.length - (before[leading, 0] if count else 0)
        start = start[:, None] + before
        segment = 1 + groups.place[:, None] + np.zeros_like(lengths)
        if layout.name == "packed":
            segment = 1 + groups.place[:, None] * k + of + np.zeros_like(lengths)

    # One entry a target: the group and the stretch it is of, and how far inside.
    sizes = lengths.ravel()
    stretch = np.repeat(np.arange(len(sizes)), sizes)
    at, inside = cache.ranges(start.ravel(), sizes)
    g, s = np.divmod(stretch, max(1, len(part)))
    k_of = part[s]  # 0 is the prompt
    is_response = k_of > 0
    position = inside + np.where(is_response, prompts[g] - 1, 0)
    # A prompt's targets begin with its second token, a response's with its first.
    target = groups.starts[g, k_of] + inside + np.where(is_response, 0, 1)
    after_prompt = is_response & (inside == 0)
    return Targets(
        at=at,
        input=np.where(after_prompt, groups.starts[g, 0] + prompts[g] - 1, target - 1),
        target=target,
        segment=segment.ravel()[stretch],
        branch=k_of,
        position=position,
        response=np.where(is_response, groups.place[g] * k + k_of, 0),
    )


def fields(
    groups: Groups, layout: Layout, numbers: np.ndarray, places: int
) -> dict[str, Any]:
    """The fields of `types.Responses` of the rows `numbers`; see `Layout.rows`."""
    n, targets = len(numbers), targets_of(groups, layout)
    shape = (n, layout.sequences, layout.length)
    by_target = lambda array, dtype=np.int32: spread(targets.at, array, shape, dtype)

    def by_group(array, fill=0, dtype=np.float32) -> np.ndarray:
        out = np.full((n, places, *array.shape[1:]), fill, dtype)
        out[groups.row, groups.place] = array
        return out

    index = (numbers[groups.row] * places + groups.place) % 2**31
    out = {
        "inputs": by_target(groups.tokens[targets.input]),
        "targets": by_target(groups.tokens[targets.target]),
        "weights": by_target(targets.response > 0, np.float32),
        "segment_ids": by_target(targets.segment),
        "positions": by_target(targets.position),
        "responses": by_target(targets.response),
        "lengths": by_group(groups.lengths[:, 1:], dtype=np.int32),
        "group_weights": by_group(groups.weight),
        "index": by_group(index, -1, np.int32),
        "values": {name: by_group(array) for name, array in groups.values.items()},
    }
    if layout.name == "shared":
        out["branches"] = by_target(targets.branch)
    if groups.reference is not None:
        logps = np.where(targets.response > 0, groups.reference[targets.target], 0)
        out["reference"] = by_target(logps, np.float32)
    return out


def spread(at: np.ndarray, array, shape: tuple[int, ...], dtype, fill=0):
    """An array of this shape that has the elements of `array` at `at`."""
    out = np.full(np.prod(shape), fill, dtype)
    out[at] = array
    return out.reshape(shape)
