# SPDX-License-Identifier: Apache-2.0
"""Attention over several sets of keys, each by a kernel of its own, merged exactly.

With outputs o_i and log-sum-exps l_i of the parts, the softmax over all their keys has
l = log sum_i exp l_i and o = sum_i exp(l_i - l) o_i. The backward pass of a flash
kernel (arXiv:2307.08691 section 3.1.2) recomputes the weights of a part as
p = exp(s - l), s the scaled products of queries and keys, and with d_o the cotangent
of o

    dv = p' d_o,    ds = p * (d_o v' - d_o . o),    dq = ds k,    dk = ds' q

which is right for a part where the kernel is handed the merged o and l, and wrong with
the part's own. Differentiating the merge itself would be wrong too: kernels drop the
cotangent of their log-sum-exp without a word, `jax.nn.dot_product_attention` also.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp


class Kernel(NamedTuple):
    """Both passes of a kernel, over one part of the keys.

    Attributes:
      forward: `(q, k, v, part) -> (out, lse)`, the output [..., T, H] and the
        log-sum-exp, float32 [..., T]; where a query sees nothing it is very low.
      backward: `(q, k, v, part, out, lse, d_out) -> (dq, dk, dv)`.
    """

    forward: Callable
    backward: Callable


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def attend(kernel: Kernel, parts: tuple[Any, ...], q, k, v) -> jax.Array:
    """Attention of queries to the keys of all parts; no key may be in two of them.

    Args:
      kernel: computes one part.
      parts: pytrees of integers that say which keys each query sees, such as segment
        ids; every query sees a key of at least one.
      q, k, v: as the kernel takes them.
    """
    return _forward(kernel, parts, q, k, v)[0]


def _forward(kernel, parts, q, k, v):
    outs, lses = zip(*(kernel.forward(q, k, v, part) for part in parts), strict=True)
    lse = functools.reduce(jnp.logaddexp, lses)
    share = lambda part_lse: jnp.exp(part_lse - lse)[..., None]
    whole = sum(share(x) * out for x, out in zip(lses, outs, strict=True))
    out = whole.astype(outs[0].dtype)
    return out, (parts, q, k, v, out, lse)


def _backward(kernel, residuals, d_out):
    parts, q, k, v, out, lse = residuals
    gradients = [kernel.backward(q, k, v, part, out, lse, d_out) for part in parts]
    return (None, *(sum(of_parts) for of_parts in zip(*gradients, strict=True)))


attend.defvjp(_forward, _backward)
