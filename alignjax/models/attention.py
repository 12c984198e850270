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


def resolve(
    backend: str, q_BTNH: jax.Array, softcap: float | None, platform: str | None = None
) -> str:
    """What `auto` stands for with these queries; other names are themselves.

    A kernel where the platform (by default that of the devices at hand) has one that
    takes the shape, the dtype and the softcap; `xla` otherwise.
    """
    if backend != "auto":
        return backend
    platform = platform or jax.default_backend()
    _, T, _, H = q_BTNH.shape
    sixteen_bits = q_BTNH.dtype in (jnp.bfloat16, jnp.float16)
    if platform == "tpu" and T % 128 == 0 and H % 128 == 0:
        return "splash"
    if platform == "gpu" and sixteen_bits and softcap is None and H in (64, 128):
        return "cudnn"
    return "xla"


def heads_first(x_BTNH: jax.Array) -> jax.Array:
    """[B, T, N, H] -> [B, N, T, H], in which products need no transposition."""
    return x_BTNH.swapaxes(1, 2)


def attend(q_BNTH, k_BKSH, v_BKSH, mask_BTS, *, softcap: float | None = None):
    """Attention under an explicit mask, True where a query may look; [B, N, T, H].

    A query that may look nowhere (padding) gets the mean of all values: finite, and
    never used.
    """
    B, N, T, H = q_BNTH.shape
    K = k_BKSH.shape[1]
    q_BKGTH = (q_BNTH * H**-0.5).reshape(B, K, N // K, T, H)
    logits = jnp.einsum(
        "BKGTH,BKSH->BKGTS", q_BKGTH, k_BKSH, preferred_element_type=jnp.float32
    )
    if softcap is not None:
        logits = softcap * jnp.tanh(logits / softcap)
    logits = jnp.where(mask_BTS[:, None, None], logits, MASKED)
    weights = jax.nn.softmax(logits, axis=-1).astype(v_BKSH.dtype)
    return jnp.einsum("BKGTS,BKSH->BKGTH", weights, v_BKSH).reshape(B, N, T, H)


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
    q_BNTH, k_BKTH, v_BKTH = map(heads_first, (q_BTNH, k_BTKH, v_BTKH))

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
                q_BNTH[:, :, start:stop],
                k_BKTH[:, :, :stop],
                v_BKTH[:, :, :stop],
                segment_ids_BT[:, start:stop],
                segment_ids_BT[:, :stop],
                start,
            )
        )
    return heads_first(jnp.concatenate(blocks, axis=2))
