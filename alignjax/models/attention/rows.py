# SPDX-License-Identifier: Apache-2.0
"""Which tokens of a row see which; rows made longer, and shared out over devices."""

from __future__ import annotations

from typing import Any, NamedTuple

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp


class Branches(NamedTuple):
    """The branches of segments, `types.Sequences.branches`, and document positions.

    Both are int32 [B, T]. Between two tokens of a row may lie another branch, so their
    distance is the difference of their positions.
    """

    ids: Any
    positions: Any


@flax.struct.dataclass
class Rows:
    """What decides which keys a query sees: see the fields of `types.Sequences`.

    Attributes:
      segment_ids: int32 [B, T].
      branches: or None where no document has any.
      one_document: whether each row is one document and padding after it. Then
        causality alone keeps them apart, and kernels need no mask.
    """

    segment_ids: Any
    branches: Branches | None = None
    one_document: bool = flax.struct.field(pytree_node=False, default=False)


def causal_mask(query: Rows, key: Rows, offset: int, window: int | None):
    """bool [B, T, S], true where query t + offset sees key s, of the same rows.

    That is of its segment, not after it, fewer than `window` positions back, and with
    branches shared or of its own branch.
    """
    t = offset + jnp.arange(query.segment_ids.shape[1])[:, None]
    s = jnp.arange(key.segment_ids.shape[1])[None, :]
    in_row = query.branches is None
    near = s <= t if window is None or not in_row else (s <= t) & (t - s < window)
    mask = near & (query.segment_ids[:, :, None] == key.segment_ids[:, None, :])
    return mask if in_row else mask & _branch_mask(query.branches, key.branches, window)


def _branch_mask(query: Branches, key: Branches, window: int | None):
    t, s = (lambda x: x[:, :, None]), (lambda x: x[:, None, :])
    mask = (s(key.ids) == 0) | (s(key.ids) == t(query.ids))
    if window is not None:
        mask &= t(query.positions) - s(key.positions) < window
    return mask


def padded(attend, multiple: int):
    """`attend` on rows of a multiple of this many tokens: more padding at their end."""

    def run(q_BTNH, k_BTKH, v_BTKH, rows: Rows):
        inputs, T = (q_BTNH, k_BTKH, v_BTKH, rows), q_BTNH.shape[1]
        if not (more := -T % multiple):
            return attend(*inputs)
        pad = lambda x: jnp.pad(x, [(0, 0), (0, more)] + [(0, 0)] * (x.ndim - 2))
        return attend(*jax.tree.map(pad, inputs))[:, :T]

    return run


def on_each_device(attend):
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
