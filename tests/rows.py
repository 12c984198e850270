# SPDX-License-Identifier: Apache-2.0
"""Rows of tokens for tests: ragged documents, packed or one a row."""

import numpy as np

from alignjax.types import Sequences


def documents(count: int, longest: int, vocab: int, seed: int = 0) -> list[np.ndarray]:
    """Random documents of 2 to `longest` tokens."""
    rng = np.random.default_rng(seed)
    sizes = rng.integers(2, longest + 1, count)
    return [rng.integers(0, vocab, size).astype(np.int32) for size in sizes]


def pack(rows: list[list[np.ndarray]], length: int) -> Sequences:
    """Each inner list of documents becomes one row; what is left over is padding."""
    shape = (len(rows), length)
    out = {name: np.zeros(shape, np.int32) for name in ("x", "y", "ids", "positions")}
    weights = np.zeros(shape, np.float32)
    for i, row in enumerate(rows):
        start = 0
        for k, tokens in enumerate(row, 1):
            here = slice(start, start + len(tokens) - 1)
            out["x"][i, here], out["y"][i, here] = tokens[:-1], tokens[1:]
            out["ids"][i, here] = k
            out["positions"][i, here] = np.arange(len(tokens) - 1)
            weights[i, here] = 1.0
            start = here.stop
    return Sequences(out["x"], out["y"], weights, out["ids"], out["positions"])


def unpacked(docs: list[np.ndarray], length: int) -> Sequences:
    return pack([[doc] for doc in docs], length)


def packed(docs: list[np.ndarray], length: int) -> Sequences:
    """Filled greedily, in order."""
    rows, used = [[]], 0
    for doc in docs:
        if used + len(doc) - 1 > length:
            rows.append([])
            used = 0
        rows[-1].append(doc)
        used += len(doc) - 1
    return pack(rows, length)
