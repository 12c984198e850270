# SPDX-License-Identifier: Apache-2.0
"""What layers keep for the backward pass, and the policy that fits in memory."""

from __future__ import annotations

import dataclasses
import functools
import math
from typing import NamedTuple

import jax

from alignjax.distributed import sharding
from alignjax.models import decoder, decoder_config
from alignjax.types import Sequences

UNROLLED = 32  # layers at most; compilation takes as many times longer
SHARE = 0.8  # of free memory; the rest is for logits and 16-bit copies of weights
# A loop clears and copies the arrays in which it stacks what it keeps: the step of a
# Llama 1B without remat takes 31.3 GiB in one, 24.0 unrolled.
LOOP = 1.3


class Choice(NamedTuple):
    """How a model computes on some devices.

    Attributes:
      config: of the model, without "auto".
      nbytes: an estimate of what the layers keep, on each device.
      free: bytes that there were for it.
    """

    config: decoder_config.DecoderConfig
    nbytes: int
    free: int


def choose(
    c: decoder_config.DecoderConfig,
    sequences: Sequences,
    rows: int,
    *,
    platform: str,
    free: int,
    parts: int = 1,
) -> Choice:
    """`remat` and `unroll` where they are "auto"; other values stay.

    The first policy in the order of `decoder.REMAT_POLICIES` that fits, or the last.
    Layers are unrolled on GPUs, where a loop costs a quarter of a step to stack and
    copy what it keeps; TPUs alias the stacks, and on CPUs compilation counts more.

    Args:
      c: of the model.
      sequences: like those that it reads, [..., T] of any number of rows.
      rows: of a microbatch, on each device.
      platform: "cpu", "gpu" or "tpu".
      free: bytes of a device beside parameters, gradient and optimizer's state.
      parts: into which the ambient mesh cuts a batch. That other axes of it cut layers
        is not counted.
    """
    unroll = c.unroll
    if unroll == "auto":
        unroll = c.layers if platform == "gpu" and c.layers <= UNROLLED else 1
    policies = list(decoder.REMAT_POLICIES) if c.remat == "auto" else [c.remat]
    chosen = dataclasses.replace(c, remat=policies[0], unroll=unroll)
    nbytes = _at_most(chosen) * rows * sequences.inputs.shape[-1]
    if nbytes <= SHARE * free:  # then there is nothing to weigh
        return Choice(chosen, nbytes, free)
    for remat in policies:
        chosen = dataclasses.replace(chosen, remat=remat)
        nbytes = kept_bytes(chosen, sequences, rows, parts)
        if nbytes <= SHARE * free:
            break
    return Choice(chosen, nbytes, free)


def _at_most(c: decoder_config.DecoderConfig) -> int:
    """Bytes of a token that no policy exceeds: twice what float32 layers keep."""
    heads = (c.heads + 2 * c.num_kv_heads) * c.size_of_head
    inner = (
        c.experts_per_token * (c.size_of_expert + c.d_model) if c.experts else c.d_ff
    )
    return 4 * c.layers * (30 * c.d_model + 12 * heads + 12 * inner)


def kept_bytes(
    c: decoder_config.DecoderConfig, sequences: Sequences, rows: int, parts: int = 1
) -> int:
    """Bytes that all layers keep, and those of one that is computed once more.

    Args:
      c: without "auto".
      sequences, rows, parts: as of `choose`.
    """
    shape = jax.tree.map(lambda x: (x.shape[-1], x.dtype), sequences)
    # As many layers as there are kinds of them, so that others have the same figure.
    n = len(c.window_pattern)
    few = lambda c: dataclasses.replace(c, layers=n, unroll=n)
    of_layer = lambda c: _layer_bytes(few(c), shape, parts, sharding.platform())
    row = c.layers * of_layer(c)
    if c.unroll < c.layers:
        row *= LOOP
    if c.remat != "none":
        row += of_layer(dataclasses.replace(c, remat="none"))
    return int(rows * row)


@functools.cache
def _layer_bytes(
    c: decoder_config.DecoderConfig, sequences: Sequences, parts: int, platform: str
) -> int:
    """Bytes that a layer keeps of a row, by tracing gradients.

    Args:
      c: of one layer of each kind.
      sequences: the length and the dtype of each of their arrays.
      parts: into which the ambient mesh cuts a batch.
      platform: of the ambient mesh, which decides on kernels.
    """
    del platform
    key = jax.eval_shape(lambda: jax.random.key(0))

    def more(layers: int) -> int:
        """Bytes that twice as many rows take more."""
        model = decoder.build(dataclasses.replace(c, layers=layers, unroll=layers))
        params = decoder.abstract(model)

        def residuals(params, rows, key):
            return jax.vjp(lambda params: model.hidden(params, rows, key), params)[1]

        def nbytes(B: int) -> int:
            array = lambda x: jax.ShapeDtypeStruct((B, x[0]), x[1])
            rows = jax.tree.map(array, sequences, is_leaf=lambda x: type(x) is tuple)
            kept = jax.tree.leaves(jax.eval_shape(residuals, params, rows, key))
            return sum(math.prod(x.shape) * x.dtype.itemsize for x in kept)

        return nbytes(2 * parts) - nbytes(parts)

    # Parameters are kept as often with one row as with two, and what is before and
    # after the layers as often with some of each kind as with twice as many.
    return (more(2 * c.layers) - more(c.layers)) // (c.layers * parts)
