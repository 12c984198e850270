# SPDX-License-Identifier: Apache-2.0
"""Splash attention, a Pallas kernel for TPUs; `interpret` runs it anywhere, slowly.

Keys that no query of a block sees are skipped, so causality and windows save their
share of the work. Branches take two calls, since segment ids can only be equal or not:
one over the keys of a query's own branch, one over the shared beginning of its segment.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp

from alignjax.models.attention import merge, plain
from alignjax.models.attention import rows as rows_lib

BLOCK = 512  # of queries and keys, at most; as splash's own tuning tables favour
MULTIPLE = 128  # of tokens, the smallest block


def attend(
    q_BTNH,
    k_BTKH,
    v_BTKH,
    rows: rows_lib.Rows,
    *,
    window,
    softcap,
    scale=None,
    interpret: bool = False,
):
    """A backend; see `attention`. Rows with branches have no window here."""
    options = dict(softcap=softcap, scale=scale, interpret=interpret)
    kernel = functools.partial(_kernel, window=window, **options)
    kernel = rows_lib.padded(kernel, MULTIPLE)
    return rows_lib.on_each_device(kernel)(q_BTNH, k_BTKH, v_BTKH, rows)


# So that layers which are written out one after the other share one trace.
@functools.partial(jax.jit, static_argnames=("window", "softcap", "scale", "interpret"))
def _kernel(
    q_BTNH, k_BTKH, v_BTKH, rows: rows_lib.Rows, *, window, softcap, scale, interpret
):
    B, T, N, H = q_BTNH.shape
    K = k_BTKH.shape[2]
    make = functools.partial(
        _make, T, N // K, window=window, softcap=softcap, interpret=interpret
    )
    scaled_BTNH = q_BTNH * (H**-0.5 if scale is None else scale)
    q_BKGTH = plain.heads_first(scaled_BTNH).reshape(B, K, N // K, T, H)
    arrays = (q_BKGTH, plain.heads_first(k_BTKH), plain.heads_first(v_BTKH))
    if rows.branches is not None:
        out_BKGTH = merge.attend(_passes(make), _parts(rows), *arrays)
    else:
        ids = None if rows.one_document else _ids(rows.segment_ids, rows.segment_ids)
        out_BKGTH = _over_heads(make())(*arrays, ids)
    return plain.heads_first(out_BKGTH.reshape(B, N, T, H))


def _make(T: int, G: int, *, window, softcap, interpret, **options):
    """The kernel of one row and one kv head: q [G, T, H], k and v [T, H], ids."""
    from jax.experimental.pallas.ops.tpu import splash_attention as lib

    block = next(size for size in (BLOCK, 256, MULTIPLE) if T % size == 0)
    names = "q kv kv_compute q_dkv kv_dkv kv_dkv_compute q_dq kv_dq".split()
    if window is None:
        mask = lib.CausalMask((T, T))
    else:
        mask = lib.LocalMask((T, T), (window - 1, 0), 0)
    return lib.make_splash_mqa_single_device(
        lib.MultiHeadMask([mask] * G),
        block_sizes=lib.BlockSizes(**{f"block_{name}": block for name in names}),
        attn_logits_soft_cap=softcap,
        interpret=interpret,
        **options,
    )


def _over_heads(kernel):
    """`kernel` on arrays with rows and kv heads, and ids with rows, in front."""

    def run(q, k, v, ids, *further):
        over_heads = jax.vmap(kernel, in_axes=(0, 0, 0, None) + (0,) * len(further))
        return jax.vmap(over_heads)(q, k, v, ids, *further)

    return run


def _ids(queries_BT, keys_BT):
    from jax.experimental.pallas.ops.tpu import splash_attention as lib

    return lib.SegmentIds(queries_BT, keys_BT)


def _parts(rows: rows_lib.Rows) -> tuple:
    """The ids for a query's own branch, and for the beginning that it continues."""
    segments, branches = rows.segment_ids, rows.branches.ids
    own = segments * (segments.shape[1] + 1) + branches  # a number of each branch's own
    continues = jnp.where(branches > 0, segments, -1)
    begins = jnp.where(branches == 0, segments, -2)
    return _ids(own, own), _ids(continues, begins)


def _passes(make) -> merge.Kernel:
    """The passes of splash apart; no public function of it has the backward one."""
    from jax.experimental.pallas.ops.tpu.splash_attention import (
        splash_attention_kernel as lib,
    )

    def forward(q, k, v, ids):
        out, (lse,) = _over_heads(make(save_residuals=True))(q, k, v, ids)
        return out, lse

    def backward(q, k, v, ids, out, lse, d_out):
        kernel = make()
        infos = (kernel.dq_mask_info, kernel.dkv_mask_info)

        def one(q, k, v, ids, out, lse, d_out):
            residuals = (q, k, v, ids, None, out, lse, *infos)
            gradients = lib._splash_attention_bwd(
                **kernel.kwargs, res=residuals, do=d_out
            )
            return gradients[3:6]

        return _over_heads(one)(q, k, v, ids, out, lse, d_out)

    return merge.Kernel(forward, backward)
