# SPDX-License-Identifier: Apache-2.0
"""Best-fit decreasing: the longest piece first, each where it leaves least room."""

from __future__ import annotations

import bisect
import collections

import numpy as np


def rows(lengths: np.ndarray, capacity: int, most: int | None = None) -> np.ndarray:
    """The row of each piece.

    All pieces of one length are placed together, and rows are kept by the room that is
    left in them, so the cost is that of sorting, whatever the number of rows.

    Args:
      lengths: ints [P], each in 1 .. capacity.
      capacity: what a row holds.
      most: pieces of a row, or None for any number.

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
            found = room.smallest(length)
            left, slots = found or (capacity, most)
            each = min(left // length, slots)
            wanted = -(-(end - placed) // each)
            if found is None:
                chosen = np.arange(opened, opened + wanted)
                opened += wanted
            else:
                chosen = room.take(left, slots, wanted)
            pieces = order[placed : min(end, placed + len(chosen) * each)]
            row_of[pieces] = np.repeat(chosen, each)[: len(pieces)]
            placed += len(pieces)
            full, more = divmod(len(pieces), each)
            room.put(left - each * length, slots - each, chosen[:full])
            if more:
                room.put(left - more * length, slots - more, chosen[full:])
    return _in_order_of_first(row_of, opened)


class _Room:
    """Rows by the room that is left in them, and how many more pieces they may have."""

    def __init__(self, most: int):
        self.base = most + 1  # keys are room * base + slots, so room comes first
        self.rows: dict[int, collections.deque[np.ndarray]] = {}
        self.known: list[int] = []  # the keys that some row has, sorted

    def smallest(self, length: int) -> tuple[int, int] | None:
        """The least room, and slots, of a row that `length` fits into."""
        i = bisect.bisect_left(self.known, length * self.base)
        return divmod(self.known[i], self.base) if i < len(self.known) else None

    def take(self, left: int, slots: int, most: int) -> np.ndarray:
        """Up to `most`, and at least one, of the rows with so much room and slots."""
        key = left * self.base + slots
        rows = self.rows[key]
        found = rows.popleft()
        if len(found) > most:
            rows.appendleft(found[most:])
            found = found[:most]
        if not rows:
            del self.rows[key]
            self.known.remove(key)
        return found

    def put(self, left: int, slots: int, rows: np.ndarray) -> None:
        """Adds rows with so much room and slots; full ones are done with."""
        if not left or not slots or not len(rows):
            return
        key = left * self.base + slots
        if key not in self.rows:
            self.rows[key] = collections.deque()
            bisect.insort(self.known, key)
        self.rows[key].append(rows)


def _in_order_of_first(row_of: np.ndarray, rows: int) -> np.ndarray:
    """The same rows, numbered in the order in which they first occur."""
    first = np.full(rows, len(row_of), np.int64)
    np.minimum.at(first, row_of, np.arange(len(row_of)))
    number = np.empty(rows, np.int64)
    number[np.argsort(first, kind="stable")] = np.arange(rows)
    return number[row_of]
