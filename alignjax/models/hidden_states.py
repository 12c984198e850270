# SPDX-License-Identifier: Apache-2.0
"""The hidden states after every layer, for whoever compares two models."""

from __future__ import annotations

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp

from alignjax import errors
from alignjax.models import block, decoder, decoder_config
from alignjax.types import Params, Sequences


@functools.lru_cache(maxsize=4)
def reader(c: decoder_config.DecoderConfig) -> Callable[[Params, Sequences], jax.Array]:
    """A compiled (params, rows) -> float32 [L + 1, B, T, D].

    First the embeddings, then what each layer leaves, before the norm at the end.

    Raises:
      ConfigError: where it is called with branches, which are for training.
    """

    def run(self, rows: Sequences):
        if rows.branches is not None:
            raise errors.ConfigError("states: rows with branches are not read")
        long_BT1 = self._is_long(rows.segment_ids, rows.positions, None)
        rotations = self._rotations(rows.positions, long_BT1)
        shared = block.Shared(rotations, rows.segment_ids)
        x_BTD = self._embed(rows.inputs, rows.positions)
        one = block.Block(c, train=False, parent=None)

        def layer(x_BTD, at):
            params, i = at
            carry = (x_BTD, None)
            (x_BTD, _), _ = one.apply({"params": params}, carry, i, shared)
            return x_BTD, x_BTD

        layers = (self.layers.variables["params"], self._indices())
        _, after_LBTD = jax.lax.scan(layer, x_BTD, layers)
        return jnp.concatenate([x_BTD[None], after_LBTD]).astype(jnp.float32)

    model = decoder.Decoder(c)
    return jax.jit(lambda p, rows: model.apply({"params": p}, rows, method=run))
