# SPDX-License-Identifier: Apache-2.0
"""Gemma 2 (arXiv:2408.00118): every other layer has a window; norms on both sides;
products of queries and keys, and logits, are softly capped."""

from __future__ import annotations

from collections.abc import Mapping

from alignjax.models import decoder_config, names, published
from alignjax.models.families import gemma

DEFAULTS = gemma.DEFAULTS | dict(norm_placement="both", window_pattern=(True, False))

_SIZE = dict(
    vocab_size=256_000,
    head_dim=256,
    max_length=8192,
    window=4096,
    attention_scale=256**-0.5,
    attention_softcap=50.0,
    logit_softcap=30.0,
    dtype="bfloat16",
)

CONFIGS = {
    "2b": _SIZE | dict(d_model=2304, layers=26, heads=8, kv_heads=4, d_ff=9216),
    "9b": _SIZE | dict(d_model=3584, layers=42, heads=16, kv_heads=8, d_ff=14_336),
    "27b": _SIZE
    | dict(d_model=4608, layers=46, heads=32, kv_heads=16, d_ff=36_864)
    | dict(head_dim=128, attention_scale=144**-0.5),
}

MODEL_TYPES = ("gemma2",)
ARCHITECTURE = "Gemma2ForCausalLM"
TENSORS = (*names.OUTER, *names.NORMS_AROUND, *names.ATTENTION, *names.MLP)
KEYS = published.KEYS | {
    "attention_softcap": "attn_logit_softcapping",
    "logit_softcap": "final_logit_softcapping",
}
_ABSENT = {
    "num_key_value_heads": 4,
    "head_dim": 256,
    "max_position_embeddings": 8192,
    "rms_norm_eps": 1e-6,
    "tie_word_embeddings": True,
    "attn_logit_softcapping": 50.0,
    "final_logit_softcapping": 30.0,
    "query_pre_attn_scalar": 256,
    "sliding_window": 4096,
}
KNOWN = (
    "hidden_act",  # not read by its class
    "hidden_activation",
    "attention_bias",
    "query_pre_attn_scalar",
    "sliding_window",
    "layer_types",
    *published.rope_keys(),
)


def fields(hf: Mapping) -> dict:
    """config.json -> fields of a decoder; ConfigError for what we do not compute."""
    known = (*KNOWN, "sliding_window_size")
    said = published.read(hf, KEYS, absent=_ABSENT, known=known)
    said |= published.read_rope(hf, said["max_length"])
    usual = [layer % 2 == 0 for layer in range(said["layers"])]
    window = {**_ABSENT, **hf}["sliding_window"]
    said |= published.windows(window, published.read_layer_types(hf, usual))
    return published.complete(hf, {**DEFAULTS, **said, **attention(hf)})


def attention(hf: Mapping) -> dict:
    """The activation, the scale and the biases of Gemma 2 and 3."""
    tanh = "gelu_pytorch_tanh"
    return {
        "activation": published.choice(hf, "hidden_activation", published.GATED, tanh),
        "attention_scale": published.read_scale(hf, absent=256),
        "attention_bias": published.biases(hf),
    }


def config_json(c: decoder_config.DecoderConfig) -> dict:
    """The config.json of a decoder; see `names.config_json`, which checks it."""
    return {
        "architectures": [ARCHITECTURE],
        **published.write(c, "gemma2", KEYS),
        **published.write_rope(c),
        **write_attention(c),
    }


def write_attention(c: decoder_config.DecoderConfig) -> dict:
    activation = published.word(c.activation, published.GATED)
    return {
        "hidden_activation": activation,
        "hidden_act": activation,  # where other readers look
        "query_pre_attn_scalar": published.write_scale(c),
        "attention_bias": published.write_biases(c),
        "sliding_window": c.window,
        "layer_types": published.layer_types(c),
    }
