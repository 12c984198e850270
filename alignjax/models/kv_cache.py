# SPDX-License-Identifier: Apache-2.0
"""The cache of the keys and values of earlier tokens.

A dict of `layers`, the keys `k` and values `v` of all layers, [L, B, K, S, H]; of
`positions`, int32 [B, S], -1 in empty slots; and of `slot`, the next of the S to be
filled, in every row alike. Loops over layers and over tokens carry the arrays, so that
they are updated in place; arrays that a loop scans over would be copied. In this order
of axes, products over S and over H need no transposition in memory.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp


def init(L: int, B: int, K: int, S: int, H: int, dtype) -> dict:
    """An empty cache; zeros rather than garbage, which even masked could be NaN."""
    shape = (L, B, K, S, H)
    return {
        "layers": {"k": jnp.zeros(shape, dtype), "v": jnp.zeros(shape, dtype)},
        "positions": jnp.full((B, S), -1, jnp.int32),
        "slot": jnp.int32(0),
    }


def see(cache: dict, positions_BT: jax.Array):
    """Positions of all slots once T tokens are in, and the slots that each token sees.

    Returns (int32 [B, S], bool [B, T, S]); `near` is for layers with a window.
    """
    slots_BS = jax.lax.dynamic_update_slice_in_dim(
        cache["positions"], positions_BT, cache["slot"], axis=1
    )
    back_BTS = positions_BT[:, :, None] - slots_BS[:, None, :]
    return slots_BS, (back_BTS >= 0) & (slots_BS >= 0)[:, None, :]


def near(slots_BS: jax.Array, positions_BT: jax.Array, window: int) -> jax.Array:
    """The slots that are fewer than `window` positions back, bool [B, T, S]."""
    return positions_BT[:, :, None] - slots_BS[:, None, :] < window


def write(layers: dict, layer, slot, k_BTKH: jax.Array, v_BTKH: jax.Array) -> dict:
    """Puts the keys and values of T tokens into one layer, from `slot` on."""

    def put(old_LBKSH, x_BTKH):
        x_LBKTH = x_BTKH.swapaxes(1, 2)[None].astype(old_LBKSH.dtype)
        return jax.lax.dynamic_update_slice(old_LBKSH, x_LBKTH, (layer, 0, 0, slot, 0))

    return {"k": put(layers["k"], k_BTKH), "v": put(layers["v"], v_BTKH)}


def read(layers: dict, layer) -> tuple[jax.Array, jax.Array]:
    """Keys and values of one layer, [B, K, S, H]."""
    get = lambda x: jax.lax.dynamic_index_in_dim(x, layer, keepdims=False)
    return get(layers["k"]), get(layers["v"])
