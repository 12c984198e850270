# SPDX-License-Identifier: Apache-2.0
"""The cache of the keys and values of earlier tokens.

A dict of `layers`, the keys `k` and values `v` of all layers, [L, B, K, S, H], or a
tuple of those of each, [B, K, S, H]; of `positions`, int32 [B, S], -1 in empty slots;
and of `slot`, the next of the S to be filled: one number for every row alike, or int32
[B], one a row, for rows that began at different times; beyond the S nothing is filled
then. Loops over layers and over tokens carry the arrays, so that they are updated in
place; arrays that a loop scans over would be copied. In this order of axes, products
over S and over H need no transposition in memory. On CPUs a part of an array is copied
before a product reads it, so that there each layer has its own.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp


def init(L: int, B: int, K: int, S: int, H: int, dtype, apart: bool = False) -> dict:
    """An empty cache; zeros rather than garbage, which even masked could be NaN.

    With `apart` each layer has arrays of its own.
    """

    def zeros(*lead):
        shape = (*lead, B, K, S, H)
        return {"k": jnp.zeros(shape, dtype), "v": jnp.zeros(shape, dtype)}

    return {
        "layers": tuple(zeros() for _ in range(L)) if apart else zeros(L),
        "positions": jnp.full((B, S), -1, jnp.int32),
        "slot": jnp.int32(0),
    }


def see(cache: dict, positions_BT: jax.Array):
    """Positions of all slots once T tokens are in, and the slots that each token sees.

    Returns (int32 [B, S], bool [B, T, S]); `near` is for layers with a window.
    """
    old_BS, slot = cache["positions"], cache["slot"]
    if slot.ndim:
        slots_BS = old_BS.at[_columns(slot, positions_BT.shape[1])].set(positions_BT)
    else:
        update = jax.lax.dynamic_update_slice_in_dim
        slots_BS = update(old_BS, positions_BT, slot, axis=1)
    back_BTS = positions_BT[:, :, None] - slots_BS[:, None, :]
    return slots_BS, (back_BTS >= 0) & (slots_BS >= 0)[:, None, :]


def near(slots_BS: jax.Array, positions_BT: jax.Array, window: int) -> jax.Array:
    """The slots that are fewer than `window` positions back, bool [B, T, S]."""
    return positions_BT[:, :, None] - slots_BS[:, None, :] < window


def write(layers: dict, layer, slot, k_BTKH: jax.Array, v_BTKH: jax.Array) -> dict:
    """Puts the keys and values of T tokens into one layer, from `slot` on.

    `layer` is its index in arrays of all layers; None where these are its own.
    """
    lead = () if layer is None else (layer,)

    def put(old, x_BTKH):
        x_BTKH = x_BTKH.astype(old.dtype)
        if slot.ndim:
            rows, columns = _columns(slot, x_BTKH.shape[1])
            return old.at[(*lead, rows, slice(None), columns)].set(x_BTKH)
        x = jnp.expand_dims(x_BTKH.swapaxes(1, 2), range(len(lead)))
        return jax.lax.dynamic_update_slice(old, x, (*lead, 0, 0, slot, 0))

    return {"k": put(layers["k"], k_BTKH), "v": put(layers["v"], v_BTKH)}


def read(layers: dict, layer) -> tuple[jax.Array, jax.Array]:
    """Keys and values of one layer, [B, K, S, H]; `layer` as for `write`."""
    if layer is None:
        return layers["k"], layers["v"]
    get = lambda x: jax.lax.dynamic_index_in_dim(x, layer, keepdims=False)
    return get(layers["k"]), get(layers["v"])


def _columns(slot_B, T: int):
    """Indices of T slots of every row, from its own next one on."""
    return jnp.arange(len(slot_B))[:, None], slot_B[:, None] + jnp.arange(T)


def repeat(cache: dict, times: int) -> dict:
    """Every row so many times in succession."""
    layers = jax.tree.map(
        lambda x: jnp.repeat(x, times, axis=x.ndim - 4), cache["layers"]
    )
    positions_BS = jnp.repeat(cache["positions"], times, axis=0)
    return {"layers": layers, "positions": positions_BS, "slot": cache["slot"]}


def take(cache: dict, rows_B: jax.Array, more: int = 0) -> dict:
    """The rows of these indices alone, with `more` empty slots at their end."""

    def get(x):
        x = jnp.take(x, rows_B, axis=x.ndim - 4)
        return jnp.pad(x, [(0, 0)] * (x.ndim - 2) + [(0, more), (0, 0)])

    positions_BS = jnp.take(cache["positions"], rows_B, axis=0)
    positions_BS = jnp.pad(positions_BS, ((0, 0), (0, more)), constant_values=-1)
    slot = cache["slot"]
    slot = jnp.take(slot, rows_B) if slot.ndim else slot
    layers = jax.tree.map(get, cache["layers"])
    return {"layers": layers, "positions": positions_BS, "slot": slot}


def insert(cache: dict, rows: dict, places_B: jax.Array) -> dict:
    """`rows`, a cache of as many slots, in these places of one with a slot a row.

    All of a row is replaced, so that nothing of its predecessor is left. A row whose
    place is beyond the last is dropped.
    """

    def put(old, x):
        lead = (slice(None),) * (old.ndim - 4)
        return old.at[(*lead, places_B)].set(x, mode="drop")

    layers = jax.tree.map(put, cache["layers"], rows["layers"])
    positions_BS = cache["positions"].at[places_B].set(rows["positions"], mode="drop")
    slot_B = cache["slot"].at[places_B].set(rows["slot"], mode="drop")
    return {"layers": layers, "positions": positions_BS, "slot": slot_B}
