# SPDX-License-Identifier: Apache-2.0
"""Qwen 2 and 2.5 (arXiv:2407.10671, 2412.15115): Llama's layers, q, k and v biased."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from alignjax.models import decoder_config, names, published

DEFAULTS = dict(attention_bias="qkv", norm_epsilon=1e-6, rope_theta=1_000_000.0)

_SMALL = dict(vocab_size=151_936, max_length=32_768, tied=True, dtype="bfloat16")
_LARGE = dict(vocab_size=152_064, max_length=131_072, tied=False, dtype="bfloat16")

CONFIGS = {
    "2.5-0.5b": _SMALL | dict(d_model=896, layers=24, heads=14, kv_heads=2, d_ff=4864),
    "2.5-1.5b": _SMALL
    | dict(
        d_model=1536, layers=28, heads=12, kv_heads=2, d_ff=8960, max_length=131_072
    ),
    "2.5-3b": _SMALL | dict(d_model=2048, layers=36, heads=16, kv_heads=2, d_ff=11_008),
    "2.5-7b": _LARGE | dict(d_model=3584, layers=28, heads=28, kv_heads=4, d_ff=18_944),
    "2.5-14b": _LARGE
    | dict(d_model=5120, layers=48, heads=40, kv_heads=8, d_ff=13_824)
    | dict(norm_epsilon=1e-5),
    "2.5-32b": _LARGE
    | dict(d_model=5120, layers=64, heads=40, kv_heads=8, d_ff=27_648)
    | dict(norm_epsilon=1e-5),
    "2.5-72b": _LARGE
    | dict(d_model=8192, layers=80, heads=64, kv_heads=8, d_ff=29_568)
    | dict(norm_epsilon=1e-5),
}

MODEL_TYPES = ("qwen2",)
ARCHITECTURE = "Qwen2ForCausalLM"
TENSORS = (*names.OUTER, *names.NORMS_BEFORE, *names.ATTENTION, *names.MLP)
ABSENT = {
    "num_key_value_heads": 32,
    "head_dim": None,
    "max_position_embeddings": 32_768,
    "rms_norm_eps": 1e-6,
    "tie_word_embeddings": False,
}
KNOWN = (
    "hidden_act",
    "use_sliding_window",
    "sliding_window",
    "max_window_layers",
    "layer_types",
    *published.rope_keys(),
)


def windows(hf: Mapping, layers: int) -> dict:
    """`window` and `window_pattern`: the layers from `max_window_layers` on have it."""
    used = published.flag(hf, "use_sliding_window")
    window = hf.get("sliding_window", 4096) if used else None
    first = published.whole(hf, "max_window_layers", 28, least=0)
    usual = [window is not None and layer >= first for layer in range(layers)]
    return published.windows(window, published.read_layer_types(hf, usual))


def write_windows(c: decoder_config.DecoderConfig) -> dict:
    flags: Sequence[bool] = c.layers_with_window
    return {
        "use_sliding_window": c.window is not None,
        "sliding_window": c.window,
        "max_window_layers": c.layers if c.window is None else flags.index(True),
        "layer_types": published.layer_types(c),
    }


def fields(hf: Mapping) -> dict:
    """config.json -> fields of a decoder; ConfigError for what we do not compute."""
    fixed = published.NO_BIASES
    said = published.read(hf, published.KEYS, absent=ABSENT, fixed=fixed, known=KNOWN)
    said |= published.read_rope(hf, said["max_length"])
    said |= windows(hf, said["layers"])
    said["activation"] = published.choice(hf, "hidden_act", published.GATED, "silu")
    return published.complete(hf, {**said, "attention_bias": "qkv"})


def config_json(c: decoder_config.DecoderConfig) -> dict:
    """The config.json of a decoder; see `names.config_json`, which checks it."""
    return {
        "architectures": [ARCHITECTURE],
        **published.write(c, "qwen2", published.KEYS),
        **published.write_rope(c),
        **write_windows(c),
        "hidden_act": published.word(c.activation, published.GATED),
    }
