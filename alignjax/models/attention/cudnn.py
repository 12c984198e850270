# SPDX-License-Identifier: Apache-2.0
"""cuDNN's fused attention: bfloat16 or float16, on NVIDIA GPUs from Ampere on."""

from __future__ import annotations

import functools

import jax

from alignjax.models.attention import rows as rows_lib

# jax refuses to differentiate odd lengths, and rows of 16 bytes are what cuDNN likes.
MULTIPLE = 8


def attend(
    q_BTNH,
    k_BTKH,
    v_BTKH,
    rows: rows_lib.Rows,
    *,
    window,
    softcap=None,
    scale=None,
    implementation: str = "cudnn",
):
    """A backend; see `attention`.

    Rows of one document take the causal kernel. Others take the one with a mask, as
    [B, 1, T, T] in 16 bits, which is read once more in each pass.

    Args:
      implementation: of `jax.nn.dot_product_attention`; "xla" computes the same on any
        platform, for tests.
    """
    del softcap  # refused by `attention.problem`
    kernel = functools.partial(
        _kernel, window=window, scale=scale, implementation=implementation
    )
    kernel = rows_lib.padded(kernel, MULTIPLE)
    return rows_lib.on_each_device(kernel)(q_BTNH, k_BTKH, v_BTKH, rows)


# Not jitted by itself: on a mesh the compiler for GPUs crashes on a program within it.
def _kernel(
    q_BTNH, k_BTKH, v_BTKH, rows: rows_lib.Rows, *, window, scale, implementation
):
    mask_B1TS = near = None
    if rows.branches is not None:  # whose windows are of positions, not of places
        mask_B1TS = rows_lib.causal_mask(rows, rows, 0, window)[:, None]
    else:
        if not rows.one_document:
            ids = rows.segment_ids
            mask_B1TS = ids[:, None, :, None] == ids[:, None, None, :]
        # In jax's terms: so many keys to the left, the query's own not counted.
        near = None if window is None else (window - 1, 0)
    return jax.nn.dot_product_attention(
        q_BTNH,
        k_BTKH,
        v_BTKH,
        mask=mask_B1TS,
        scale=scale,
        is_causal=True,
        local_window_size=near,
        implementation=implementation,
    )
