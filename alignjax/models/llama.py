# SPDX-License-Identifier: Apache-2.0
"""Llama-shaped decoders (arXiv:2407.21783): RMSNorm, RoPE, SwiGLU, grouped queries."""

DEFAULTS = {}

_LLAMA_3 = dict(
    vocab_size=128_256,
    norm_epsilon=1e-5,
    rope_theta=500_000.0,
    max_length=8192,
    dtype="bfloat16",
)

CONFIGS = {
    # Sizes for CPUs; the vocabulary comes from the tokenizer.
    "nano": dict(d_model=128, layers=4, heads=4, d_ff=352, max_length=256),
    "small": dict(d_model=256, layers=4, heads=4, d_ff=704, max_length=256),
    "17m": dict(d_model=384, layers=6, heads=6, d_ff=1024, max_length=512, tied=False),
    # Sizes for accelerators.
    "1b": _LLAMA_3
    | dict(d_model=2048, layers=16, heads=32, kv_heads=8, d_ff=8192, head_dim=64),
    "8b": _LLAMA_3
    | dict(d_model=4096, layers=32, heads=32, kv_heads=8, d_ff=14_336, tied=False),
}
