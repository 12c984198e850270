# SPDX-License-Identifier: Apache-2.0
"""The processor of this machine as a card, by what it does now.

Processors have no datasheet that holds for a share of one on a server, so its rates are
those of a product and of a copy as a program of XLA has them.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp

from alignjax.plan import cards

NAME = "cpu"  # of `--card`
SIDE = 2048  # of the matrices of the product
COPIED = 2**28  # bytes, more than caches hold
SECONDS = 1.0  # of each measurement


def card() -> cards.Card:
    """Peak and bandwidth in float32, the best of a second each, with all cores.

    Its attention is plain products, and it has no links.
    """
    cpu = jax.devices("cpu")[0]
    matrix = jax.device_put(jnp.ones((SIDE, SIDE)), cpu)
    long = jax.device_put(jnp.ones(COPIED // 4), cpu)
    return cards.Card(
        kind=cpu.device_kind,
        memory=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        peak=2 * SIDE**3 / _fastest(jnp.dot, matrix, matrix),
        bandwidth=2 * COPIED / _fastest(jnp.negative, long),
        link=math.inf,
        attention={},
        factor=1.0,
    )


def _fastest(function: Callable, *arrays: jax.Array) -> float:
    """Seconds of the fastest call in `SECONDS`."""
    function = jax.jit(function)
    function(*arrays).block_until_ready()
    best, start = math.inf, time.perf_counter()
    while (now := time.perf_counter()) < start + SECONDS:
        function(*arrays).block_until_ready()
        best = min(best, time.perf_counter() - now)
    return best
