# SPDX-License-Identifier: Apache-2.0
"""Arrays of this machine put onto devices, whole or layer by layer."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import NamedSharding, PartitionSpec


def put(read: Callable, leaf: jax.ShapeDtypeStruct) -> jax.Array:
    """`leaf`, of which `read(index)` gives the numpy arrays that this process holds."""

    # A copy: on CPUs an array may be the memory that it is made of.
    def piece(index):
        return np.array(read(index))

    return jax.make_array_from_callback(leaf.shape, leaf.sharding, piece)


def put_layers(
    read: Callable, leaves: Mapping[str, jax.ShapeDtypeStruct]
) -> dict[str, jax.Array]:
    """The `leaves`, whose first axis is that of layers.

    Args:
      read: `read(layer)` gives by name a function of an index into that layer. What it
        returns is on the devices, in the array that it is a part of, before the next
        layer is asked for: of this process's memory the layers take as much as one.
      leaves: with shardings, of the same number of layers.
    """
    arrays = {name: _zeros(leaf) for name, leaf in leaves.items()}
    (layers,) = {leaf.shape[0] for leaf in leaves.values()}
    for i in range(layers):
        _put_layer(arrays, read, leaves, i)
    return arrays


def _put_layer(arrays: dict, read: Callable, leaves: Mapping, i: int) -> None:
    """Puts layer i into `arrays`; nothing of it is held when this returns."""
    found = read(i)
    for name, leaf in leaves.items():
        one = jax.make_array_from_callback(
            leaf.shape[1:], _of_one(leaf.sharding), found[name]
        )
        arrays[name] = _insert(leaf.sharding)(arrays[name], one, i)
    jax.block_until_ready(arrays)


def _zeros(leaf) -> jax.Array:
    make = functools.partial(jnp.zeros, leaf.shape, leaf.dtype)
    return jax.jit(make, out_shardings=leaf.sharding)()


def _of_one(where: NamedSharding) -> NamedSharding:
    """How one layer lies, of an array of all layers that lies so."""
    return NamedSharding(where.mesh, PartitionSpec(*where.spec[1:]))


@functools.lru_cache(maxsize=64)
def _insert(where: NamedSharding):
    def insert(array, one, i):
        return lax.dynamic_update_index_in_dim(array, one, i, 0)

    return jax.jit(insert, donate_argnums=0, out_shardings=where)


def fit(shape: tuple[int, ...], where: NamedSharding) -> NamedSharding:
    """`where`, but whole along the axes of `shape` that it does not divide."""
    spec = []
    for size, axes in zip(shape, where.spec, strict=False):
        names = (axes,) if isinstance(axes, str) else axes or ()
        parts = math.prod(where.mesh.shape[name] for name in names)
        spec.append(axes if size % parts == 0 else None)
    return NamedSharding(where.mesh, PartitionSpec(*spec))
