# SPDX-License-Identifier: Apache-2.0
"""Qwen 3 with experts (arXiv:2505.09388): many small ones, eight of them a token.

Every layer has experts; a file in which some have an MLP instead is refused. What
config.json says of `router_loss` is read as Mixtral's.
"""

from __future__ import annotations

from collections.abc import Mapping

from alignjax import errors
from alignjax.models import decoder_config, names, published
from alignjax.models.families import mixtral

DEFAULTS = dict(
    qk_norm="head",
    norm_epsilon=1e-6,
    rope_theta=1_000_000.0,
    experts=128,
    experts_per_token=8,
)

_SIZE = dict(
    vocab_size=151_936,
    head_dim=128,
    kv_heads=4,
    max_length=40_960,
    tied=False,
    dtype="bfloat16",
)

CONFIGS = {
    "30b-a3b": _SIZE
    | dict(d_model=2048, layers=48, heads=32, d_ff=6144, expert_d_ff=768),
    "235b-a22b": _SIZE
    | dict(d_model=4096, layers=94, heads=64, d_ff=12_288, expert_d_ff=1536),
}

MODEL_TYPES = ("qwen3_moe",)
ARCHITECTURE = "Qwen3MoeForCausalLM"
_MLP = "model.layers.{layer}.mlp."
TENSORS = (
    *names.OUTER,
    *names.NORMS_BEFORE,
    *names.ATTENTION,
    *names.QK_NORMS,
    names.Tensor(_MLP + "gate.weight", "layers/moe/router/kernel"),
    names.Tensor(_MLP + "experts.{expert}.gate_proj.weight", "layers/moe/gate/kernel"),
    names.Tensor(_MLP + "experts.{expert}.up_proj.weight", "layers/moe/up/kernel"),
    names.Tensor(_MLP + "experts.{expert}.down_proj.weight", "layers/moe/down/kernel"),
)
_EXPERTS = ("num_experts", "num_local_experts")  # transformers 4, and what 5 writes
KEYS = published.KEYS | {
    "experts": _EXPERTS[0],
    "experts_per_token": "num_experts_per_tok",
    "expert_d_ff": "moe_intermediate_size",
    "norm_topk": "norm_topk_prob",
}
_ABSENT = {
    "num_key_value_heads": 4,
    "head_dim": None,
    "max_position_embeddings": 32_768,
    "rms_norm_eps": 1e-6,
    "tie_word_embeddings": False,
    "num_experts": 128,
    "num_experts_per_tok": 8,
    "moe_intermediate_size": 768,
    "norm_topk_prob": False,
}
# Layers are all alike in a decoder here, and all have experts.
_FIXED = {"decoder_sparse_step": (1,), "mlp_only_layers": ([], None)}
_KNOWN = (
    "hidden_act",
    "attention_bias",
    "sliding_window",
    "use_sliding_window",
    "max_window_layers",  # of no effect in transformers: all layers are alike
    *published.rope_keys(),
    *mixtral.ROUTER_KEYS,
)


def fields(hf: Mapping) -> dict:
    """config.json -> fields of a decoder; ConfigError for what we do not compute."""
    hf = dict(hf)
    numbers = [hf.pop(key) for key in _EXPERTS if key in hf]
    if numbers and numbers[0] != numbers[-1]:
        raise errors.ConfigError(
            f"config.json.{_EXPERTS[1]}: {' and '.join(_EXPERTS)} differ: {numbers}; "
            "delete the wrong one"
        )
    if numbers:
        hf[_EXPERTS[0]] = numbers[0]
    said = published.read(hf, KEYS, absent=_ABSENT, fixed=_FIXED, known=_KNOWN)
    said |= published.read_rope(hf, said["max_length"])
    used = published.flag(hf, "use_sliding_window")
    window = hf.get("sliding_window", 4096) if used else None
    said["activation"] = published.choice(hf, "hidden_act", published.GATED, "silu")
    said["attention_bias"] = published.biases(hf)
    said |= mixtral.read_router(hf)
    return published.complete(hf, {**said, "qk_norm": "head", "window": window})


def config_json(c: decoder_config.DecoderConfig) -> dict:
    """The config.json of a decoder; see `names.config_json`, which checks it."""
    return {
        "architectures": [ARCHITECTURE],
        **published.write(c, "qwen3_moe", KEYS),
        **published.write_rope(c),
        **mixtral.write_router(c),
        "decoder_sparse_step": 1,
        "mlp_only_layers": [],
        "use_sliding_window": c.window is not None,
        "sliding_window": c.window,
        "hidden_act": published.word(c.activation, published.GATED),
        "attention_bias": published.write_biases(c),
    }
