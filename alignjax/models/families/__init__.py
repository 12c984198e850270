# SPDX-License-Identifier: Apache-2.0
"""Families of models, one declarative file each, and the record that a file fills in.

A family is a handful of defaults of `DecoderConfig`, its published sizes, the names of
its tensors, and what its config.json says; `huggingface.config_json` interprets the
latter. To add one, write a file here whose `FAMILY` is such a record.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from alignjax import errors, registry
from alignjax.models import tensor_names

# Field of `DecoderConfig`: its key in config.json, in most families.
KEYS = dict(
    vocab_size="vocab_size",
    d_model="hidden_size",
    layers="num_hidden_layers",
    heads="num_attention_heads",
    kv_heads="num_key_value_heads",
    head_dim="head_dim",
    d_ff="intermediate_size",
    max_length="max_position_embeddings",
    norm_epsilon="rms_norm_eps",
    tied="tie_word_embeddings",
)
# Defaults that most classes of transformers have for absent keys.
ABSENT = dict(
    num_key_value_heads=None,
    head_dim=None,
    rms_norm_eps=1e-6,
    rope_theta=10_000.0,
    tie_word_embeddings=False,
)
ABSENT_ROUTER = dict(output_router_logits=False, router_aux_loss_coef=0.001)
UNTIED = dict(tied=False, dtype="bfloat16")  # of most published sizes
# Values of config.json for activations of gated MLPs. Exports use the first name of
# each; GELU is exact where it is called just that.
GATED = {
    "silu": "swiglu",
    "swish": "swiglu",
    "gelu": "geglu_exact",
    "gelu_pytorch_tanh": "geglu",
    "gelu_new": "geglu",
}
# Of families whose class has, or lacks, biases whatever this key says.
NO_BIASES = {"attention_bias": (False, None)}


class Windows(NamedTuple):
    """Which layers have the sliding window, where `layer_types` does not list them.

    Attributes:
      has_window: `(layer, number) -> bool`, from the whole number under `key`.
      key, absent, least: of that number, its default and its minimum; None where the
        rule needs none.
      gated: whether there are windows only if `use_sliding_window` is true.
      listed: whether the family's class reads `layer_types`.
    """

    has_window: Callable[[int, int], bool]
    key: str | None = None
    absent: int = 0
    least: int = 1
    gated: bool = False
    listed: bool = True


class Family(NamedTuple):
    """A family, as fields of `decoder_config.DecoderConfig` and keys of config.json.

    A key that takes a conversion is read where `absent` lists it: `rope_theta` and
    `partial_rotary_factor`, `attention_bias`, `query_pre_attn_scalar`, and
    `router_aux_loss_coef`.

    Attributes:
      name: of the family and of its file.
      defaults: fields that all sizes share.
      sizes: `{name: fields}`.
      model_types: values of `model_type`; exports have the first.
      architecture: the class that exports name.
      tensors: the tensors of a checkpoint; lines whose parameters a model does not
        have are left out.
      absent: `{key: value}`, the defaults of the class in transformers.
      keys: `{field: key}` of values that are copied.
      activation: keys of the activation: the first is read, all are written.
      activations: `{value of that key: activation}`; the first is its default.
      fixed: `{key: values}` of keys that may have no other value.
      constants: `{key: value}` of keys that every export has.
      ignored: keys that change nothing that is computed.
      windows: the rule for windows, of families in which layers differ.
      beside_text: keys beside `text_config`, in files of models that also see.
      normalise: `config.json -> config.json` before anything is read, where files have
        more than one form.
      adjust: `(config.json, fields) -> fields` that follow from both.
      export: `(DecoderConfig, config.json) -> config.json` before it is written.
    """

    name: str
    defaults: Mapping[str, Any]
    sizes: Mapping[str, Mapping[str, Any]]
    model_types: tuple[str, ...]
    architecture: str
    tensors: Sequence[tensor_names.Tensor]
    absent: Mapping[str, Any]
    keys: Mapping[str, str] = KEYS
    activation: tuple[str, ...] = ("hidden_act",)
    activations: Mapping[str, str] = GATED
    fixed: Mapping[str, Sequence] = {}
    constants: Mapping[str, Any] = {}
    ignored: tuple[str, ...] = ()
    windows: Windows | None = None
    beside_text: tuple[str, ...] = ()
    normalise: Callable[[dict], dict] | None = None
    adjust: Callable[[Mapping, Mapping], Mapping] | None = None
    export: Callable[[Any, dict], dict] | None = None


def names() -> list[str]:
    """All families, by the names of their files."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__))


def find(name: str, field: str = "model.family") -> Family:
    """The family of that name; only names of files in this folder are imported.

    Raises:
      ConfigError: there is no such family; `field` is where the name stands.
    """
    if name not in names():
        remedy = registry.closest(str(name), names())
        raise errors.ConfigError(f"{field}: unknown family {name!r}; {remedy}")
    return importlib.import_module(f"{__name__}.{name}").FAMILY
