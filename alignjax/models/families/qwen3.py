# SPDX-License-Identifier: Apache-2.0
"""Qwen 3 (arXiv:2505.09388): Llama's layers with queries and keys normalised."""

from alignjax.models import families, tensor_names
from alignjax.models.families import qwen2

_SIZE = families.UNTIED | dict(
    vocab_size=151_936, head_dim=128, kv_heads=8, max_length=40_960
)
FAMILY = families.Family(
    name="qwen3",
    defaults=dict(qk_norm="head", norm_epsilon=1e-6, rope_theta=1_000_000.0),
    sizes={
        "0.6b": _SIZE | dict(d_model=1024, layers=28, heads=16, d_ff=3072, tied=True),
        "1.7b": _SIZE | dict(d_model=2048, layers=28, heads=16, d_ff=6144, tied=True),
        "4b": _SIZE | dict(d_model=2560, layers=36, heads=32, d_ff=9728, tied=True),
        "8b": _SIZE | dict(d_model=4096, layers=36, heads=32, d_ff=12_288),
        "14b": _SIZE | dict(d_model=5120, layers=40, heads=40, d_ff=17_408),
        "32b": _SIZE | dict(d_model=5120, layers=64, heads=64, d_ff=25_600),
    },
    model_types=("qwen3",),
    architecture="Qwen3ForCausalLM",
    tensors=tensor_names.table(qk_norms=tensor_names.QK_NORMS),
    absent=qwen2.ABSENT | {"head_dim": 128, "attention_bias": False},
    windows=qwen2.WINDOWS,
    export=qwen2.export_windows,
)
