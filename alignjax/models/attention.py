# SPDX-License-Identifier: Apache-2.0
"""Causal attention over packed rows: one function a backend, equal in value.

Every backend is `(q_BTNH, k_BTKH, v_BTKH, segment_ids_BT, *, window, softcap, scale,
branches=None) -> out_BTNH`. A query sees keys at or before it, of its own segment,
fewer than `window` positions back where one is given; with `branches`, of those only
the shared beginning and its own branch. Products of queries and keys are multiplied by
`scale`, 1 / sqrt(H) where it is None, and capped where there is a softcap. Softmax is
float32 in all of them. Each of the K kv heads serves N/K query heads, so K = N is
multi-head and K = 1 multi-query.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from alignjax import registry

BACKENDS = registry.Registry("attention backend")

# Large enough to vanish under exp, small enough to survive arithmetic in float32.
MASKED = -1e30
# A window that nothing is outside of.
EVERYTHING = np.iinfo(np.int32).max


class Branches(NamedTuple):
    """Where segments branch: `types.Sequences.branches`, and positions in the document.

    Both are int32 [B, T]. What lies between two tokens of a row may be another branch,
    so how far apart they are is the difference of their positions.
    """

    ids: Any
    positions: Any


def resolve(
    backend: str,
    q_BTNH: jax.Array,
    softcap: float | None,
    platform: str | None = None,
    *,
    branches: Branches | None = None,
) -> str:
    """What `auto` stands for with these queries; other names are themselves.

    A kernel where the platform (by default that of the devices at hand) has one that
    takes the shape, the dtype and the softcap; `xla` otherwise, and for branches.
    """
    if backend != "auto":
        return backend
    if branches is not None:
        return "xla"
    platform = platform or jax.default_backend()
    _, T, _, H = q_BTNH.shape
    sixteen_bits = q_BTNH.dtype in (jnp.bfloat16, jnp.float16)
    if platform == "tpu" and T % 128 == 0 and H % 128 == 0:
        return "splash"
    if platform == "gpu" and sixteen_bits and softcap is None and H in (64, 128):
        return "cudnn"
    return "xla"


def run(
    backend: str,
    q_BTNH: jax.Array,
    k_BTKH: jax.Array,
    v_BTKH: jax.Array,
    segment_ids_BT: jax.Array,
    *,
    window: int | None,
    windowed: bool | jax.Array,
    softcap: float | None,
    scale: float | None,
    branches: Branches | None = None,
) -> jax.Array:
    """Attention by a backend, or `auto`, in a layer with the window or without it.

    Args:
      window: that of the layers that have one.
      windowed: whether this layer does; an array of one bool where that is known only
        while the program runs.
    """
    backend = resolve(backend, q_BTNH, softcap, branches=branches)
    attend = functools.partial(
        BACKENDS.find(backend),
        segment_ids_BT=segment_ids_BT,
        softcap=softcap,
        scale=scale,
        branches=branches,
    )
    if isinstance(windowed, bool):
        return attend(q_BTNH, k_BTKH, v_BTKH, window=window if windowed else None)
    if backend == "xla":  # a mask like any other
        near = jnp.where(windowed, window, EVERYTHING)
        return attend(q_BTNH, k_BTKH, v_BTKH, window=near)
    # Kernels are made for one window.
    near, far = (functools.partial(attend, window=size) for size in (window, None))
    return jax.lax.cond(windowed, near, far, q_BTNH, k_BTKH, v_BTKH)


def heads_first(x_BTNH: jax.Array) -> jax.Array:
    """[B, T, N, H] -> [B, N, T, H], in which products need no transposition."""
    return x_BTNH.swapaxes(1, 2)


def attend(
    q_BNTH,
    k_BKSH,
    v_BKSH,
    mask_BTS,
    *,
    softcap: float | None = None,
    scale: float | None = None,
):
    """Attention under an explicit mask, True where a query may look; [B, N, T, H].

    A query that may look nowhere (padding) gets the mean of all values: finite, and
    never used.
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


def causal_mask(query_ids_BT, key_ids_BS, offset: int, window: int | None):
    """True where key s is of the segment of query t + offset, not after, not far."""
    t = offset + jnp.arange(query_ids_BT.shape[1])[:, None]
    s = jnp.arange(key_ids_BS.shape[1])[None, :]
    near = s <= t if window is None else (s <= t) & (t - s < window)
    return near & (query_ids_BT[:, :, None] == key_ids_BS[:, None, :])


def branch_mask(query: Branches, key: Branches, window: int | None):
    """True where key s is shared or of the branch of query t, and not far."""
    t, s = (lambda x: x[:, :, None]), (lambda x: x[:, None, :])
    seen = (s(key.ids) == 0) | (s(key.ids) == t(query.ids))
    if window is not None:
        seen &= t(query.positions) - s(key.positions) < window
    return seen


@BACKENDS.register
def xla(
    q_BTNH,
    k_BTKH,
    v_BTKH,
    segment_ids_BT,
    *,
    window,
    softcap,
    scale=None,
    branches: Branches | None = None,
    block: int = 128,
):
    """Plain XLA, everywhere. Queries go in blocks that skip the keys after them; where
    there are several, the weights of one are recomputed in the backward pass rather
    than kept. The window may be an array of one number."""
    T = q_BTNH.shape[1]
    q_BNTH, k_BKTH, v_BKTH = map(heads_first, (q_BTNH, k_BTKH, v_BTKH))

    def attend_block(q, k, v, query_ids, key_ids, offset):
        if branches is None:
            mask = causal_mask(*query_ids, *key_ids, offset, window)
        else:
            mask = causal_mask(query_ids[0], key_ids[0], offset, None)
            mask &= branch_mask(query_ids[1], key_ids[1], window)
        return attend(q, k, v, mask, softcap=softcap, scale=scale)

    if block < T:
        attend_block = jax.checkpoint(attend_block, static_argnums=(5,))
    ids = (segment_ids_BT,) if branches is None else (segment_ids_BT, branches)
    part = lambda start, stop: jax.tree.map(lambda x: x[:, start:stop], ids)
    blocks = []
    for start in range(0, T, block):
        stop = min(start + block, T)
        blocks.append(
            attend_block(
                q_BNTH[:, :, start:stop],
                k_BKTH[:, :, :stop],
                v_BKTH[:, :, :stop],
                part(start, stop),
                part(0, stop),
                start,
            )
        )
    return heads_first(jnp.concatenate(blocks, axis=2))
