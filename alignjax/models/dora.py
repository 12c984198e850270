# SPDX-License-Identifier: Apache-2.0
"""DoRA (arXiv:2402.09353): the magnitude of each output apart from its direction.

Eq. 5 is W' = m (W + s A B) / |W + s A B|, norms over the inputs of each output, and m
begins as |W|. What is learned here is m - |W|, which begins as zero: then what W is
multiplied with is exactly 1 at first, however a device sums, and no optimizer without
weight decay can tell the difference.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import lax


def norm(kernel_IO: jax.Array) -> jax.Array:
    """float32 [O], of the inputs of each output; 1 where all are zero."""
    norm_O = jnp.sqrt(jnp.square(kernel_IO.astype(jnp.float32)).sum(0))
    return jnp.where(norm_O == 0, 1.0, norm_O)


def stretch(
    kernel_IO: jax.Array, a_IR: jax.Array, b_RO: jax.Array, m_O: jax.Array, scale: float
) -> jax.Array:
    """float32 [O], m' / |W + s A B| where m' = |W| + m_O, of float32 arrays.

    The norm counts as constant in the backward pass, as in section 4.3; a gradient goes
    to `m_O` alone. The sum W + s A B is not made: its squared norm is that of W times
    1 + e, and e follows from A^T W and A^T A.
    """
    kernel_IO, a_IR, b_RO = lax.stop_gradient((kernel_IO, a_IR, b_RO))
    norm_O = norm(kernel_IO)
    dot = lambda x, y: jnp.matmul(x, y, precision="highest")
    mixed_O = (b_RO * dot(a_IR.T, kernel_IO)).sum(0)
    square_O = (b_RO * dot(dot(a_IR.T, a_IR), b_RO)).sum(0)
    e_O = (2 * scale * mixed_O + scale**2 * square_O) / jnp.square(norm_O)
    # Only rounding could make it less, where adapters undo all of W.
    share_O = jnp.maximum(1 + e_O, jnp.finfo(jnp.float32).eps)
    return (1 + m_O / norm_O) / jnp.sqrt(share_O)
