# SPDX-License-Identifier: Apache-2.0
"""GPT-2 (Radford et al. 2019): LayerNorm, learned positions, GELU, biases, tied."""

DEFAULTS = {}

_GPT2 = dict(
    vocab_size=50_257,
    max_length=1024,
    norm="layernorm",
    norm_epsilon=1e-5,
    positions="learned",
    activation="gelu",
    attention_bias="all",
    mlp_bias=True,
    tied=True,
)

CONFIGS = {
    "124m": _GPT2 | dict(d_model=768, layers=12, heads=12, d_ff=3072),
    "355m": _GPT2 | dict(d_model=1024, layers=24, heads=16, d_ff=4096),
    "774m": _GPT2 | dict(d_model=1280, layers=36, heads=20, d_ff=5120),
    "1558m": _GPT2 | dict(d_model=1600, layers=48, heads=25, d_ff=6400),
}
