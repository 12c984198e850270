# SPDX-License-Identifier: Apache-2.0
"""NEFTune (arXiv:2310.05914 Algorithm 1): noise on the embeddings while training."""

from __future__ import annotations

import jax
import jax.numpy as jnp


def lengths(segment_ids_BT, positions_BT, branches_BT=None) -> jax.Array:
    """How many tokens the sequence has that each token is of, int32 [B, T].

    That is a document, whatever else is packed into the row. A document that branches
    is as many sequences as it has branches, each with the beginning that they share;
    the beginning itself counts as part of the longest.
    """

    def same(query, key):  # one row, [T] each
        of_a_document = query[0][:, None] == key[0][None, :]
        if len(query) == 1:
            return of_a_document
        query_branch, key_branch = query[1][:, None], key[1][None, :]
        shared = (query_branch == 0) | (key_branch == 0)
        return of_a_document & (shared | (query_branch == key_branch))

    def of_row(ids, positions):
        return jnp.where(same(ids, ids), positions[None, :], -1).max(-1) + 1

    ids = (segment_ids_BT,) if branches_BT is None else (segment_ids_BT, branches_BT)
    return jax.vmap(of_row)(ids, positions_BT)


def uniform(key, alpha: float, lengths_BT, segment_ids_BT, D: int) -> jax.Array:
    """Uniform in [-1, 1] times alpha / sqrt(L D), float32 [B, T, D]; 0 at padding.

    L are the `lengths`, as in the authors' code; the length of a padded row, which some
    implementations take, would make the noise depend on what else is in the batch.
    """
    noise_BTD = jax.random.uniform(key, (*lengths_BT.shape, D), minval=-1.0)
    scale_BT = alpha * jax.lax.rsqrt(lengths_BT * float(D))
    return noise_BTD * jnp.where(segment_ids_BT == 0, 0.0, scale_BT)[..., None]
