# SPDX-License-Identifier: Apache-2.0
"""Attention by kernels that never hold all the weights: cuDNN on GPUs, splash on TPUs.

Equal in value to `attention.xla`. The compiler cannot partition a kernel, so on a mesh
each device runs it on the rows and heads that it holds.
"""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp

from alignjax.models import attention

BLOCK = 512  # of queries and of keys, at most; what splash's own tuning tables favour


@attention.BACKENDS.register
def cudnn(
    q_BTNH,
    k_BTKH,
    v_BTKH,
    segment_ids_BT,
    *,
    window,
    softcap,
    scale=None,
    branches=None,
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

    def attend(q_BTNH, k_BTKH, v_BTKH, segment_ids_BT):
        same = segment_ids_BT[:, None, :, None] == segment_ids_BT[:, None, None, :]
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

    return _on_each_device(attend)(q_BTNH, k_BTKH, v_BTKH, segment_ids_BT)


@attention.BACKENDS.register
def splash(
    q_BTNH,
    k_BTKH,
    v_BTKH,
    segment_ids_BT,
    *,
    window,
    softcap,
    scale=None,
    branches=None,
    interpret: bool = False,
):
    """Splash attention, a Pallas kernel for TPUs; `interpret` runs it anywhere, slowly.

    Keys that no query of a block may see are skipped, so causality and windows save
    their share of the work.
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
    sizes = lib.BlockSizes(
        block_q=block,
        block_kv=block,
        block_kv_compute=block,
        block_q_dkv=block,
        block_kv_dkv=block,
        block_kv_dkv_compute=block,
        block_q_dq=block,
        block_kv_dq=block,
    )
    if window is None:
        mask = lib.CausalMask((T, T))
    else:
        mask = lib.LocalMask((T, T), (window - 1, 0), 0)

    def attend(q_BTNH, k_BTKH, v_BTKH, segment_ids_BT):
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
        heads_first = lambda x: x.swapaxes(1, 2)  # BTNH -> BNTH
        scaled_BTNH = q_BTNH * (H**-0.5 if scale is None else scale)
        q_BKGTH = heads_first(scaled_BTNH).reshape(B, K, N // K, T, H)
        ids = lib.SegmentIds(segment_ids_BT, segment_ids_BT)
        out_BKGTH = per_row(q_BKGTH, heads_first(k_BTKH), heads_first(v_BTKH), ids)
        return heads_first(out_BKGTH.reshape(B, N, T, H))

    return _on_each_device(attend)(q_BTNH, k_BTKH, v_BTKH, segment_ids_BT)


def _refuse(branches, kernel: str) -> None:
    if branches is not None:
        raise ValueError(
            f"model.attention: {kernel} knows no branches, by which responses share "
            "their prompt; use xla, or say data.share_prompt=False"
        )


def _on_each_device(attend):
    """`attend` on the rows and heads that lie on a device; no mesh, no change."""
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
