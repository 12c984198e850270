# SPDX-License-Identifier: Apache-2.0
"""One model's parameters, and their gradients, under the names of transformers' Llama.

The maps only transpose and cut, so that gradients go the way that parameters go.
"""

from __future__ import annotations

from typing import Any

import jax
import numpy as np

from alignjax import models
from alignjax.types import Model
from tools.crosscheck import task

# Of a layer: our name, transformers', and how many leading axes of a kernel are inputs.
LAYER = {
    "attention_norm/scale": ("input_layernorm", 0),
    "q/kernel": ("self_attn.q_proj", 1),
    "k/kernel": ("self_attn.k_proj", 1),
    "v/kernel": ("self_attn.v_proj", 1),
    "o/kernel": ("self_attn.o_proj", 2),
    "mlp_norm/scale": ("post_attention_layernorm", 0),
    "mlp/gate/kernel": ("mlp.gate_proj", 1),
    "mlp/up/kernel": ("mlp.up_proj", 1),
    "mlp/down/kernel": ("mlp.down_proj", 1),
}
WHOLE = {
    "embed": ("model.embed_tokens", 0),
    "norm/scale": ("model.norm", 0),
    "head": ("lm_head", 1),
    "score/kernel": ("score", 1),
}


def model(score_heads: int = 0) -> Model:
    """The decoder of `task`, in float32."""
    section = dict(family="llama", name="nano", dtype="float32", tied=False)
    section |= dict(norm_epsilon=task.EPSILON, rope_theta=task.THETA)
    section |= dict(score_heads=score_heads, **task.SIZES)
    return models.build(section, task.VOCAB)


def parameters(model: Model, seed: int, like: Any = None, scale: float = 1.0) -> Any:
    """Random ones of about the size of trained ones; or those of `like`, disturbed.

    Args:
      like: parameters of the same model.
      scale: of what is added to them, in standard deviations of a fresh model's.
    """
    key = jax.random.key(seed)
    leaves, tree = jax.tree.flatten(shapes(model))
    keys = jax.random.split(key, len(leaves))
    draw = lambda k, x: jax.random.normal(k, x.shape) * _spread(x.shape)
    noise = jax.tree.unflatten(tree, map(draw, keys, leaves))
    if like is not None:
        return jax.tree.map(lambda x, n: x + scale * n, like, noise)
    start = jax.jit(_unboxed(model))(key)
    # Norms are not all ones; matrices are larger than at the start of training, so that
    # log-probabilities and their differences are of the size that they are later.
    return jax.tree.map(lambda x, n: n if x.ndim > 2 else x + n, start, noise)


def shapes(model: Model) -> Any:
    """Of its parameters; nothing is computed."""
    return jax.eval_shape(_unboxed(model), jax.random.key(0))


def to_transformers(params: Any) -> dict[str, np.ndarray]:
    """The same numbers by transformers' names; of parameters or of gradients."""
    named = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        leaf = np.asarray(leaf)
        inside = name.removeprefix("layers/")
        if inside != name:
            module, inputs = LAYER[inside]
            for i, x in enumerate(leaf):
                named[f"model.layers.{i}.{module}.weight"] = _matrix(x, inputs)
        else:
            module, inputs = WHOLE[name]
            named[f"{module}.weight"] = _matrix(leaf, inputs)
    return named


def _matrix(x: np.ndarray, inputs: int) -> np.ndarray:
    """A kernel as [outputs, inputs]; what is no kernel stays as it is."""
    if inputs == 0:
        return x
    rows = int(np.prod(x.shape[:inputs]))
    return np.ascontiguousarray(x.reshape(rows, -1).T)


def _spread(shape) -> float:
    return 0.3 if len(shape) == 2 and min(shape) > 2 else 0.15


def _unboxed(model: Model):
    import flax.linen as nn

    return lambda key: nn.unbox(model.init(key))
