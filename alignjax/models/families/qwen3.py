# SPDX-License-Identifier: Apache-2.0
"""Qwen 3 (arXiv:2505.09388): Llama's layers with queries and keys normalised."""

from __future__ import annotations

from collections.abc import Mapping

from alignjax.models import decoder_config, names, published
from alignjax.models.families import qwen2

DEFAULTS = dict(qk_norm="head", norm_epsilon=1e-6, rope_theta=1_000_000.0)

_SIZE = dict(
    vocab_size=151_936,
    head_dim=128,
    kv_heads=8,
    max_length=40_960,
    tied=False,
    dtype="bfloat16",
)

CONFIGS = {
    "0.6b": _SIZE | dict(d_model=1024, layers=28, heads=16, d_ff=3072, tied=True),
    "1.7b": _SIZE | dict(d_model=2048, layers=28, heads=16, d_ff=6144, tied=True),
    "4b": _SIZE | dict(d_model=2560, layers=36, heads=32, d_ff=9728, tied=True),
    "8b": _SIZE | dict(d_model=4096, layers=36, heads=32, d_ff=12_288),
    "14b": _SIZE | dict(d_model=5120, layers=40, heads=40, d_ff=17_408),
    "32b": _SIZE | dict(d_model=5120, layers=64, heads=64, d_ff=25_600),
}

MODEL_TYPES = ("qwen3",)
ARCHITECTURE = "Qwen3ForCausalLM"
TENSORS = (
    *names.OUTER,
    *names.NORMS_BEFORE,
    *names.ATTENTION,
    *names.QK_NORMS,
    *names.MLP,
)
_ABSENT = qwen2.ABSENT | {"head_dim": 128}
_KNOWN = (*qwen2.KNOWN, "attention_bias")


def fields(hf: Mapping) -> dict:
    """config.json -> fields of a decoder; ConfigError for what we do not compute."""
    said = published.read(hf, published.KEYS, absent=_ABSENT, known=_KNOWN)
    said |= published.read_rope(hf, said["max_length"])
    said |= qwen2.windows(hf, said["layers"])
    said["activation"] = published.choice(hf, "hidden_act", published.GATED, "silu")
    said["attention_bias"] = published.biases(hf)
    return published.complete(hf, {**said, "qk_norm": "head"})


def config_json(c: decoder_config.DecoderConfig) -> dict:
    """The config.json of a decoder; see `names.config_json`, which checks it."""
    return {
        "architectures": [ARCHITECTURE],
        **published.write(c, "qwen3", published.KEYS),
        **published.write_rope(c),
        **qwen2.write_windows(c),
        "hidden_act": published.word(c.activation, published.GATED),
        "attention_bias": published.write_biases(c),
    }
