# SPDX-License-Identifier: Apache-2.0
"""Mixtral (arXiv:2401.04088): Mistral's layers with a mixture of experts in each.

`router_loss` follows transformers: it adds the loss where config.json says
`output_router_logits`, which published files do not.
"""

from __future__ import annotations

from collections.abc import Mapping

from alignjax.models import decoder_config, names, published

DEFAULTS = dict(experts=8, experts_per_token=2, norm_epsilon=1e-5, rope_theta=1e6)

_SIZE = dict(vocab_size=32_000, kv_heads=8, tied=False, dtype="bfloat16")

CONFIGS = {
    # A size for CPUs; the vocabulary comes from the tokenizer.
    "nano": dict(
        d_model=128, layers=4, heads=4, d_ff=176, max_length=256, router_loss=0.02
    ),
    "8x7b": _SIZE
    | dict(d_model=4096, layers=32, heads=32, d_ff=14_336, max_length=32_768),
    "8x22b": _SIZE
    | dict(d_model=6144, layers=56, heads=48, d_ff=16_384, max_length=65_536),
}

MODEL_TYPES = ("mixtral",)
ARCHITECTURE = "MixtralForCausalLM"
_MOE = "model.layers.{layer}.block_sparse_moe."
TENSORS = (
    *names.OUTER,
    *names.NORMS_BEFORE,
    *names.ATTENTION,
    names.Tensor(_MOE + "gate.weight", "layers/moe/router/kernel"),
    names.Tensor(_MOE + "experts.{expert}.w1.weight", "layers/moe/gate/kernel"),
    names.Tensor(_MOE + "experts.{expert}.w3.weight", "layers/moe/up/kernel"),
    names.Tensor(_MOE + "experts.{expert}.w2.weight", "layers/moe/down/kernel"),
)
KEYS = published.KEYS | {
    "window": "sliding_window",
    "experts": "num_local_experts",
    "experts_per_token": "num_experts_per_tok",
}
_ABSENT = {
    "num_key_value_heads": 8,
    "head_dim": None,
    "max_position_embeddings": 131_072,
    "rms_norm_eps": 1e-5,
    "tie_word_embeddings": False,
    "sliding_window": None,
    "num_local_experts": 8,
    "num_experts_per_tok": 2,
}
_FIXED = published.NO_BIASES | {"router_jitter_noise": (0, None)}
ROUTER_KEYS = ("output_router_logits", "router_aux_loss_coef")
_COEFFICIENT = 0.001  # transformers' own, where a file has none


def fields(hf: Mapping) -> dict:
    """config.json -> fields of a decoder; ConfigError for what we do not compute."""
    known = ("hidden_act", *published.rope_keys(), *ROUTER_KEYS)
    said = published.read(hf, KEYS, absent=_ABSENT, fixed=_FIXED, known=known)
    said |= published.read_rope(hf, said["max_length"], theta=1e6)
    said["activation"] = published.choice(hf, "hidden_act", published.GATED, "silu")
    return published.complete(hf, said | read_router(hf) | {"norm_topk": True})


def config_json(c: decoder_config.DecoderConfig) -> dict:
    """The config.json of a decoder; see `names.config_json`, which checks it."""
    return {
        "architectures": [ARCHITECTURE],
        **published.write(c, "mixtral", KEYS),
        **published.write_rope(c),
        **write_router(c),
        "hidden_act": published.word(c.activation, published.GATED),
    }


def read_router(hf: Mapping) -> dict:
    """`router_loss`, which is 0 where the loss would not be computed."""
    coefficient = hf.get("router_aux_loss_coef")
    coefficient = _COEFFICIENT if coefficient is None else coefficient
    added = published.flag(hf, "output_router_logits")
    return {"router_loss": coefficient if added else 0.0}


def write_router(c: decoder_config.DecoderConfig) -> dict:
    return {
        "output_router_logits": c.router_loss > 0,
        "router_aux_loss_coef": c.router_loss or _COEFFICIENT,
    }
