# SPDX-License-Identifier: Apache-2.0
"""The head applied to a few tokens at a time, so that all logits never exist at once.

Hidden states times the head are V products a token, the largest array of a step. Each
device takes its own rows, a chunk of tokens after the other. The head is cast to the
dtype of the hidden states and, on a mesh, gathered before the loop; its gradient is
summed in float32 in the loop and reduced after it. Left to the partitioner both would
cross the network with every chunk.

There are two ways to a gradient. `mapped` takes any function of the products of a
token; the backward pass makes the products of each chunk once more. `total` is a sum
with weights that are known beforehand; its gradient is made in the forward pass, where
the products are (Liger, arXiv:2410.10989 section 3.2): three products with the head,
where the first way takes four.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import PartitionSpec

from alignjax.bounds import Count
from alignjax.distributed import sharding

Chunk = Count | Literal["auto"]
AXES = ("embed", "vocab")  # of a head, [D, V]


def size(chunk: Chunk, V: int) -> int:
    """Tokens of a chunk; "auto" is by memory.

    On accelerators a chunk has products of 1 GiB in 16 bits, at most 16,384 tokens: by
    fewer than about 4,096 of them the sum of gradients [D, V] would be read and written
    too often. On CPUs, whose caches hold less, it has 1,024 tokens.
    """
    if chunk != "auto":
        return chunk
    if sharding.platform() == "cpu":
        return 1024
    return min(16_384, 1 << max(10, int(math.log2(2**29 / V))))


def mapped(
    function: Callable,
    states: tuple[jax.Array, ...],
    heads: tuple[jax.Array, ...],
    arrays: tuple[jax.Array, ...],
    chunk: int,
):
    """`function` of the float32 products of each token, in chunks.

    Args:
      function: `(products, *arrays, previous) -> results`: from a tuple of products
        [C, V] and from arrays [C, ...] to a pytree of float32 [C]. In the backward pass
        `previous` are the results that it had, else None.
      states: hidden states [B, T, D] of one or more models. A gradient goes to those of
        the first model, and to its head.
      heads: [D, V], one for each of the states.
      arrays: [B, T, ...] each, without gradients.
      chunk: tokens at a time, at most.

    Returns:
      The pytree, of arrays [B, T].
    """
    B, T, _ = states[0].shape
    keep = _local(B)[1] * T <= chunk  # of a single chunk; then they exist in any case

    def forward(states, heads, arrays):
        def step(heads, parts):
            states, arrays = parts
            products = _products(states, heads)
            results = function(products, *arrays, previous=None)
            return None, (results, products if keep else None)

        return _loop(step, cast(heads), (states, arrays), chunk)[1]

    def cast(heads):
        pairs = zip(states, heads, strict=True)
        return tuple(head_DV.astype(x_BTD.dtype) for x_BTD, head_DV in pairs)

    @jax.custom_vjp
    def run(states, heads, arrays):
        return forward(states, heads, arrays)[0]

    def run_forward(states, heads, arrays):
        results, products = forward(states, heads, arrays)
        return results, (states, heads, arrays, results, products)

    def run_backward(saved, cotangents):
        def step(heads, parts):
            states, arrays, results, products, cotangents = parts
            if products is None:
                products = _products(states, heads)
            of_first = lambda product: function(
                (product, *products[1:]), *arrays, previous=results
            )
            (d_CV,) = jax.vjp(of_first, products[0])[1](cotangents)
            return _gradients(states[0], heads[0], d_CV)

        states, heads, *rest = saved
        d_head, d_x = _loop(step, cast(heads), (states, *rest, cotangents), chunk)
        nothing = (None,) * (len(heads) - 1)
        return (d_x, *nothing), (d_head.astype(heads[0].dtype), *nothing), None

    run.defvjp(run_forward, run_backward)
    return run(states, heads, arrays)


def total(
    function: Callable,
    loss: Callable,
    x_BTD: jax.Array,
    head_DV: jax.Array,
    arrays: tuple[jax.Array, ...],
    weights_BT: jax.Array,
    chunk: int,
    dtype=jnp.float32,
):
    """The sum over tokens of weights times losses, with a gradient made along the way.

    Args:
      function: `(products, *arrays) -> results`, as in `mapped`.
      loss: of results [...], float32 [...].
      x_BTD, head_DV: hidden states and the head. A gradient goes to them alone.
      arrays: [B, T, ...] each.
      weights_BT: float32, of each token.
      chunk: tokens at a time, at most.
      dtype: that products are rounded to. They are summed in float32 all the same.

    Returns:
      The total, float32, and the results, arrays [B, T] without a gradient.
    """

    cast = lambda head_DV: (head_DV.astype(x_BTD.dtype),)

    def weighted(results, weights):
        return (loss(results) * weights).sum(dtype=jnp.float32), results

    @jax.custom_vjp
    def run(x_BTD, head_DV, arrays, weights_BT):
        def step(heads, parts):
            x_CD, arrays = parts
            return None, function(_products((x_CD,), heads, dtype), *arrays)

        results = _loop(step, cast(head_DV), (x_BTD, arrays), chunk)[1]
        return weighted(results, weights_BT)

    def run_forward(x_BTD, head_DV, arrays, weights_BT):
        def step(heads, parts):
            x_CD, arrays, weights_C = parts
            of_product = lambda product: weighted(
                function((product,), *arrays), weights_C
            )
            (product,) = _products((x_CD,), heads, dtype)
            d_CV, results = jax.grad(of_product, has_aux=True)(product)
            pair, d_CD = _gradients(x_CD, heads[0], d_CV)
            return pair, (d_CD, results)

        rows = (x_BTD, arrays, weights_BT)
        d_head, (d_x, results) = _loop(step, cast(head_DV), rows, chunk)
        return weighted(results, weights_BT), (d_x, d_head.astype(head_DV.dtype))

    def run_backward(gradients, cotangents):
        scaled = lambda x: x * cotangents[0].astype(x.dtype)
        return *jax.tree.map(scaled, gradients), None, None

    run.defvjp(run_forward, run_backward)
    return run(x_BTD, head_DV, arrays, weights_BT)


def _products(states, heads, dtype=jnp.float32) -> tuple[jax.Array, ...]:
    return tuple(
        sharding.constrain(
            jnp.matmul(x_CD, head_DV, preferred_element_type=dtype), None, "vocab"
        )
        for x_CD, head_DV in zip(states, heads, strict=True)
    )


def _gradients(x_CD, head_DV, d_CV):
    """The two factors of the head's gradient, and that of the hidden states."""
    d_CV = sharding.constrain(d_CV.astype(x_CD.dtype), None, "vocab")
    return (x_CD, d_CV), jnp.matmul(d_CV, head_DV.T)


def _loop(step: Callable, heads: tuple[jax.Array, ...], rows, chunk: int):
    """`step` of each chunk, on each device the tokens of its own rows.

    Args:
      step: `(heads, parts) -> (factors, results)`: `parts` are the arrays of `rows` and
        `results` a pytree of arrays, [C, ...]; `factors` are two matrices [C, D] and
        [C, V] whose product is the gradient of the first head, or None.
      heads: [D, V].
      rows: a pytree of arrays [B, T, ...].
      chunk: C at most.

    Returns:
      The sum of the gradients, float32 [D, V] or None, and the results [B, T, ...].
    """
    B, T = jax.tree.leaves(rows)[0].shape[:2]
    axes, B_local = _local(B)
    cut = [tuple(a for a in sharding.axes_of(name) if a in axes) for name in AXES]
    N = B_local * T
    count = -(-N // chunk)
    C = -(-N // count)  # as even as can be: the padding is less than `count`

    def split(x):
        x = x.reshape(N, *x.shape[2:])
        padding = ((0, count * C - N),) + ((0, 0),) * (x.ndim - 1)
        return jnp.pad(x, padding).reshape(count, C, *x.shape[1:])

    def join(x):
        return x.reshape(count * C, *x.shape[2:])[:N].reshape(B_local, T, *x.shape[2:])

    def local(heads, rows):
        def add(sum_DV, parts):
            factors, results = step(heads, parts)
            if factors is None:
                return None, results
            x_CD, d_CV = factors
            here = jnp.matmul(x_CD.T, d_CV, preferred_element_type=jnp.float32)
            here = sharding.constrain(here, None, "vocab")
            return here if sum_DV is None else sum_DV + here, results

        parts = jax.tree.map(split, rows)
        if count == 1:
            first = jax.tree.map(lambda x: x[0], parts)
            sum_DV, results = add(None, first)
            results = jax.tree.map(lambda x: x[None], results)
        else:
            # The first chunk says whether there is a gradient, and of which shape.
            shape = jax.eval_shape(add, None, jax.tree.map(lambda x: x[0], parts))[0]
            start = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shape)
            sum_DV, results = lax.scan(add, start, parts)
        if sum_DV is not None and axes:
            sum_DV = _reduced(sum_DV, cut, axes)
        return sum_DV, jax.tree.map(join, results)

    if not axes:
        return local(heads, rows)
    heads = tuple(sharding.constrain(head_DV, None, "vocab") for head_DV in heads)
    of_head, of_rows = PartitionSpec(*(a or None for a in cut)), PartitionSpec(axes)
    run = jax.shard_map(
        local,
        in_specs=(PartitionSpec(), of_rows),
        out_specs=(of_head, of_rows),
        axis_names=set(axes if _cut_otherwise(axes) else _mesh().axis_names),
        check_vma=False,
    )
    return run(heads, rows)


def _local(B: int) -> tuple[tuple[str, ...], int]:
    """The axes of the mesh that cut a batch of B rows, and the rows of each part."""
    axes = () if _mesh().empty else sharding.axes_of("batch")
    axes = tuple(axis for axis in axes if _mesh().shape[axis] > 1)
    parts = _size(axes)
    return (axes, B // parts) if B % parts == 0 else ((), B)


def _mesh():
    return jax.sharding.get_abstract_mesh()


def _size(axes) -> int:
    """Into how many parts these axes of the mesh cut an array."""
    return math.prod(_mesh().shape[axis] for axis in axes)


def _cut_otherwise(axes) -> bool:
    """Whether other axes of the mesh, such as `tensor`, cut arrays too."""
    return _mesh().size != _size(axes)


def _reduced(sum_DV, cut, axes):
    """Of the sum over all devices along these axes, the part that this one holds."""
    rest = axes
    for dimension, along in enumerate(cut):
        if not along:
            continue
        rest = tuple(axis for axis in rest if axis not in along)
        if _cut_otherwise(axes):
            # The partitioner would gather what is cut along the other axes.
            size = sum_DV.shape[dimension] // _size(along)
            start = lax.axis_index(along) * size
            sum_DV = lax.psum(sum_DV, along)
            sum_DV = lax.dynamic_slice_in_dim(sum_DV, start, size, dimension)
        else:
            sum_DV = lax.psum_scatter(
                sum_DV, along, scatter_dimension=dimension, tiled=True
            )
    return lax.psum(sum_DV, rest) if rest else sum_DV
