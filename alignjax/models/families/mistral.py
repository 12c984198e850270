# SPDX-License-Identifier: Apache-2.0
"""Mistral (arXiv:2310.06825): Llama's layers, the first of them with a window."""

from __future__ import annotations

from collections.abc import Mapping

from alignjax.models import decoder_config, names, published

DEFAULTS = {}

_7B = dict(
    d_model=4096,
    layers=32,
    heads=32,
    kv_heads=8,
    d_ff=14_336,
    max_length=32_768,
    norm_epsilon=1e-5,
    tied=False,
    dtype="bfloat16",
)
_LATER = dict(rope_theta=1_000_000.0)
_12B = _7B | dict(vocab_size=131_072, d_model=5120, layers=40, head_dim=128)

CONFIGS = {
    "7b-v0.1": _7B | dict(vocab_size=32_000, window=4096),
    "7b-v0.2": _7B | _LATER | dict(vocab_size=32_000),
    "7b-v0.3": _7B | _LATER | dict(vocab_size=32_768),
    "nemo-12b": _12B | _LATER | dict(max_length=131_072),
    "small-24b": _12B | dict(d_ff=32_768, rope_theta=100_000_000.0),
}

MODEL_TYPES = ("mistral",)
ARCHITECTURE = "MistralForCausalLM"
TENSORS = (*names.OUTER, *names.NORMS_BEFORE, *names.ATTENTION, *names.MLP)
KEYS = published.KEYS | {"window": "sliding_window"}
_ABSENT = {
    "num_key_value_heads": 8,
    "head_dim": None,
    "max_position_embeddings": 131_072,
    "rms_norm_eps": 1e-6,
    "tie_word_embeddings": False,
    "sliding_window": 4096,
}


def fields(hf: Mapping) -> dict:
    """config.json -> fields of a decoder; ConfigError for what we do not compute."""
    known = ("hidden_act", *published.rope_keys())
    fixed = published.NO_BIASES
    said = published.read(hf, KEYS, absent=_ABSENT, fixed=fixed, known=known)
    said |= published.read_rope(hf, said["max_length"])
    said["activation"] = published.choice(hf, "hidden_act", published.GATED, "silu")
    return published.complete(hf, said)


def config_json(c: decoder_config.DecoderConfig) -> dict:
    """The config.json of a decoder; see `names.config_json`, which checks it."""
    return {
        "architectures": [ARCHITECTURE],
        **published.write(c, "mistral", KEYS),
        **published.write_rope(c),
        "hidden_act": published.word(c.activation, published.GATED),
    }
