# SPDX-License-Identifier: Apache-2.0
"""Runs of rows, each multiplied with a matrix of its own: [M, D] by [E, D, F].

`jax.lax.ragged_dot` is that, and on accelerators it is what is used. On CPUs it would
multiply all rows with all matrices and put zeros in between; there the runs are cut
into blocks instead, each of rows of one matrix.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import lax


def multiply(x_MD: jax.Array, kernels_EDF: jax.Array, sizes_E: jax.Array) -> jax.Array:
    """Row m times the matrix of its run, [M, F], in the dtype of x.

    Args:
      x_MD: the rows, in runs one after the other.
      kernels_EDF: a matrix for each run.
      sizes_E: int32, rows of each run, perhaps 0. What rows beyond the last run become
        is not said.
    """
    if jax.default_backend() == "cpu":
        return in_blocks(x_MD, kernels_EDF, sizes_E)
    return lax.ragged_dot(x_MD, kernels_EDF, sizes_E)


def in_blocks(x_MD, kernels_EDF, sizes_E, size: int | None = None) -> jax.Array:
    """As `multiply`: one batched product, and copies of the matrices as it needs them.

    Blocks are of `size` rows, by default half of what a run has on average, so that at
    most a third of the rows are padding.
    """
    M, E = len(x_MD), len(kernels_EDF)
    size = size or max(8, M // (2 * E))
    count = M // size + E  # each run may end with a block that is not full
    ends_E, last_E = jnp.cumsum(sizes_E), jnp.cumsum(-(-sizes_E // size))
    starts_E, first_E = ends_E - sizes_E, last_E - (-(-sizes_E // size))
    run_of = lambda n, ends: jnp.minimum((ends <= n[..., None]).sum(-1), E - 1)
    # Row m of run e lies in the blocks at m + shift.
    shift_E = first_E * size - starts_E
    run_C = run_of(jnp.arange(count), last_E)
    row_CR = jnp.arange(count * size).reshape(count, size) - shift_E[run_C][:, None]
    full_CR = row_CR < ends_E[run_C][:, None]
    row_CR = jnp.clip(row_CR, 0, M - 1)
    x_CRD = jnp.where(full_CR[..., None], x_MD[row_CR], 0)
    y_CRF = jnp.einsum("CRD,CDF->CRF", x_CRD, kernels_EDF[run_C])
    m = jnp.arange(M)
    return y_CRF.reshape(count * size, -1)[m + shift_E[run_of(m, ends_E)]]
