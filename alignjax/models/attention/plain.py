# SPDX-License-Identifier: Apache-2.0
"""Attention in plain XLA, on any platform, and under any explicit mask."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from alignjax.models.attention import rows as rows_lib

# Large enough to vanish under exp, small enough to survive arithmetic in float32.
MASKED = -1e30


def heads_first(x_BTNH: jax.Array) -> jax.Array:
    """[B, T, N, H] -> [B, N, T, H], in which products need no transposition."""
    return x_BTNH.swapaxes(1, 2)


def masked(
    q_BNTH,
    k_BKSH,
    v_BKSH,
    mask_BTS,
    *,
    softcap: float | None = None,
    scale: float | None = None,
):
    """Attention under an explicit mask, True where a query sees a key; [B, N, T, H].

    A query that sees none (padding) gets the mean of all values: finite, and unused.
    """
    B, N, T, H = q_BNTH.shape
    K = k_BKSH.shape[1]
    scale = H**-0.5 if scale is None else scale
    q_BKGTH = (q_BNTH * scale).reshape(B, K, N // K, T, H)
    logits = jnp.einsum(
        "BKGTH,BKSH->BKGTS", q_BKGTH, k_BKSH, preferred_element_type=jnp.float32
    )
    if softcap is not None:
        logits = softcap * jnp.tanh(logits / softcap)
    logits = jnp.where(mask_BTS[:, None, None], logits, MASKED)
    weights = jax.nn.softmax(logits, axis=-1).astype(v_BKSH.dtype)
    return jnp.einsum("BKGTS,BKSH->BKGTH", weights, v_BKSH).reshape(B, N, T, H)


def attend(
    q_BTNH,
    k_BTKH,
    v_BTKH,
    rows: rows_lib.Rows,
    *,
    window,
    softcap,
    scale=None,
    block: int = 128,
):
    """A backend; see `attention`. The window may be an array of one number.

    Queries are taken in blocks that skip the keys after them; where there are several,
    the weights of one are recomputed in the backward pass, not stored.
    """
    T = q_BTNH.shape[1]
    q_BNTH, k_BKTH, v_BKTH = map(heads_first, (q_BTNH, k_BTKH, v_BTKH))

    def attend_block(q, k, v, query, key, offset):
        mask = rows_lib.causal_mask(query, key, offset, window)
        return masked(q, k, v, mask, softcap=softcap, scale=scale)

    if block < T:
        attend_block = jax.checkpoint(attend_block, static_argnums=(5,))
    part = lambda start, stop: jax.tree.map(lambda x: x[:, start:stop], rows)
    blocks = []
    for start in range(0, T, block):
        stop = min(start + block, T)
        q, k, v = q_BNTH[:, :, start:stop], k_BKTH[:, :, :stop], v_BKTH[:, :, :stop]
        blocks.append(attend_block(q, k, v, part(start, stop), part(0, stop), start))
    return checkpoint_name(heads_first(jnp.concatenate(blocks, axis=2)), "attention")
