# SPDX-License-Identifier: Apache-2.0
"""The order of rows: keyed permutations and mixtures, both in constant time.

Written out rather than taken from numpy's generators, whose streams may change between
versions: row n of a seed is the same for ever.
"""

from __future__ import annotations

import fractions
import hashlib
import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

ROUNDS = 6
MOST_SLOTS = 1 << 16


def key(*parts) -> np.uint64:
    """A hash of some values, by their `repr`."""
    return np.uint64(hashed(repr(parts).encode()))


def hashed(content: bytes) -> int:
    """64 bits of the BLAKE2b of some bytes."""
    return int.from_bytes(hashlib.blake2b(content, digest_size=8).digest())


def bound(share: float) -> int:
    """The integer below which that share of all `hashed` values lies, held out."""
    return min(int(share * 2.0**64), 2**64 - 1)


def permute(indices: np.ndarray, size: int, keys: np.ndarray | np.uint64) -> np.ndarray:
    """A permutation of 0 .. size - 1 for each key, applied to `indices`.

    A Feistel network permutes the numbers of just enough bits; results that are too
    large go through it again (cycle-walking: Black and Rogaway 2002, "Ciphers with
    arbitrary finite domains").

    Args:
      indices: int64 [n], each in 0 .. size - 1.
      keys: uint64 [n] or one for all.
    """
    bits = max(2, (size - 1).bit_length())
    low, high = np.uint64(bits // 2), np.uint64(bits - bits // 2)
    out = np.asarray(indices).astype(np.uint64)
    keys = np.broadcast_to(np.asarray(keys, np.uint64), out.shape)
    walking = np.arange(len(out))
    while len(walking):
        out[walking] = _feistel(out[walking], low, high, keys[walking])
        walking = walking[out[walking] >= np.uint64(size)]
    return out.astype(np.int64)


def _feistel(x, low: np.uint64, high: np.uint64, keys) -> np.ndarray:
    for i in range(ROUNDS):
        left, right = x >> low, x & _ones(low)
        mixed = mix(right ^ mix(keys + np.uint64(i)))
        # The halves swap, and so do their widths.
        x = (right << high) | ((left ^ mixed) & _ones(high))
        low, high = high, low
    return x


def mix(x: np.ndarray) -> np.ndarray:
    """Spreads every bit of a uint64 over all of it (the finaliser of SplitMix64)."""
    with np.errstate(over="ignore"):
        x = x + np.uint64(0x9E3779B97F4A7C15)
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def _ones(bits: np.uint64) -> np.uint64:
    return (np.uint64(1) << bits) - np.uint64(1)


class Mixture(NamedTuple):
    """A pattern of sources that repeats; S sources, K slots.

    Attributes:
      source: int64 [K], the source of each slot.
      before: int64 [K], the number of earlier slots with the same source.
      share: int64 [S], how many slots each source has.
    """

    source: np.ndarray
    before: np.ndarray
    share: np.ndarray

    def locate(self, n: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """For each n of the stream its source, and its index among that source's."""
        block, slot = np.divmod(n, len(self.source))
        source = self.source[slot]
        return source, block * self.share[source] + self.before[slot]


def mixture(weights: Sequence[float]) -> Mixture:
    """The mixture whose proportions are those of `weights`.

    They are exact where the weights have ratios of whole numbers that sum to at most
    MOST_SLOTS; else to 1 in MOST_SLOTS. The slots of a source are spread evenly.
    Raises a ValueError for a weight too small beside the others to have one.
    """
    exact = [fractions.Fraction(weight).limit_denominator(10**6) for weight in weights]
    slots = math.lcm(*(x.denominator for x in exact))
    share = [int(x * slots) for x in exact]
    common = math.gcd(*share)
    share = [x // common for x in share] if common else share
    if sum(share) > MOST_SLOTS or not all(share):
        share = _rounded(weights)
    due = np.concatenate([(np.arange(k) + 0.5) / k for k in share])
    source = np.repeat(np.arange(len(share)), share)
    order = np.argsort(due, kind="stable")
    before = np.concatenate([np.arange(k) for k in share])
    return Mixture(source[order], before[order], np.array(share, np.int64))


def _rounded(weights: Sequence[float]) -> list[int]:
    """Shares of MOST_SLOTS, the largest remainders rounded up."""
    ideal = np.array(weights, np.float64) / np.sum(weights) * MOST_SLOTS
    share = np.floor(ideal).astype(np.int64)
    up = np.argsort(share - ideal, kind="stable")[: MOST_SLOTS - share.sum()]
    share[up] += 1
    if not share.all():
        i = int(np.argmin(share))
        raise ValueError(
            f"weight {weights[i]} is less than 1 in {MOST_SLOTS} of all; "
            "raise it or leave the source out"
        )
    return share.tolist()
