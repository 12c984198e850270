# SPDX-License-Identifier: Apache-2.0
"""What tensors are called in Hugging Face checkpoints: a table, one line a tensor.

A module of a family has

    MODEL_TYPES     the values of `model_type` in config.json that it reads
    ARCHITECTURE    what a config.json of its own names as the model's class
    TENSORS         the table; lines of tensors that a model lacks do not count
    fields          config.json -> fields of `settings.DecoderConfig`
    config_json     and back
    KEYS            optional: our field: their key, where it is not `published.KEYS`
    IGNORED         optional: patterns of tensors in checkpoints that are no parameters
"""

from __future__ import annotations

import dataclasses
import functools
import math
import re
from collections.abc import Mapping, Sequence
from types import ModuleType
from typing import NamedTuple

import flax.linen as nn
import jax
import numpy as np

from alignjax import config, errors, registry, trees
from alignjax.models import decoder, decoder_config, families, published


class Tensor(NamedTuple):
    """One tensor of theirs and the leaf, or leaves, of ours that it is.

    Attributes:
      theirs: its name, with {layer} and {expert} for their indices.
      ours: the path of the leaf, which is stacked over layers: [L, ...], or
        [L, E, ...] with experts. A tuple of paths: they are concatenated in this order
        along the axis of their outputs.
      transposed: theirs is [out, in] and ours [in..., out...]; where it is False, they
        differ in shape only.
    """

    theirs: str
    ours: str | tuple[str, ...]
    transposed: bool = True

    @property
    def leaves(self) -> tuple[str, ...]:
        return (self.ours,) if isinstance(self.ours, str) else self.ours


def plain(theirs: str, ours: str) -> Tensor:
    """A tensor that needs no transposition: an embedding, a scale, a bias."""
    return Tensor(theirs, ours, transposed=False)


# What most families have in common.
_LAYER = "model.layers.{layer}."
OUTER = (
    plain("model.embed_tokens.weight", "embed"),
    plain("model.norm.weight", "norm/scale"),
    Tensor("lm_head.weight", "head"),
)
ATTENTION = (
    Tensor(_LAYER + "self_attn.q_proj.weight", "layers/q/kernel"),
    Tensor(_LAYER + "self_attn.k_proj.weight", "layers/k/kernel"),
    Tensor(_LAYER + "self_attn.v_proj.weight", "layers/v/kernel"),
    Tensor(_LAYER + "self_attn.o_proj.weight", "layers/o/kernel"),
    plain(_LAYER + "self_attn.q_proj.bias", "layers/q/bias"),
    plain(_LAYER + "self_attn.k_proj.bias", "layers/k/bias"),
    plain(_LAYER + "self_attn.v_proj.bias", "layers/v/bias"),
    plain(_LAYER + "self_attn.o_proj.bias", "layers/o/bias"),
)
QK_NORMS = (
    plain(_LAYER + "self_attn.q_norm.weight", "layers/q_norm/scale"),
    plain(_LAYER + "self_attn.k_norm.weight", "layers/k_norm/scale"),
)
MLP = (
    Tensor(_LAYER + "mlp.gate_proj.weight", "layers/mlp/gate/kernel"),
    Tensor(_LAYER + "mlp.up_proj.weight", "layers/mlp/up/kernel"),
    Tensor(_LAYER + "mlp.down_proj.weight", "layers/mlp/down/kernel"),
)
MLP_BIASES = (
    plain(_LAYER + "mlp.gate_proj.bias", "layers/mlp/gate/bias"),
    plain(_LAYER + "mlp.up_proj.bias", "layers/mlp/up/bias"),
    plain(_LAYER + "mlp.down_proj.bias", "layers/mlp/down/bias"),
)
NORMS_BEFORE = (
    plain(_LAYER + "input_layernorm.weight", "layers/attention_norm/scale"),
    plain(_LAYER + "post_attention_layernorm.weight", "layers/mlp_norm/scale"),
)
NORMS_AFTER = (
    plain(
        _LAYER + "post_attention_layernorm.weight", "layers/attention_post_norm/scale"
    ),
    plain(_LAYER + "post_feedforward_layernorm.weight", "layers/mlp_post_norm/scale"),
)
NORMS_AROUND = (
    plain(_LAYER + "input_layernorm.weight", "layers/attention_norm/scale"),
    plain(_LAYER + "pre_feedforward_layernorm.weight", "layers/mlp_norm/scale"),
    *NORMS_AFTER,
)


@functools.cache
def by_model_type() -> dict[str, ModuleType]:
    """The module that reads each `model_type`."""
    modules = [families.module(name) for name in families.names()]
    return {kind: module for module in modules for kind in module.MODEL_TYPES}


def reader(hf: Mapping) -> ModuleType:
    """The family of a config.json.

    Raises:
      ConfigError: none has its `model_type`.
    """
    kind, known = hf.get("model_type"), by_model_type()
    if kind not in list(known):
        raise errors.ConfigError(
            f"config.json.model_type: no family reads {kind!r}; "
            f"{registry.closest(str(kind), known)}"
        )
    return known[kind]


def in_their_words(module: ModuleType, problem: str) -> str:
    """A line about a field of ours as one about the key of config.json that it is."""
    keys = published.ELSEWHERE | getattr(module, "KEYS", published.KEYS)
    name = lambda found: keys.get(found[0], found[0])
    line = re.sub(r"\b\w+(?=: | = )", name, problem.removeprefix("model."))
    return f"config.json.{line}"


def shapes(c: decoder_config.DecoderConfig) -> dict[str, tuple[int, ...]]:
    """Path and shape of each parameter of a model, adapters and scores left out."""
    c = dataclasses.replace(c, **published.without_extras())
    model = decoder.build(c)
    abstract = jax.eval_shape(lambda key: nn.unbox(model.init(key)), jax.random.key(0))
    return {path: leaf.shape for path, leaf in trees.named_leaves(abstract).items()}


def tensors(module: ModuleType, c: decoder_config.DecoderConfig) -> tuple[Tensor, ...]:
    """The lines of a family's table that a model has.

    Raises:
      ConfigError: the model has a parameter that the family's checkpoints have no
        tensor for.
    """
    paths = set(shapes(c))
    found = tuple(t for t in module.TENSORS if paths.issuperset(t.leaves))
    if missing := paths - {path for t in found for path in t.leaves}:
        raise errors.ConfigError(
            f"model: checkpoints of {module.ARCHITECTURE} have no tensor for "
            f"{', '.join(sorted(missing))}"
        )
    return found


def config_json(module: ModuleType, c: decoder_config.DecoderConfig) -> dict:
    """The config.json of a model, which says all that the model computes.

    Raises:
      ConfigError: a field that the family's config.json cannot say.
    """
    c = dataclasses.replace(c, max_length=c.context or c.max_length)
    hf = module.config_json(c)
    said = config.build(decoder_config.DecoderConfig, module.fields(hf), "config.json")
    ours, theirs = published.architecture(c), published.architecture(said)
    problems = [
        f"model.{name}: {value!r} cannot be said in the config.json of "
        f"{module.ARCHITECTURE}, which would be read as {theirs[name]!r}"
        for name, value in ours.items()
        if value != theirs[name]
    ]
    if problems:
        raise errors.ConfigError(problems)
    return hf


def to_ours(
    tensor: Tensor, theirs: np.ndarray, leaves: Sequence[tuple[int, ...]]
) -> list[np.ndarray]:
    """The arrays of one layer that a tensor is, of the shapes `leaves`; views of it.

    Raises:
      ValueError: it has another number of elements.
    """
    matrix = theirs.T if tensor.transposed else theirs
    inputs = 1 if matrix.ndim == 1 or len(leaves) == 1 else matrix.shape[0]
    widths = [math.prod(shape) // inputs for shape in leaves]
    if sum(widths) * inputs != matrix.size:
        raise ValueError(f"{tensor.theirs}: {theirs.shape} is not {list(leaves)}")
    if len(leaves) == 1:
        return [matrix.reshape(leaves[0])]
    parts = np.split(matrix, np.cumsum(widths)[:-1], axis=-1)
    return [part.reshape(shape) for part, shape in zip(parts, leaves, strict=True)]


def to_theirs(
    tensor: Tensor, ours: Sequence[np.ndarray], shape: tuple[int, ...]
) -> np.ndarray:
    """The tensor of a `shape` that the arrays of one layer are."""
    inner = shape[::-1] if tensor.transposed else shape
    if len(ours) > 1:
        flat = [x.reshape(*inner[:-1], -1) for x in ours]
        matrix = np.concatenate(flat, axis=-1)
    else:
        matrix = ours[0].reshape(inner)
    return matrix.T if tensor.transposed else matrix
