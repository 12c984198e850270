# SPDX-License-Identifier: Apache-2.0
"""Phi 3 (arXiv:2404.14219), 3.5, 4 and 4-mini: Llama's layers, their matrices fused.

Sizes for 128k tokens rotate by lists of numbers, one a frequency, which are read from
their config.json and are not repeated here.
"""

from __future__ import annotations

from collections.abc import Mapping

from alignjax.models import decoder_config, names, published

DEFAULTS = dict(norm_epsilon=1e-5)

_PHI_3 = dict(
    vocab_size=32_064, max_length=4096, window=2047, tied=False, dtype="bfloat16"
)
_14B = dict(d_model=5120, layers=40, heads=40, kv_heads=10, d_ff=17_920)

CONFIGS = {
    "3-mini-4k": _PHI_3 | dict(d_model=3072, layers=32, heads=32, d_ff=8192),
    "3-medium-4k": _PHI_3 | _14B,
    "4": _14B
    | dict(vocab_size=100_352, max_length=16_384, rope_theta=250_000.0)
    | dict(tied=False, dtype="bfloat16"),
}

MODEL_TYPES = ("phi3",)
ARCHITECTURE = "Phi3ForCausalLM"
_LAYER = "model.layers.{layer}."
_QKV = ("layers/q/kernel", "layers/k/kernel", "layers/v/kernel")
TENSORS = (
    *names.OUTER,
    *names.NORMS_BEFORE,
    names.Tensor(_LAYER + "self_attn.qkv_proj.weight", _QKV),
    names.Tensor(_LAYER + "self_attn.o_proj.weight", "layers/o/kernel"),
    names.Tensor(
        _LAYER + "mlp.gate_up_proj.weight",
        ("layers/mlp/gate/kernel", "layers/mlp/up/kernel"),
    ),
    names.Tensor(_LAYER + "mlp.down_proj.weight", "layers/mlp/down/kernel"),
)
KEYS = published.KEYS | {"window": "sliding_window"}
_ABSENT = {
    "num_key_value_heads": None,
    "head_dim": None,
    "max_position_embeddings": 4096,
    "rms_norm_eps": 1e-5,
    "tie_word_embeddings": False,
    "sliding_window": None,
}
_FIXED = published.NO_BIASES | {
    "mlp_bias": (False,),
    "lm_head_bias": (False,),
    "full_attn_mod": (1,),
    "interpolate_factor": (1,),
}


def fields(hf: Mapping) -> dict:
    """config.json -> fields of a decoder; ConfigError for what we do not compute."""
    known = ("hidden_act", *published.rope_keys())
    said = published.read(hf, KEYS, absent=_ABSENT, fixed=_FIXED, known=known)
    said |= published.read_rope(_renamed(hf), said["max_length"], partial=True)
    said["activation"] = published.choice(hf, "hidden_act", published.GATED, "silu")
    return published.complete(hf, said)


def _renamed(hf: Mapping) -> dict:
    """With the names that longrope had before: `su`, and `yarn`, which it is not."""
    where = "rope_scaling" if hf.get("rope_scaling") else "rope_parameters"
    scaling = dict(published.within(hf, where))
    kind = scaling.pop("type", "default")
    kind = scaling.pop("rope_type", kind)
    scaling["rope_type"] = "longrope" if kind in ("su", "yarn") else kind
    original = hf.get("original_max_position_embeddings", 4096)
    return {**hf, where: scaling, "original_max_position_embeddings": original}


def config_json(c: decoder_config.DecoderConfig) -> dict:
    """The config.json of a decoder; see `names.config_json`, which checks it."""
    said = published.write_rope(c)
    if c.rope_fraction != 1:
        said["partial_rotary_factor"] = c.rope_fraction
    if scaling := said["rope_scaling"]:  # as transformers 4 insists on it
        said["original_max_position_embeddings"] = scaling.pop(
            "original_max_position_embeddings", c.max_length
        )
        scaling["type"] = scaling.pop("rope_type")
    return {
        "architectures": [ARCHITECTURE],
        **published.write(c, "phi3", KEYS),
        **said,
        "hidden_act": published.word(c.activation, published.GATED),
    }
