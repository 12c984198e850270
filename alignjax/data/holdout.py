# SPDX-License-Identifier: Apache-2.0
"""Which documents train and which validate."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from alignjax.data.tokens import cache

BLOCK = 1 << 20  # documents that are looked at at a time


def by_hash(
    tokens: cache.TokenCache, fraction: float, held_out: bool
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Documents by what they say, so that equal ones are on one side, in any source.

    Yields:
      Blocks of `(starts, ends)`, int64, the tokens of each document held out, or of
      each other one.
    """
    bound = np.uint64(min(int(fraction * 2.0**64), 2**64 - 1))
    for starts, ends, at in _documents(tokens):
        below = np.asarray(tokens.hashes[at : at + len(starts)]) < bound
        chosen = below if held_out else ~below
        yield starts[chosen], ends[chosen]


def by_tail(
    tokens: cache.TokenCache, fraction: float, held_out: bool
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """The last `fraction` of all tokens validates; the document at the cut is cut.

    For a corpus of one or a few long documents. Yields as `by_hash` does.
    """
    total = len(tokens.tokens)
    bound = total - round(total * fraction)
    for starts, ends, _ in _documents(tokens):
        if held_out:
            starts = np.maximum(starts, bound)
        else:
            ends = np.minimum(ends, bound)
        chosen = starts < ends
        yield starts[chosen], ends[chosen]


def _documents(tokens) -> Iterator[tuple[np.ndarray, np.ndarray, int]]:
    count = len(tokens.offsets) - 1
    for at in range(0, count, BLOCK):
        edges = np.array(tokens.offsets[at : min(at + BLOCK, count) + 1])
        yield edges[:-1], edges[1:], at
