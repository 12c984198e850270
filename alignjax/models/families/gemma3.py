# SPDX-License-Identifier: Apache-2.0
"""Gemma 3 (arXiv:2503.19786), the part that reads text: five layers of six have a
window, and rotary frequencies of their own; queries and keys are normalised."""

from __future__ import annotations

from collections.abc import Mapping

from alignjax import config, errors
from alignjax.models import families, tensor_names
from alignjax.models.families import gemma, gemma2

_SIZE = dict(
    head_dim=256, attention_scale=256**-0.5, local_rope_theta=10_000.0, dtype="bfloat16"
)
_SHORT = _SIZE | dict(vocab_size=262_144, max_length=32_768, window=512)
_LONG = _SIZE | dict(vocab_size=262_208, max_length=131_072, window=1024)
_LONG |= dict(rope_scaling=dict(kind="linear", factor=8.0))


def _normalise(hf: dict) -> dict:
    """The keys of transformers 4; 5 has rotations for each kind of layer in one."""
    where = "config.json.rope_parameters"
    ropes = config.expect(hf.pop("rope_parameters", None) or {}, dict, where)
    kinds = ("full_attention", "sliding_attention")
    if unknown := sorted(set(ropes).difference(kinds)):
        raise errors.ConfigError(f"{where}.{unknown[0]}: not one of {', '.join(kinds)}")
    far, near = (
        config.expect(ropes.get(kind) or {}, dict, f"{where}.{kind}") for kind in kinds
    )
    unscaled = {"rope_type": "default", "type": "default", "partial_rotary_factor": 1}
    for key, value in near.items():
        if key != "rope_theta" and value not in (None, unscaled.get(key)):
            raise errors.ConfigError(
                f"{where}.sliding_attention.{key}: {value!r}: the rotations of layers "
                "with a window cannot be scaled here"
            )
    if near.get("rope_theta") is not None:
        hf["rope_local_base_freq"] = near["rope_theta"]
    scaling = hf.get("rope_scaling") or {}
    scaling = config.expect(scaling, dict, "config.json.rope_scaling")
    return {**hf, "rope_scaling": {**far, **scaling}}


def _adjust(hf: Mapping, fields: Mapping) -> dict:
    return {} if fields["window"] else {"local_rope_theta": None}


def _export(c, hf: dict) -> dict:
    local = c.rope_theta if c.local_rope_theta is None else c.local_rope_theta
    return {**hf, "rope_local_base_freq": local}


FAMILY = families.Family(
    name="gemma3",
    defaults=gemma.FAMILY.defaults
    | dict(norm_placement="both", qk_norm="head", rope_theta=1_000_000.0)
    | dict(window_pattern=(True,) * 5 + (False,)),
    sizes={
        "270m": _SHORT | dict(d_model=640, layers=18, heads=4, kv_heads=1, d_ff=2048),
        "1b": _SHORT | dict(d_model=1152, layers=26, heads=4, kv_heads=1, d_ff=6912),
        "4b": _LONG | dict(d_model=2560, layers=34, heads=8, kv_heads=4, d_ff=10_240),
        "12b": _LONG | dict(d_model=3840, layers=48, heads=16, kv_heads=8, d_ff=15_360),
        "27b": _LONG
        | dict(d_model=5376, layers=62, heads=32, kv_heads=16, d_ff=21_504)
        | dict(head_dim=128, attention_scale=168**-0.5),
    },
    model_types=("gemma3_text", "gemma3"),
    architecture="Gemma3ForCausalLM",
    tensors=tensor_names.table(tensor_names.NORMS_AROUND, tensor_names.QK_NORMS),
    keys=families.KEYS
    | dict(logit_softcap="final_logit_softcapping")
    | dict(local_rope_theta="rope_local_base_freq"),
    absent=gemma2.ABSENT
    | dict(vocab_size=262_208, hidden_size=2304, intermediate_size=9216)
    | dict(num_hidden_layers=26, num_attention_heads=8)
    | dict(max_position_embeddings=131_072, rope_theta=1_000_000.0)
    | dict(rope_local_base_freq=10_000.0, final_logit_softcapping=None),
    activation=gemma2.ACTIVATION,
    activations=gemma2.ACTIVATIONS,
    fixed={"attn_logit_softcapping": (None,)},  # its class has the key and ignores it
    constants={"attn_logit_softcapping": None},
    ignored=("_sliding_window_pattern",),
    windows=families.Windows(
        lambda layer, period: (layer + 1) % period != 0,
        key="sliding_window_pattern",
        absent=6,
    ),
    beside_text=tuple(
        "vision_config mm_tokens_per_image boi_token_index eoi_token_index "
        "image_token_index".split()
    ),
    normalise=_normalise,
    adjust=_adjust,
    export=_export,
)
