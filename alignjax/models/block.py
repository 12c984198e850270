# SPDX-License-Identifier: Apache-2.0
"""One layer of a decoder: attention, then the MLP, each added to its input.

The layers of some models differ: some have a window, and perhaps rotations of their
own. In a scan over layers that is a value known only while it runs.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from alignjax.distributed import sharding
from alignjax.models import (
    attention,
    decoder_config,
    kv_cache,
    layers,
    moe,
    projection,
    rope,
)
from alignjax.models.attention import plain


class ByLayer(NamedTuple):
    """An input of layers without a window, and of those with one where it differs."""

    far: Any
    near: Any = None

    def of(self, windowed):
        """The input of one layer; `windowed` is a bool, or an array of one."""
        if self.near is None:
            return self.far
        if isinstance(windowed, bool):
            return self.near if windowed else self.far
        choose = lambda near, far: jnp.where(windowed, near, far)
        return jax.tree.map(choose, self.near, self.far)


class Shared(NamedTuple):
    """Inputs that all layers share: segments for whole rows, mask and slot for a cache.

    Attributes:
      rotations: cosines and sines; None for learned positions.
      rows: which tokens of whole rows see which.
      mask: bool [B, T, S], the slots of the cache that a query sees.
      slot: int32, of the cache, for the first of the T tokens; see `kv_cache`.
      counts: bool [B, T], the tokens whose routing to experts is summed up.
    """

    rotations: ByLayer | None = None
    rows: attention.rows.Rows | None = None
    mask: ByLayer | None = None
    slot: Any = None
    counts: Any = None


def windowed(c: decoder_config.DecoderConfig, layer):
    """Whether a layer has the window: a bool, or an array where `layer` is one."""
    flags = c.layers_with_window if c.window else (False,)
    if len(set(flags)) == 1:
        return flags[0]
    if isinstance(layer, int):
        return flags[layer]
    return jnp.asarray(flags)[layer]


class Block(nn.Module):
    """Attention, then the MLP, each with norms and added to its input.

    Attributes:
      config, train: of the decoder.
      layer: its index, where that is known when the program is traced.
    """

    config: decoder_config.DecoderConfig
    train: bool
    layer: int | None = None

    @nn.compact
    def __call__(self, carry, layer: jax.Array, shared: Shared):
        """The carry, (x_BTD, keys and values of the cache or None), after the layer.

        Beside it the `types.Routing` of `shared.counts`, or None.
        """
        x_BTD, kv = carry
        c = self.config
        before, after = c.norm_placement != "post", c.norm_placement != "pre"
        norm = lambda name, x, here: self._norm(name)(x) if here else x
        dropout = nn.Dropout(c.dropout, deterministic=not self.train)
        add = lambda x, y: sharding.constrain(x + dropout(y), "batch", "seq", None)

        h_BTD = norm("attention_norm", x_BTD, before)
        y_BTD, kv = self._attention(h_BTD, kv, layer, shared)
        x_BTD = add(x_BTD, norm("attention_post_norm", y_BTD, after))
        y_BTD, routing = self._mlp(norm("mlp_norm", x_BTD, before), shared.counts)
        x_BTD = add(x_BTD, norm("mlp_post_norm", y_BTD, after))
        return (x_BTD, kv), routing

    def _norm(self, name: str):
        c = self.config
        return layers.Norm(c.norm, c.norm_epsilon, "embed", c.norm_offset, name=name)

    @property
    def _out_std(self) -> float:
        return self.config.init_std * (2 * self.config.layers) ** -0.5

    def _mlp(self, x_BTD, counts_BT):
        """The output of the MLP or of the experts, and the routing."""
        c, lora = self.config, self.config.lora(self.train)
        common = dict(activation=c.activation, std=c.init_std, out_std=self._out_std)
        if not c.experts:
            mlp = layers.MLP(
                c.d_ff, use_bias=c.mlp_bias, lora=lora, **common, name="mlp"
            )
            return mlp(x_BTD), None
        counts = (c.experts, c.experts_per_token, c.size_of_expert)
        experts = moe.Experts(*counts, normalised=c.norm_topk, **common, name="moe")
        return experts(x_BTD, counts_BT)

    def _attention(self, h_BTD, kv, layer, shared: Shared):
        """The output of attention, and the cache with its keys and values."""
        c = self.config
        has_window = windowed(c, layer if self.layer is None else self.layer)
        q_BTNH, k_BTKH, v_BTKH = self._heads(h_BTD, shared, has_window)
        options = dict(softcap=c.attention_softcap, scale=c.attention_scale)
        if kv is None:
            options |= dict(window=c.window, windowed=has_window)
            # To make parameters takes no kernel, and rows of one token.
            backend = "xla" if self.is_initializing() else c.attention
            inputs = (q_BTNH, k_BTKH, v_BTKH, shared.rows)
            out_BTNH = attention.run(backend, *inputs, **options)
        else:
            kv = kv_cache.write(kv, layer, shared.slot, k_BTKH, v_BTKH)
            q_BNTH, mask_BTS = plain.heads_first(q_BTNH), shared.mask.of(has_window)
            k_BKSH, v_BKSH = kv_cache.read(kv, layer)
            out_BNTH = plain.masked(q_BNTH, k_BKSH, v_BKSH, mask_BTS, **options)
            out_BTNH = plain.heads_first(out_BNTH)
        project = projection.Projection(
            (c.d_model,),
            ("heads", "head_dim", "embed"),
            contract=2,
            std=self._out_std,
            use_bias=c.attention_bias == "all",
            lora=c.lora(self.train),
            name="o",
        )
        return project(out_BTNH), kv

    def _heads(self, h_BTD, shared: Shared, has_window):
        """Queries, keys and values, normalised and rotated."""
        c = self.config
        project = lambda name, heads, axis: projection.Projection(
            (heads, c.size_of_head),
            ("embed", axis, "head_dim"),
            std=c.init_std,
            use_bias=c.attention_bias != "none",
            lora=c.lora(self.train),
            name=name,
        )(h_BTD)
        q_BTNH = project("q", c.heads, "heads")
        k_BTKH = project("k", c.num_kv_heads, "kv_heads")
        v_BTKH = project("v", c.num_kv_heads, "kv_heads")
        if c.qk_norm is not None:
            q_BTNH = self._qk_norm("q_norm", q_BTNH, "heads")
            k_BTKH = self._qk_norm("k_norm", k_BTKH, "kv_heads")
        if shared.rotations is not None:
            rotations = shared.rotations.of(has_window)
            q_BTNH = rope.rotate(q_BTNH, rotations)
            k_BTKH = rope.rotate(k_BTKH, rotations)
        return q_BTNH, k_BTKH, v_BTKH

    def _qk_norm(self, name: str, x_BTNH, heads: str):
        c = self.config
        axis = "head_dim" if c.qk_norm == "head" else heads
        norm = layers.Norm("rmsnorm", c.norm_epsilon, axis, c.norm_offset, name=name)
        if c.qk_norm == "head":
            return norm(x_BTNH)
        return norm(x_BTNH.reshape(*x_BTNH.shape[:2], -1)).reshape(x_BTNH.shape)
