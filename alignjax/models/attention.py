# SPDX-License-Identifier: Apache-2.0
"""Causal attention over packed rows: one function a backend, equal in value.

Every backend is `(q_BTNH, k_BTKH, v_BTKH, segment_ids_BT, *, window, softcap) ->
out_BTNH`. A query sees keys at or before it, of its own segment, fewer than `window`
positions back where one is given. Softmax is float32 in all of them. Each of the K kv
heads serves N/K query heads, so K = N is multi-head and K = 1 multi-query attention.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from alignjax import registry

BACKENDS = registry.Registry("attention backend")

# Large enough to vanish under exp, small enough to survive arithmetic in float32.
MASKED = -1e30


def resolve(backend: str, softcap: float | None, head_dim: int) -> str:
    """What `auto` stands for on the devices at hand; other names are themselves."""
    if backend != "auto":
        return backend
    platform = jax.default_backend()
    if platform == "tpu" and softcap is None and head_dim % 128 == 0:
        return "splash"
    if platform == "gpu" and softcap is None and head_dim % 8 == 0 and head_dim <= 128:
        return "cudnn"
    return "xla"


def attend(q_BTNH, k_BSKH, v_BSKH, mask_BTS, *, softcap: float | None = None):
    """Attention under an explicit mask, True where a query may look.

    A query that may look nowhere (padding) gets the mean of all values: finite, and
    never used.
    """
    B, T, N, H = q_BTNH.shape
    K = k_BSKH.shape[2]
    q_BTKGH = q_BTNH.reshape(B, T, K, N // K, H) * (H**-0.5)
    logits = jnp.einsum(
        "BTKGH,BSKH->BKGTS", q_BTKGH, k_BSKH, preferred_element_type=jnp.float32
    )
    if softcap is not None:
        logits = softcap * jnp.tanh(logits / softcap)
    logits = jnp.where(mask_BTS[:, None, None], logits, MASKED)
    weights = jax.nn.softmax(logits, axis=-1).astype(v_BSKH.dtype)
    return jnp.einsum("BKGTS,BSKH->BTKGH", weights, v_BSKH).reshape(B, T, N, H)


def causal_mask(query_ids_BT, key_ids_BS, offset: int, window: int | None):
    """True where key s is of the segment of query t + offset, not after, not far."""
    t = offset + jnp.arange(query_ids_BT.shape[1])[:, None]
    s = jnp.arange(key_ids_BS.shape[1])[None, :]
    near = s <= t if window is None else (s <= t) & (t - s < window)
    return near & (query_ids_BT[:, :, None] == key_ids_BS[:, None, :])


@BACKENDS.register
def xla(q_BTNH, k_BTKH, v_BTKH, segment_ids_BT, *, window, softcap, block: int = 128):
    """Plain XLA, everywhere. Queries go in blocks that skip the keys after them; where
    there are several, the weights of one are recomputed in the backward pass rather
    than kept."""
    T = q_BTNH.shape[1]

    def attend_block(q, k, v, query_ids, key_ids, offset):
        mask = causal_mask(query_ids, key_ids, offset, window)
        return attend(q, k, v, mask, softcap=softcap)

    if block < T:
        attend_block = jax.checkpoint(attend_block, static_argnums=(5,))
    blocks = []
    for start in range(0, T, block):
        stop = min(start + block, T)
        blocks.append(
            attend_block(
                q_BTNH[:, start:stop],
                k_BTKH[:, :stop],
                v_BTKH[:, :stop],
                segment_ids_BT[:, start:stop],
                segment_ids_BT[:, :stop],
                start,
            )
        )
    return jnp.concatenate(blocks, axis=1)
