# SPDX-License-Identifier: Apache-2.0
"""Mixtral (arXiv:2401.04088): Mistral's layers with a mixture of experts in each.

`router_loss` follows transformers: it adds the loss where config.json says
`output_router_logits`, which published files do not.
"""

from __future__ import annotations

from alignjax.models import families, tensor_names

DEFAULTS = dict(experts=8, experts_per_token=2, norm_epsilon=1e-5, rope_theta=1e6)

_SIZE = dict(vocab_size=32_000, kv_heads=8, tied=False, dtype="bfloat16")

SIZES = {
    # A size for CPUs; the vocabulary comes from the tokenizer.
    "nano": dict(
        d_model=128, layers=4, heads=4, d_ff=176, max_length=256, router_loss=0.02
    ),
    "8x7b": _SIZE
    | dict(d_model=4096, layers=32, heads=32, d_ff=14_336, max_length=32_768),
    "8x22b": _SIZE
    | dict(d_model=6144, layers=56, heads=48, d_ff=16_384, max_length=65_536),
}

FAMILY = families.Family(
    name="mixtral",
    defaults=DEFAULTS,
    sizes=SIZES,
    model_types=("mixtral",),
    architecture="MixtralForCausalLM",
    tensors=tensor_names.table(
        mlp=tensor_names.experts("block_sparse_moe", gate="w1", up="w3", down="w2")
    ),
    keys=families.KEYS
    | {
        "window": "sliding_window",
        "experts": "num_local_experts",
        "experts_per_token": "num_experts_per_tok",
    },
    absent=families.ABSENT
    | {
        "num_key_value_heads": 8,
        "max_position_embeddings": 131_072,
        "rms_norm_eps": 1e-5,
        "rope_theta": 1_000_000.0,
        "sliding_window": None,
        "num_local_experts": 8,
        "num_experts_per_tok": 2,
        "output_router_logits": False,
        "router_aux_loss_coef": 0.001,
    },
    fixed=families.NO_BIASES | {"router_jitter_noise": (0, None)},
)
