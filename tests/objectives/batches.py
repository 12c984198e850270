# SPDX-License-Identifier: Apache-2.0
"""Groups of responses in the three layouts, by hand from lists of tokens."""

from __future__ import annotations

import types
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from alignjax.types import Responses, Sequences

LAYOUTS = ("padded", "packed", "shared")
END = 1


class Group(NamedTuple):
    """A prompt and its responses, with what is known of them."""

    prompt: list[int]
    responses: list[list[int]]
    values: Mapping = types.MappingProxyType({})
    weight: float = 1.0
    index: int = 0


def groups(count, vocab, *, K=2, seed=0, longest=6, values=True, empty=()):
    """Random ones of very different lengths; `empty` have no tokens in the last."""
    rng = np.random.default_rng(seed)
    words = lambda most: rng.integers(2, vocab, rng.integers(1, most + 1)).tolist()
    found = []
    for i in range(count):
        responses = [[*words(longest - 1), END] for _ in range(K)]
        if i in empty:
            responses[-1] = []
        known = dict(
            margin=rng.uniform(0, 1),
            gap=rng.uniform(0.2, 3),
            probability=rng.uniform(0.55, 0.95),
            desirable=float(i % 3 != 0),
            reward=np.sort(rng.normal(0, 1, K))[::-1],
            target=rng.normal(0, 1, 2),
        )
        weight = float(rng.choice([0.5, 1.0, 2.0]))
        found.append(
            Group(words(4), responses, known if values else {}, weight, 1000 + i)
        )
    return found


def make(groups, layout, length, *, rows=None, per_row=2) -> Responses:
    """The batch that has these groups; `per_row` of them in a row but when padded.

    `rows` adds rows of padding until there are that many.
    """
    K = len(groups[0].responses)
    P = 1 if layout == "padded" else per_row
    R = K if layout == "padded" else 1
    B = rows or -(-len(groups) // P)
    grid = lambda dtype: np.zeros((B, R, length), dtype)
    names = ("inputs", "targets", "segment_ids", "positions", "branches", "responses")
    out = {name: grid(np.int32) for name in names}
    out["weights"] = grid(np.float32)
    lengths = np.zeros((B, P, K), np.int32)
    weights = np.zeros((B, P), np.float32)
    index = np.full((B, P), -1, np.int32)
    known = {
        name: np.zeros((B, P, *np.shape(x)), np.float32)
        for name, x in groups[0].values.items()
    }
    used = np.zeros((B, R), int)

    def write(b, r, tokens, targets, whose, segment, positions, branch=0):
        start = used[b, r]
        here = (b, r, slice(start, start + len(tokens)))
        assert here[-1].stop <= length, "the row is too short"
        out["inputs"][here], out["targets"][here] = tokens, targets
        out["responses"][here] = whose
        out["weights"][here] = np.array(whose) > 0
        out["segment_ids"][here], out["positions"][here] = segment, positions
        out["branches"][here] = branch
        used[b, r] = here[-1].stop

    for i, group in enumerate(groups):
        b, p = (i, 0) if layout == "padded" else (i // P, i % P)
        n = len(group.prompt)
        if layout == "shared":
            write(
                b,
                0,
                group.prompt[:-1],
                group.prompt[1:],
                [0] * (n - 1),
                p + 1,
                np.arange(n - 1),
            )
        for k, response in enumerate(group.responses):
            lengths[b, p, k] = m = len(response)
            if m == 0:
                continue
            whose = [1 + p * K + k] * m
            if layout == "shared":
                inputs = [group.prompt[-1], *response[:-1]]
                positions = n - 1 + np.arange(m)
                write(b, 0, inputs, response, whose, p + 1, positions, k + 1)
                continue
            tokens = [*group.prompt, *response]
            r, segment = (k, 1) if layout == "padded" else (0, p * K + k + 1)
            whose = [0] * (n - 1) + whose
            positions = np.arange(n + m - 1)
            write(b, r, tokens[:-1], tokens[1:], whose, segment, positions)
        weights[b, p], index[b, p] = group.weight, group.index
        for name, x in group.values.items():
            known[name][b, p] = x
    responses = out.pop("responses")
    if layout != "shared":
        del out["branches"]
    return Responses(Sequences(**out), responses, lengths, weights, index, known)
