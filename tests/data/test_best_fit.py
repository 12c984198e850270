# SPDX-License-Identifier: Apache-2.0
"""Rows are filled as the textbook's loop fills them, only faster."""

import time

import numpy as np

from alignjax.data import packing


def naive_rooms(lengths, capacity):
    rooms: list[int] = []
    for length in sorted(lengths.tolist(), reverse=True):
        fitting = [(room, i) for i, room in enumerate(rooms) if room >= length]
        if fitting:
            rooms[min(fitting)[1]] -= length
        else:
            rooms.append(capacity - length)
    return sorted(rooms)


def test_best_fit_is_best_fit_decreasing():
    rng = np.random.default_rng(0)
    for _ in range(300):
        capacity = int(rng.integers(1, 40))
        lengths = rng.integers(1, capacity + 1, int(rng.integers(1, 200)))
        row_of = packing.best_fit(lengths, capacity)
        used = np.bincount(row_of, weights=lengths)
        assert sorted(capacity - used) == naive_rooms(lengths, capacity)
        _, first = np.unique(row_of, return_index=True)
        assert (np.diff(first) > 0).all()  # rows in the order of their first piece


def test_a_million_documents_are_packed_in_seconds():
    rng = np.random.default_rng(0)
    lengths = np.clip(rng.lognormal(5.5, 1.2, 10**6), 1, 2048).astype(np.int64)
    start = time.perf_counter()
    row_of = packing.best_fit(lengths, 2048)
    assert time.perf_counter() - start < 10
    used = np.bincount(row_of, weights=lengths)
    assert used.max() <= 2048 and used.mean() > 0.999 * 2048
