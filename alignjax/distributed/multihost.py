# SPDX-License-Identifier: Apache-2.0
"""Decisions that all processes make together.

Every process calls each function. With one process they cost nothing.
"""

from __future__ import annotations

import contextlib

import jax
import numpy as np
from jax.experimental import multihost_utils

from alignjax import errors
from alignjax.storage import json_files


def from_primary(numbers: list[int]) -> list[int]:
    """Process 0's list, on every process."""
    if jax.process_count() == 1:
        return numbers
    count = int(multihost_utils.broadcast_one_to_all(np.int32(len(numbers))))
    if not count:
        return []
    own = numbers if jax.process_index() == 0 else [0] * count
    shared = multihost_utils.broadcast_one_to_all(np.array(own, np.int32))
    return [int(number) for number in shared]


def array_from_primary(x: np.ndarray) -> np.ndarray:
    """Process 0's array, on every process, where it has the same shape and dtype."""
    if jax.process_count() == 1:
        return x
    # As whole numbers of 32 bits, since JAX may round 64 of them.
    words = np.ascontiguousarray(x).reshape(-1).view(np.int32)
    shared = np.asarray(multihost_utils.broadcast_one_to_all(words))
    return shared.view(x.dtype).reshape(x.shape)


def total(number: int) -> int:
    """The sum of a number over all processes."""
    if jax.process_count() == 1:
        return number
    return int(multihost_utils.process_allgather(np.int32(number)).sum())


def same_everywhere(name: str, value) -> None:
    """Raises ConfigError if processes were started with different values of `name`."""
    if jax.process_count() == 1:
        return
    digest = np.frombuffer(bytes.fromhex(json_files.compact_digest(value)), np.uint8)
    rows = multihost_utils.process_allgather(digest)
    different = [i for i, row in enumerate(rows) if not np.array_equal(row, rows[0])]
    if different:
        raise errors.ConfigError(
            f"{name}: process {different} differs from process 0; start all alike"
        )


@contextlib.contextmanager
def all_or_none(action: str, kind: type[errors.AlignError] = errors.CheckpointError):
    """Fails on every process if the body fails on one, on the others as `kind`.

    An OSError becomes a CheckpointError; whatever else it may be, such as a ValueError
    of a user's reward, stays as it is, and leaves no other process waiting.
    """
    try:
        yield
    except OSError as error:
        _all_agree(False)
        raise errors.CheckpointError(f"{action}: {error}") from error
    except Exception:
        _all_agree(False)
        raise
    if not _all_agree(True):
        raise kind(f"{action}: another process says why")


@contextlib.contextmanager
def unanimous(path):
    """Raises BrokenStep on every process if the body does so on one."""
    try:
        yield
    except errors.BrokenStep:
        _all_agree(False)
        raise
    if not _all_agree(True):
        raise errors.BrokenStep(f"{path} is broken for another process, which says why")


def _all_agree(good: bool) -> bool:
    if jax.process_count() == 1:
        return good
    return bool(np.all(multihost_utils.process_allgather(np.array(good))))
