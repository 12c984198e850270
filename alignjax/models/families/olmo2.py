# SPDX-License-Identifier: Apache-2.0
"""OLMo 2 (arXiv:2501.00656): norms of what sublayers give, and of queries and keys."""

from alignjax.models import families, tensor_names

_SIZE = families.UNTIED | dict(vocab_size=100_352, max_length=4096)
FAMILY = families.Family(
    name="olmo2",
    defaults=dict(
        norm_placement="post", norm_epsilon=1e-6, qk_norm="full", rope_theta=500_000.0
    ),
    sizes={
        "1b": _SIZE | dict(d_model=2048, layers=16, heads=16, d_ff=8192),
        "7b": _SIZE | dict(d_model=4096, layers=32, heads=32, d_ff=11_008),
        "13b": _SIZE | dict(d_model=5120, layers=40, heads=40, d_ff=13_824),
        "32b": _SIZE | dict(d_model=5120, layers=64, heads=40, kv_heads=8, d_ff=27_648),
    },
    model_types=("olmo2",),
    architecture="Olmo2ForCausalLM",
    tensors=tensor_names.table(tensor_names.NORMS_AFTER, tensor_names.QK_NORMS),
    absent=families.ABSENT
    | dict(max_position_embeddings=2048, rms_norm_eps=1e-5, attention_bias=False),
)
