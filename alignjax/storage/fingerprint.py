# SPDX-License-Identifier: Apache-2.0
"""A hash of every leaf of a tree, the same on any mesh and any number of processes.

Storage returns flipped bits without a word: neither the array format nor the file
system checks the bytes of an array. So each leaf's hash is kept beside a checkpoint
and computed again from what was loaded.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from alignjax import trees
from alignjax.storage import lazy

_BLOCK = 2**20  # elements of an array that is hashed piece by piece
_WORDS = {1: jnp.uint8, 2: jnp.uint16, 4: jnp.uint32}


class Fingerprint(NamedTuple):
    """A leaf's hash, 16 hex digits, and whether it has a NaN or infinity."""

    digits: str
    nonfinite: bool


def fingerprints(tree) -> dict[str, Fingerprint]:
    """`{path: Fingerprint}` of arrays that live on one mesh, or on one device each.

    Blocks until the arrays are computed. A change of any one element changes the
    digits with certainty, other changes but for one in 2**64. Guards against accidents;
    it is not cryptographic.
    """
    named = trees.named_leaves(tree)
    if not named:
        return {}
    rows = jax.device_get(_compiled(_replicated(named.values()))(list(named.values())))
    return {
        name: Fingerprint(f"{int(high):08x}{int(low):08x}", bool(nonfinite))
        for name, (high, low, nonfinite) in zip(named, rows, strict=True)
    }


def of_array(array) -> Fingerprint:
    """The fingerprint of an array that is read piece by piece."""
    return of_pieces(array.dtype, lazy.pieces(array))


def of_pieces(dtype, pieces: Iterable[np.ndarray]) -> Fingerprint:
    """The fingerprint of an array of which only pieces are in memory.

    Args:
      dtype: of the array.
      pieces: all of it, in row-major order.
    """
    dtype, start, total, flag = jnp.dtype(dtype), 0, np.zeros(2, np.uint32), False
    for piece in pieces:
        flat = np.ascontiguousarray(piece).reshape(-1)
        for first in range(0, flat.size, _BLOCK):
            block = flat[first : first + _BLOCK]
            padded = np.zeros(_BLOCK, dtype)
            padded[: block.size] = block
            # Two steps: an index of 64 bits is no index of jax's.
            at = np.uint32(start % 2**32), np.uint32(block.size)
            high, low, nonfinite = np.asarray(_of_block(padded, *at))
            total = total + np.array([high, low], np.uint32)
            start, flag = start + block.size, flag or bool(nonfinite)
    return Fingerprint(f"{total[0]:08x}{total[1]:08x}", flag)


def of_boxes(
    shape: tuple[int, ...], boxes: Iterable[tuple[tuple[int, ...], np.ndarray]]
) -> Fingerprint:
    """The fingerprint of an array of which only boxes are in memory.

    Args:
      shape: of the array.
      boxes: (index of the first element, part) of all of it, in any order.
    """
    total, flag = np.zeros(2, np.uint32), False
    sizes = np.array([size % 2**32 for size in shape], np.uint32)
    for starts, part in boxes:
        for box in lazy.boxes(part, _BLOCK * part.dtype.itemsize):
            at = [start + own.start for start, own in zip(starts, box, strict=True)]
            at = np.array([place % 2**32 for place in at], np.uint32)
            high, low, nonfinite = np.asarray(_of_box(part[box], at, sizes))
            total = total + np.array([high, low], np.uint32)
            flag = flag or bool(nonfinite)
    return Fingerprint(f"{total[0]:08x}{total[1]:08x}", flag)


def _replicated(leaves):
    """Where every process can read the result; None leaves it to the compiler."""
    for leaf in leaves:
        sharding = getattr(leaf, "sharding", None)
        if isinstance(sharding, jax.sharding.NamedSharding):
            spec = jax.sharding.PartitionSpec()
            return jax.sharding.NamedSharding(sharding.mesh, spec)
    return None


@functools.cache
def _compiled(out_sharding):
    rows = lambda leaves: jnp.stack([_row(leaf) for leaf in leaves])
    return jax.jit(rows, out_shardings=out_sharding)


def _row(x: jax.Array, start=None, count=None, box=None) -> jax.Array:
    """uint32 [3]: two lanes of hash and a flag.

    Sums of integers modulo 2**32 do not depend on their order, hence not on the mesh.
    `_mix` is a bijection, so a term changes whenever its element does; its place in the
    array is part of the term, so that a permutation is seen. With a `count`, `x` [n] is
    padded after so many elements, and part of an array from its element `start` on. A
    `box`, (index of its first element, shape of the array), is a box of an array.
    """
    bits = _words(x)
    words = bits.size // x.size  # of an element
    index = jnp.zeros(bits.shape, jnp.uint32)
    for axis, size in enumerate(bits.shape):
        place = jax.lax.broadcasted_iota(jnp.uint32, bits.shape, axis)
        size = np.uint32(size % 2**32)
        if box is not None and axis < x.ndim:
            place, size = place + box[0][axis], box[1][axis]
        index = index * size + place
    if start is not None:
        index += np.uint32(words) * start
    high = _mix(bits ^ _mix(index + np.uint32(1)))
    low = _mix(high + np.uint32(0x9E3779B9))
    floating = jnp.issubdtype(x.dtype, jnp.inexact)
    nonfinite = ~jnp.isfinite(x) if floating else jnp.zeros(x.shape, bool)
    flag = jnp.broadcast_to(nonfinite[..., None], (*x.shape, words))
    rows = (high, low, flag.reshape(bits.shape).astype(jnp.uint32))
    if count is not None:
        there = jax.lax.broadcasted_iota(jnp.uint32, bits.shape, 0) < count
        rows = tuple(jnp.where(there, row, np.uint32(0)) for row in rows)

    def combine(a, b):
        return a[0] + b[0], a[1] + b[1], a[2] | b[2]

    # In one pass: of three reductions XLA makes three, each with all the hashing again.
    zeros = (np.uint32(0),) * 3
    return jnp.stack(jax.lax.reduce(rows, zeros, combine, tuple(range(bits.ndim))))


_of_block = jax.jit(_row)
_of_box = jax.jit(lambda x, starts, sizes: _row(x, box=(starts, sizes)))


def _words(x: jax.Array) -> jax.Array:
    """The bits of `x` as uint32, one word an element or two for 8-byte dtypes."""
    if x.dtype == jnp.bool_:
        x = x.astype(jnp.uint8)
    if x.dtype.itemsize == 8:
        return jax.lax.bitcast_convert_type(x, jnp.uint32)
    word = _WORDS[x.dtype.itemsize]
    return jax.lax.bitcast_convert_type(x, word).astype(jnp.uint32)


def _mix(v: jax.Array) -> jax.Array:
    """The 32-bit finaliser of MurmurHash3 (Appleby, 2008): one-to-one, well spread."""
    v = (v ^ (v >> 16)) * np.uint32(0x85EBCA6B)
    v = (v ^ (v >> 13)) * np.uint32(0xC2B2AE35)
    return v ^ (v >> 16)
