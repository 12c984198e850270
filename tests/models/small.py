# SPDX-License-Identifier: Apache-2.0
"""A decoder that compiles in a moment, away from its initial values."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from alignjax import models, trees
from alignjax.models import quantized
from alignjax.types import Sequences
from tests import rows

V, T = 61, 24
SMALL = dict(family="llama", name="nano", d_model=32, layers=2, d_ff=48, max_length=64)


def initial(model):
    """What the model itself begins with; takes seconds to compile."""
    return jax.jit(lambda key: nn.unbox(model.init(key)))(jax.random.key(0))


def make(**fields):
    """A model and parameters: norms are not ones, biases and adapters not zeros."""
    model = models.build({**SMALL, **fields}, V)
    abstract = jax.eval_shape(model.init, jax.random.key(0))

    def draw(name, leaf):
        values = 0.1 * np.random.default_rng(leaf.size).normal(size=leaf.shape)
        return jnp.asarray(values + name.endswith("scale"), leaf.dtype)

    return model, trees.map_with_name(draw, nn.unbox(abstract))


def one_document(B=2, length=T, seed=0) -> Sequences:
    docs = np.random.default_rng(seed).integers(0, V, (B, length + 1)).astype(np.int32)
    return rows.unpacked(list(docs), length)


def quantised(params, kernels, kind, *, widened=False):
    """`params` with the parts of their `kernels`, or with the float32 of these."""
    leaves = {}
    for name, leaf in trees.named_leaves(params).items():
        if name not in kernels:
            leaves[name] = leaf
        elif widened:
            leaves[name] = quantized.rounded(leaf, kind)
        else:
            parts = quantized.quantise(np.asarray(leaf, np.float32), kind)
            owner = name.removesuffix("kernel")
            leaves |= {f"{owner}{part}": x for part, x in parts.items()}
    return trees.nest(leaves)
