# SPDX-License-Identifier: Apache-2.0
"""Gemma (arXiv:2403.08295): GeGLU, scaled embeddings, scales of norms kept minus 1."""

from __future__ import annotations

from collections.abc import Mapping

from alignjax.models import decoder_config, names, published

DEFAULTS = dict(
    norm_offset=1.0,
    norm_epsilon=1e-6,
    activation="geglu",
    embedding_scale=True,
    tied=True,
)

_SIZE = dict(vocab_size=256_000, head_dim=256, max_length=8192, dtype="bfloat16")

CONFIGS = {
    "2b": _SIZE | dict(d_model=2048, layers=18, heads=8, kv_heads=1, d_ff=16_384),
    "7b": _SIZE | dict(d_model=3072, layers=28, heads=16, d_ff=24_576),
}

MODEL_TYPES = ("gemma",)
ARCHITECTURE = "GemmaForCausalLM"
TENSORS = (*names.OUTER, *names.NORMS_BEFORE, *names.ATTENTION, *names.MLP)
_ABSENT = {
    "num_key_value_heads": 16,
    "head_dim": 256,
    "max_position_embeddings": 8192,
    "rms_norm_eps": 1e-6,
    "tie_word_embeddings": True,
}
# The first files call it "gelu", and mean the approximation by tanh all the same.
_TANH = {"hidden_act": ("gelu_pytorch_tanh", "gelu", None)}
_TANH["hidden_activation"] = ("gelu_pytorch_tanh", None)


def fields(hf: Mapping) -> dict:
    """config.json -> fields of a decoder; ConfigError for what we do not compute."""
    known = ("attention_bias", *published.rope_keys())
    said = published.read(hf, published.KEYS, absent=_ABSENT, fixed=_TANH, known=known)
    said |= published.read_rope(hf, said["max_length"])
    said["attention_bias"] = published.biases(hf)
    return published.complete(hf, {**DEFAULTS, **said})


def config_json(c: decoder_config.DecoderConfig) -> dict:
    """The config.json of a decoder; see `names.config_json`, which checks it."""
    return {
        "architectures": [ARCHITECTURE],
        **published.write(c, "gemma", published.KEYS),
        **published.write_rope(c),
        "hidden_act": "gelu_pytorch_tanh",
        "hidden_activation": "gelu_pytorch_tanh",
        "attention_bias": published.write_biases(c),
    }
