# SPDX-License-Identifier: Apache-2.0
"""OLMo 2 (arXiv:2501.00656): norms of what sublayers give, and of queries and keys."""

from __future__ import annotations

from collections.abc import Mapping

from alignjax.models import decoder_config, names, published

DEFAULTS = dict(
    norm_placement="post", norm_epsilon=1e-6, qk_norm="full", rope_theta=500_000.0
)

_SIZE = dict(vocab_size=100_352, max_length=4096, tied=False, dtype="bfloat16")

CONFIGS = {
    "1b": _SIZE | dict(d_model=2048, layers=16, heads=16, d_ff=8192),
    "7b": _SIZE | dict(d_model=4096, layers=32, heads=32, d_ff=11_008),
    "13b": _SIZE | dict(d_model=5120, layers=40, heads=40, d_ff=13_824),
    "32b": _SIZE | dict(d_model=5120, layers=64, heads=40, kv_heads=8, d_ff=27_648),
}

MODEL_TYPES = ("olmo2",)
ARCHITECTURE = "Olmo2ForCausalLM"
TENSORS = (
    *names.OUTER,
    *names.NORMS_AFTER,
    *names.ATTENTION,
    *names.QK_NORMS,
    *names.MLP,
)
_ABSENT = {
    "num_key_value_heads": None,
    "head_dim": None,
    "max_position_embeddings": 2048,
    "rms_norm_eps": 1e-5,
    "tie_word_embeddings": False,
}


def fields(hf: Mapping) -> dict:
    """config.json -> fields of a decoder; ConfigError for what we do not compute."""
    known = ("hidden_act", "attention_bias", *published.rope_keys())
    said = published.read(hf, published.KEYS, absent=_ABSENT, known=known)
    said |= published.read_rope(hf, said["max_length"])
    said["activation"] = published.choice(hf, "hidden_act", published.GATED, "silu")
    said["attention_bias"] = published.biases(hf)
    return published.complete(hf, {**DEFAULTS, **said})


def config_json(c: decoder_config.DecoderConfig) -> dict:
    """The config.json of a decoder; see `names.config_json`, which checks it."""
    return {
        "architectures": [ARCHITECTURE],
        **published.write(c, "olmo2", published.KEYS),
        **published.write_rope(c),
        "hidden_act": published.word(c.activation, published.GATED),
        "attention_bias": published.write_biases(c),
    }
