# SPDX-License-Identifier: Apache-2.0
"""Phi 3 (arXiv:2404.14219), 3.5, 4 and 4-mini: Llama's layers, their matrices fused.

Sizes for 128k tokens rotate by lists of numbers, one a frequency, which are read from
their config.json and are not repeated here.
"""

from __future__ import annotations

from alignjax import config
from alignjax.models import families, tensor_names

_PHI_3 = families.UNTIED | dict(vocab_size=32_064, max_length=4096, window=2047)
_14B = dict(d_model=5120, layers=40, heads=40, kv_heads=10, d_ff=17_920)
_ORIGINAL_LENGTH = "original_max_position_embeddings"
_QKV = ("layers/q/kernel", "layers/k/kernel", "layers/v/kernel")
_GATE_UP = ("layers/mlp/gate/kernel", "layers/mlp/up/kernel")
_LAYER = tensor_names.LAYER


def _normalise(hf: dict) -> dict:
    """Longrope under its own name; it was called `su`, and `yarn`, which it is not."""
    key = "rope_scaling" if hf.get("rope_scaling") else "rope_parameters"
    scaling = dict(config.expect(hf.get(key) or {}, dict, f"config.json.{key}"))
    kind = scaling.pop("type", "default")
    kind = scaling.pop("rope_type", kind)
    scaling["rope_type"] = "longrope" if kind in ("su", "yarn") else kind
    original = hf.get(_ORIGINAL_LENGTH, 4096)
    return {**hf, key: scaling, _ORIGINAL_LENGTH: original}


def _export(c, hf: dict) -> dict:
    """The form of longrope that transformers 4 insists on."""
    if hf["rope_scaling"] is None:
        return hf
    scaling = dict(hf["rope_scaling"])
    original = scaling.pop(_ORIGINAL_LENGTH, c.max_length)
    scaling["type"] = scaling.pop("rope_type")
    return {**hf, "rope_scaling": scaling, _ORIGINAL_LENGTH: original}


FAMILY = families.Family(
    name="phi3",
    defaults=dict(norm_epsilon=1e-5),
    sizes={
        "3-mini-4k": _PHI_3 | dict(d_model=3072, layers=32, heads=32, d_ff=8192),
        "3-medium-4k": _PHI_3 | _14B,
        "4": _14B
        | families.UNTIED
        | dict(vocab_size=100_352, max_length=16_384, rope_theta=250_000.0),
    },
    model_types=("phi3",),
    architecture="Phi3ForCausalLM",
    tensors=(
        *tensor_names.OUTER,
        *tensor_names.NORMS_BEFORE,
        tensor_names.Tensor(_LAYER + "self_attn.qkv_proj.weight", _QKV),
        tensor_names.Tensor(_LAYER + "self_attn.o_proj.weight", "layers/o/kernel"),
        tensor_names.Tensor(_LAYER + "mlp.gate_up_proj.weight", _GATE_UP),
        tensor_names.Tensor(_LAYER + "mlp.down_proj.weight", "layers/mlp/down/kernel"),
    ),
    keys=families.KEYS | {"window": "sliding_window"},
    absent=families.ABSENT
    | dict(max_position_embeddings=4096, rms_norm_eps=1e-5)
    | dict(partial_rotary_factor=1.0, sliding_window=None),
    fixed=families.NO_BIASES
    | dict(mlp_bias=(False,), lm_head_bias=(False,))
    | dict(full_attn_mod=(1,), interpolate_factor=(1,)),
    normalise=_normalise,
    export=_export,
)
