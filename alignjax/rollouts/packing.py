# SPDX-License-Identifier: Apache-2.0
"""Groups of responses that share rows, so that less of a batch is padding.

Responses that end by themselves have any length, and a row of one group is as long as
the longest group of a rollout needs. Rows of several groups, long ones beside short
ones, differ less. Attention sees one group at a time all the same: each is a segment.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence

import jax
import numpy as np

from alignjax.types import Responses, Rollout

ROW_MULTIPLE = 32  # tokens; of rows, see `rounded`
CLOSE = 1.15  # times the fewest operations


def arranged(
    used_G: np.ndarray,
    parts: Sequence[np.ndarray],
    *,
    multiple: int,
    longest: int,
    width: int,
    most: int | None = None,
) -> tuple[list[np.ndarray], int]:
    """The rows of batches: as many groups in each as take about the fewest operations.

    Of nearly equal choices it is the one with fewer groups, so that rollouts differ
    less in it, and programs are few.

    Args:
      used_G: positions of each group.
      parts: the groups of each batch, equally many.
      multiple: of which the number of rows of a batch is one.
      longest: positions that a row of several groups may have.
      width: D of the model, by which attention is counted: in a row of T positions it
        takes T / (6 D) of what the products of a layer take.
      most: groups of a row at most, or None.

    Returns:
      The groups of each row of each batch, int64 [B, P], and T, the same for all.
    """
    size, costs, arrangements = len(parts[0]), {}, {}
    for each in range(1, 1 + min(size, most or size)):
        if each > 1 and size % (each * multiple):
            continue
        orders = [part[rows(used_G[part], each)] for part in parts]
        T = max(int(used_G[order_BP].sum(-1).max()) for order_BP in orders)
        if each > 1 and longest < T:
            continue
        T = max(T, min(rounded(T, ROW_MULTIPLE), longest))
        costs[each] = T * (1 + T / (6 * width)) / each
        arrangements[each] = orders, T
    enough = CLOSE * min(costs.values())
    return arrangements[min(each for each, cost in costs.items() if cost <= enough)]


def rounded(count: int, multiple: int) -> int:
    """`count` or somewhat more, of few different sizes, since each is a program.

    A multiple of `multiple`, and of an eighth of the power of two below it: eight sizes
    from one power to the next.
    """
    step = max(multiple, 2 ** (count.bit_length() - 1) // 8)
    return -(-count // step) * step


def used(batch: Responses) -> np.ndarray:
    """Positions that each group takes, int64 [G]; `batch` has one group a row."""
    return (batch.sequences.segment_ids[:, 0] != 0).sum(-1)


def rows(used_G: np.ndarray, each: int) -> np.ndarray:
    """The groups of each row, int64 [G / each, each]: rows are about equally long.

    The longest group that is left goes to the row with the fewest positions, of those
    that have room for one.
    """
    chosen: list[list[int]] = [[] for _ in range(len(used_G) // each)]
    heap = [(0, row) for row in range(len(chosen))]
    for group in np.argsort(-used_G, kind="stable"):
        total, row = heapq.heappop(heap)
        chosen[row].append(int(group))
        if len(chosen[row]) < each:
            heapq.heappush(heap, (total + int(used_G[group]), row))
    return np.array(chosen)


def packed(
    batch: Responses | Rollout, order_BP: np.ndarray, T: int
) -> Responses | Rollout:
    """Groups, each of which has a row of `batch`, in rows [B, 1, T] of P groups.

    Args:
      batch: numpy arrays, in the shared layout, without log-probs of a reference; of a
        rollout the fields [G, ...] become [B, P, ...].
      order_BP: the groups of each row.
      T: positions of a row, at least as many as its groups take.
    """
    if isinstance(batch, Responses):
        return _responses(batch, order_BP, T)
    then, token, share = jax.tree.map(
        lambda x: x[order_BP], (batch.then, batch.token, batch.share)
    )
    figures = {name: x[order_BP[:, 0]] for name, x in batch.figures.items()}
    responses = _responses(batch.responses, order_BP, T)
    return Rollout(responses, then, token, share, figures)


def _responses(batch: Responses, order_BP: np.ndarray, T: int) -> Responses:
    used_BP = used(batch)[order_BP]
    end_BP = used_BP.cumsum(-1)
    t = np.arange(T)
    segment_BT = (end_BP[:, None] <= t[:, None]).sum(-1)  # from 0; P is padding
    there_BT = segment_BT < order_BP.shape[1]
    segment_BT = np.minimum(segment_BT, order_BP.shape[1] - 1)
    at = lambda x_BP: np.take_along_axis(x_BP, segment_BT, axis=-1)
    group_BT = at(order_BP)
    place_BT = np.where(there_BT, t - at(end_BP - used_BP), 0)

    def moved(x_GRT):
        return np.where(there_BT, x_GRT[group_BT, 0, place_BT], 0).astype(x_GRT.dtype)

    def numbered(x_GRT, step: int):
        x_BT = moved(x_GRT)
        return np.where(x_BT != 0, x_BT + step * segment_BT, 0).astype(x_GRT.dtype)

    sequences = jax.tree.map(moved, batch.sequences)
    segment_ids = numbered(batch.sequences.segment_ids, 1)
    sequences = sequences.replace(segment_ids=segment_ids)
    K = batch.lengths.shape[-1]
    of_groups = lambda x: x[order_BP, 0]
    return Responses(
        sequences=jax.tree.map(lambda x: x[:, None], sequences),
        responses=numbered(batch.responses, K)[:, None],
        lengths=of_groups(batch.lengths),
        weights=of_groups(batch.weights),
        index=of_groups(batch.index),
        values={name: of_groups(x) for name, x in batch.values.items()},
    )
