# SPDX-License-Identifier: Apache-2.0
"""Causal attention over packed rows: one function for each backend, equal in value.

Every backend is `(q_BTNH, k_BTKH, v_BTKH, segment_ids_BT, *, window, softcap, scale,
branches=None) -> out_BTNH`. A query sees keys at or before it, of its own segment,
fewer than `window` positions back where one is given; with `branches`, of those only
the shared beginning and its own branch. Products of queries and keys are multiplied by
`scale`, 1 / sqrt(H) where it is None, and capped where there is a softcap. Softmax is
float32 in all of them. Each of the K kv heads serves N/K query heads, so K = N is
multi-head and K = 1 multi-query.

Kernels never hold all the weights. The compiler cannot partition them, so on a mesh
each device runs one on the rows and heads that it holds.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from alignjax import registry

BACKENDS = registry.Registry("attention backend")

BLOCK = 512  # of splash's queries and keys, at most; as its own tuning tables favour
# Large enough to vanish under exp, small enough to survive arithmetic in float32.
MASKED = -1e30
EVERYTHING = np.iinfo(np.int32).max  # a window that covers everything


class Branches(NamedTuple):
    """The branches of segments, `types.Sequences.branches`, and document positions.

    Both are int32 [B, T]. Between two tokens of a row may lie another branch, so their
    distance is the difference of their positions.
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
    """The backend that `auto` chooses for these queries; other names are themselves.

    A kernel where the platform (by default that of this process) has one for the shape,
    the dtype and the softcap; `xla` otherwise, and for branches.
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
      window: of the layers that have one.
      windowed: whether this layer has it; an array of one bool where that is known only
        when the program runs.
    """
    backend = resolve(backend, q_BTNH, softcap, branches=branches)
    options = dict(softcap=softcap, scale=scale, branches=branches)

    def attend(size, *arrays):
        return BACKENDS.find(backend)(*arrays, segment_ids_BT, window=size, **options)

    arrays = (q_BTNH, k_BTKH, v_BTKH)
    if isinstance(windowed, bool):
        return attend(window if windowed else None, *arrays)
    if backend == "xla":  # a mask like any other
        return attend(jnp.where(windowed, window, EVERYTHING), *arrays)
    # Kernels are made for one window.
    near, far = (functools.partial(attend, size) for size in (window, None))
    return jax.lax.cond(windowed, near, far, *arrays)


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


def causal_mask(query_ids_BT, key_ids_BS, offset: int, window: int | None):
    """True where key s is of the segment of query t + offset, not after, not far."""
    t = offset + jnp.arange(query_ids_BT.shape[1])[:, None]
    s = jnp.arange(key_ids_BS.shape[1])[None, :]
    near = s <= t if window is None else (s <= t) & (t - s < window)
    return near & (query_ids_BT[:, :, None] == key_ids_BS[:, None, :])


def branch_mask(query: Branches, key: Branches, window: int | None):
    """True where key s is shared or of the branch of query t, and not far."""
    t, s = (lambda x: x[:, :, None]), (lambda x: x[:, None, :])
    mask = (s(key.ids) == 0) | (s(key.ids) == t(query.ids))
    if window is not None:
        mask &= t(query.positions) - s(key.positions) < window
    return mask


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
    """Plain XLA, on any platform.

    Queries are taken in blocks that skip the keys after them; where there are several,
    the weights of one are recomputed in the backward pass, not stored. The window may
    be an array of one number.
    """
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
        q, k, v = q_BNTH[:, :, start:stop], k_BKTH[:, :, :stop], v_BKTH[:, :, :stop]
        blocks.append(attend_block(q, k, v, part(start, stop), part(0, stop), start))
    return heads_first(jnp.concatenate(blocks, axis=2))


@BACKENDS.register
def cudnn(
    q_BTNH, k_BTKH, v_BTKH, ids_BT, *, window, softcap, scale=None, branches=None
):
    """cuDNN's fused attention, bfloat16 or float16 on NVIDIA GPUs from Ampere on."""
    _refuse(branches, "cudnn")
    if softcap is not None:
        raise ValueError("model.attention: cudnn has no softcap; use xla")
    if q_BTNH.dtype not in (jnp.bfloat16, jnp.float16):
        raise ValueError(
            f"model.attention: cudnn computes in 16 bits, model.dtype is "
            f"{q_BTNH.dtype}; use bfloat16, or attention xla"
        )

    def attend(q_BTNH, k_BTKH, v_BTKH, ids_BT):
        same = ids_BT[:, None, :, None] == ids_BT[:, None, None, :]
        return jax.nn.dot_product_attention(
            q_BTNH,
            k_BTKH,
            v_BTKH,
            mask=same,
            scale=scale,
            is_causal=True,
            # In jax's terms: so many keys to the left, the query's own not counted.
            local_window_size=None if window is None else (window - 1, 0),
            implementation="cudnn",
        )

    return _on_each_device(attend)(q_BTNH, k_BTKH, v_BTKH, ids_BT)


@BACKENDS.register
def splash(
    q_BTNH,
    k_BTKH,
    v_BTKH,
    ids_BT,
    *,
    window,
    softcap,
    scale=None,
    branches=None,
    interpret: bool = False,
):
    """Splash attention, a Pallas kernel for TPUs; `interpret` runs it anywhere, slowly.

    Keys that no query of a block sees are skipped, so causality and windows save their
    share of the work.
    """
    from jax.experimental.pallas.ops.tpu import splash_attention as lib

    _refuse(branches, "splash")
    T, H = q_BTNH.shape[1], q_BTNH.shape[3]
    if T % 128:
        raise ValueError(
            f"model.attention: splash needs rows of a multiple of 128 tokens, "
            f"length is {T}; change it, or use xla"
        )
    block = next(size for size in (BLOCK, 256, 128) if T % size == 0)
    names = "q kv kv_compute q_dkv kv_dkv kv_dkv_compute q_dq kv_dq".split()
    sizes = lib.BlockSizes(**{f"block_{name}": block for name in names})
    if window is None:
        mask = lib.CausalMask((T, T))
    else:
        mask = lib.LocalMask((T, T), (window - 1, 0), 0)

    def attend(q_BTNH, k_BTKH, v_BTKH, ids_BT):
        B, _, N, _ = q_BTNH.shape
        K = k_BTKH.shape[2]
        kernel = lib.make_splash_mqa_single_device(
            lib.MultiHeadMask([mask] * (N // K)),
            block_sizes=sizes,
            attn_logits_soft_cap=softcap,
            interpret=interpret,
        )
        per_kv_head = jax.vmap(kernel, in_axes=(0, 0, 0, None))  # [G,T,H], [T,H], [T,H]
        per_row = jax.vmap(per_kv_head)
        scaled_BTNH = q_BTNH * (H**-0.5 if scale is None else scale)
        q_BKGTH = heads_first(scaled_BTNH).reshape(B, K, N // K, T, H)
        ids = lib.SegmentIds(ids_BT, ids_BT)
        out_BKGTH = per_row(q_BKGTH, heads_first(k_BTKH), heads_first(v_BTKH), ids)
        return heads_first(out_BKGTH.reshape(B, N, T, H))

    return _on_each_device(attend)(q_BTNH, k_BTKH, v_BTKH, ids_BT)


def _refuse(branches, kernel: str) -> None:
    if branches is not None:
        raise ValueError(
            f"model.attention: {kernel} has no branches, by which responses share "
            "their prompt; use xla, or set data.share_prompt=False"
        )


def _on_each_device(attend):
    """`attend` on the rows and heads of each device; without a mesh, itself."""
    if jax.sharding.get_abstract_mesh().empty:
        return attend
    spec = nn.logical_to_mesh_axes
    q, kv = ("batch", None, "heads", None), ("batch", None, "kv_heads", None)
    return jax.shard_map(
        attend,
        in_specs=(spec(q), spec(kv), spec(kv), spec(("batch", None))),
        out_specs=spec(q),
        check_vma=False,
    )
