# SPDX-License-Identifier: Apache-2.0
"""Qwen 2 and 2.5 (arXiv:2407.10671, 2412.15115): Llama's layers, q, k and v biased."""

from __future__ import annotations

from alignjax.models import families, tensor_names

_SMALL = dict(vocab_size=151_936, max_length=32_768, tied=True, dtype="bfloat16")
_LARGE = families.UNTIED | dict(vocab_size=152_064, max_length=131_072)
_14B = _LARGE | dict(norm_epsilon=1e-5)  # and larger ones
SIZES = {
    "2.5-0.5b": _SMALL | dict(d_model=896, layers=24, heads=14, kv_heads=2, d_ff=4864),
    "2.5-1.5b": _SMALL
    | dict(d_model=1536, layers=28, heads=12, kv_heads=2, d_ff=8960)
    | dict(max_length=131_072),
    "2.5-3b": _SMALL | dict(d_model=2048, layers=36, heads=16, kv_heads=2, d_ff=11_008),
    "2.5-7b": _LARGE | dict(d_model=3584, layers=28, heads=28, kv_heads=4, d_ff=18_944),
    "2.5-14b": _14B | dict(d_model=5120, layers=48, heads=40, kv_heads=8, d_ff=13_824),
    "2.5-32b": _14B | dict(d_model=5120, layers=64, heads=40, kv_heads=8, d_ff=27_648),
    "2.5-72b": _14B | dict(d_model=8192, layers=80, heads=64, kv_heads=8, d_ff=29_568),
}
ABSENT = families.ABSENT | dict(
    num_key_value_heads=32, max_position_embeddings=32_768, sliding_window=4096
)
WINDOWS = families.Windows(
    lambda layer, first: layer >= first,
    key="max_window_layers",
    absent=28,
    least=0,
    gated=True,
)


def export_windows(c, hf: dict) -> dict:
    """`max_window_layers`, the first layer that has a window."""
    first = c.layers if c.window is None else c.layers_with_window.index(True)
    return {**hf, "max_window_layers": first}


FAMILY = families.Family(
    name="qwen2",
    defaults=dict(attention_bias="qkv", norm_epsilon=1e-6, rope_theta=1_000_000.0),
    sizes=SIZES,
    model_types=("qwen2",),
    architecture="Qwen2ForCausalLM",
    tensors=tensor_names.table(),
    absent=ABSENT,
    fixed=families.NO_BIASES,
    windows=WINDOWS,
    export=export_windows,
)
