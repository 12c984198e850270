# SPDX-License-Identifier: Apache-2.0
"""Llama (arXiv:2302.13971, 2307.09288, 2407.21783): RMSNorm, RoPE, SwiGLU, GQA.

The defaults of a decoder are Llama's.
"""

from alignjax.models import families, tensor_names

_LLAMA_2 = families.UNTIED | dict(vocab_size=32_000, norm_epsilon=1e-5, max_length=4096)
_LLAMA_3 = families.UNTIED | dict(
    vocab_size=128_256, norm_epsilon=1e-5, rope_theta=500_000.0, max_length=8192
)
_8B = dict(d_model=4096, layers=32, heads=32, kv_heads=8, d_ff=14_336)
_70B = dict(d_model=8192, layers=80, heads=64, kv_heads=8, d_ff=28_672)
_1B = dict(d_model=2048, layers=16, heads=32, kv_heads=8, head_dim=64, d_ff=8192)
_3B = dict(d_model=3072, layers=28, heads=24, kv_heads=8, head_dim=128, d_ff=8192)


def _longer(factor: float) -> dict:
    """How 3.1 and 3.2 read 131,072 tokens."""
    scaling = dict(
        kind="llama3",
        factor=factor,
        low_freq_factor=1.0,
        high_freq_factor=4.0,
        original_length=8192,
    )
    return dict(max_length=131_072, rope_scaling=scaling)


SIZES = {
    # Sizes for CPUs; the vocabulary comes from the tokenizer.
    "nano": dict(d_model=128, layers=4, heads=4, d_ff=352, max_length=256),
    "small": dict(d_model=256, layers=4, heads=4, d_ff=704, max_length=256),
    "17m": dict(d_model=384, layers=6, heads=6, d_ff=1024, max_length=512, tied=False),
    # Sizes for accelerators, with the context of Llama 3.
    "1b": _LLAMA_3 | _1B | dict(tied=True),
    "8b": _LLAMA_3 | _8B,
    # As they were published.
    "2-7b": _LLAMA_2 | dict(d_model=4096, layers=32, heads=32, d_ff=11_008),
    "2-13b": _LLAMA_2 | dict(d_model=5120, layers=40, heads=40, d_ff=13_824),
    "2-70b": _LLAMA_2 | _70B,
    "3-8b": _LLAMA_3 | _8B,
    "3-70b": _LLAMA_3 | _70B,
    "3.1-8b": _LLAMA_3 | _8B | _longer(8.0),
    "3.1-70b": _LLAMA_3 | _70B | _longer(8.0),
    "3.1-405b": _LLAMA_3
    | dict(d_model=16_384, layers=126, heads=128, kv_heads=8, d_ff=53_248)
    | _longer(8.0),
    "3.2-1b": _LLAMA_3 | _1B | _longer(32.0) | dict(tied=True),
    "3.2-3b": _LLAMA_3 | _3B | _longer(32.0) | dict(tied=True),
}
FAMILY = families.Family(
    name="llama",
    defaults={},
    sizes=SIZES,
    model_types=("llama",),
    architecture="LlamaForCausalLM",
    tensors=tensor_names.table(mlp=tensor_names.MLP + tensor_names.MLP_BIASES),
    keys=families.KEYS | {"mlp_bias": "mlp_bias"},
    absent=families.ABSENT
    | dict(max_position_embeddings=2048, attention_bias=False, mlp_bias=False),
)
