# SPDX-License-Identifier: Apache-2.0
"""Documents and groups of responses laid out in rows of equal length.

Here is how both choose rows, best-fit decreasing; `text` and `groups` plan by it.
"""

from __future__ import annotations

import bisect
import collections

import numpy as np


def best_fit(lengths: np.ndarray, capacity: int, most: int | None = None) -> np.ndarray:
    """The row of each piece: the longest first, each where it leaves least room.

    All pieces of one length are placed at once, and rows are indexed by the room left
    in them, so the cost is that of sorting, whatever the number of rows.

    Args:
      lengths: ints [P], each in 1 .. capacity.
      capacity: the sum of lengths that a row has room for.
      most: pieces of a row at most, or None for any number.

    Returns:
      int64 [P], rows from 0, numbered in order of their first piece.
    """
    order = np.argsort(-lengths, kind="stable")
    values, counts = np.unique(-lengths, return_counts=True)
    row_of = np.empty(len(lengths), np.int64)
    most = most or capacity
    room = _Room(most)
    placed = opened = 0
    for length, count in zip((-values).tolist(), counts.tolist(), strict=True):
        end = placed + count
        while placed < end:
            smallest = room.smallest(length)
            left, slots = smallest or (capacity, most)
            each = min(left // length, slots)  # pieces that a row takes
            count_rows = -(-(end - placed) // each)
            if smallest is None:
                chosen = np.arange(opened, opened + count_rows)
                opened += count_rows
            else:
                chosen = room.take(left, slots, count_rows)
            pieces = order[placed : min(end, placed + len(chosen) * each)]
            row_of[pieces] = np.repeat(chosen, each)[: len(pieces)]
            placed += len(pieces)
            full, more = divmod(len(pieces), each)
            room.put(left - each * length, slots - each, chosen[:full])
            if more:
                room.put(left - more * length, slots - more, chosen[full:])
    # The same rows, numbered in the order in which they first occur.
    first = np.full(opened, len(row_of), np.int64)
    np.minimum.at(first, row_of, np.arange(len(row_of)))
    return np.argsort(np.argsort(first, kind="stable"), kind="stable")[row_of]


class _Room:
    """Rows by the room left in them and by their slots: how many more pieces fit."""

    def __init__(self, most: int):
        self.base = most + 1  # keys are room * base + slots, so room comes first
        self.rows: dict[int, collections.deque[np.ndarray]] = {}
        self.keys: list[int] = []  # of `rows`, sorted

    def smallest(self, length: int) -> tuple[int, int] | None:
        """The least room, and slots, of a row that `length` fits into."""
        i = bisect.bisect_left(self.keys, length * self.base)
        return divmod(self.keys[i], self.base) if i < len(self.keys) else None

    def take(self, left: int, slots: int, most: int) -> np.ndarray:
        """Up to `most`, and at least one, of the rows with so much room and slots."""
        key = left * self.base + slots
        rows = self.rows[key]
        taken = rows.popleft()
        if len(taken) > most:
            rows.appendleft(taken[most:])
            taken = taken[:most]
        if not rows:
            del self.rows[key]
            self.keys.remove(key)
        return taken

    def put(self, left: int, slots: int, rows: np.ndarray) -> None:
        """Adds rows with so much room and slots, unless they are full."""
        if not left or not slots or not len(rows):
            return
        key = left * self.base + slots
        if key not in self.rows:
            self.rows[key] = collections.deque()
            bisect.insort(self.keys, key)
        self.rows[key].append(rows)
