# SPDX-License-Identifier: Apache-2.0
"""Best-fit decreasing: the longest piece first, each where it leaves least room."""

from __future__ import annotations

import bisect
import collections

import numpy as np


def rows(lengths: np.ndarray, capacity: int) -> np.ndarray:
    """The row of each piece.

    All pieces of one length are placed together, and rows are kept by the room that is
    left in them, so the cost is that of sorting, whatever the number of rows.

    Args:
      lengths: ints [P], each in 1 .. capacity.
      capacity: what a row holds.

    Returns:
      int64 [P], rows from 0, numbered in order of their first piece.
    """
    order = np.argsort(-lengths, kind="stable")
    values, counts = np.unique(-lengths, return_counts=True)
    row_of = np.empty(len(lengths), np.int64)
    room = _Room()
    placed = opened = 0
    for length, count in zip((-values).tolist(), counts.tolist(), strict=True):
        end = placed + count
        while placed < end:
            left = room.smallest(length)
            if left is None:
                left = capacity
                wanted = -(-(end - placed) // (capacity // length))
                chosen = np.arange(opened, opened + wanted)
                opened += wanted
            else:
                chosen = room.take(left, -(-(end - placed) // (left // length)))
            each = left // length
            pieces = order[placed : min(end, placed + len(chosen) * each)]
            row_of[pieces] = np.repeat(chosen, each)[: len(pieces)]
            placed += len(pieces)
            full, more = divmod(len(pieces), each)
            room.put(left - each * length, chosen[:full])
            if more:
                room.put(left - more * length, chosen[full:])
    return _in_order_of_first(row_of, opened)


class _Room:
    """Rows by the room that is left in them."""

    def __init__(self):
        self.rows: dict[int, collections.deque[np.ndarray]] = {}
        self.known: list[int] = []  # the amounts of room that some row has, sorted

    def smallest(self, length: int) -> int | None:
        """The least room of a row that `length` fits into."""
        i = bisect.bisect_left(self.known, length)
        return self.known[i] if i < len(self.known) else None

    def take(self, left: int, most: int) -> np.ndarray:
        """Up to `most`, and at least one, of the rows with this much room."""
        rows = self.rows[left]
        found = rows.popleft()
        if len(found) > most:
            rows.appendleft(found[most:])
            found = found[:most]
        if not rows:
            del self.rows[left]
            self.known.remove(left)
        return found

    def put(self, left: int, rows: np.ndarray) -> None:
        """Adds rows with this much room; full ones are done with."""
        if not left or not len(rows):
            return
        if left not in self.rows:
            self.rows[left] = collections.deque()
            bisect.insort(self.known, left)
        self.rows[left].append(rows)


def _in_order_of_first(row_of: np.ndarray, rows: int) -> np.ndarray:
    """The same rows, numbered in the order in which they first occur."""
    first = np.full(rows, len(row_of), np.int64)
    np.minimum.at(first, row_of, np.arange(len(row_of)))
    number = np.empty(rows, np.int64)
    number[np.argsort(first, kind="stable")] = np.arange(rows)
    return number[row_of]
