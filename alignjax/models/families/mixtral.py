# SPDX-License-Identifier: Apache-2.0
"""Mixtral (arXiv:2401.04088): Mistral's layers with a mixture of experts in each.

`router_loss` follows transformers: it adds the loss where config.json says
`output_router_logits`, which published files do not.
"""

from alignjax.models import families, tensor_names

_SIZE = families.UNTIED | dict(vocab_size=32_000, kv_heads=8)
FAMILY = families.Family(
    name="mixtral",
    defaults=dict(experts=8, experts_per_token=2, norm_epsilon=1e-5, rope_theta=1e6),
    sizes={
        # A size for CPUs; the vocabulary comes from the tokenizer.
        "nano": dict(d_model=128, layers=4, heads=4, d_ff=176, max_length=256)
        | dict(router_loss=0.02),
        "8x7b": _SIZE
        | dict(d_model=4096, layers=32, heads=32, d_ff=14_336, max_length=32_768),
        "8x22b": _SIZE
        | dict(d_model=6144, layers=56, heads=48, d_ff=16_384, max_length=65_536),
    },
    model_types=("mixtral",),
    architecture="MixtralForCausalLM",
    tensors=tensor_names.table(
        mlp=tensor_names.experts("block_sparse_moe", gate="w1", up="w3", down="w2")
    ),
    keys=families.KEYS
    | dict(window="sliding_window", experts="num_local_experts")
    | dict(experts_per_token="num_experts_per_tok"),
    absent=families.ABSENT
    | families.ABSENT_ROUTER
    | dict(num_key_value_heads=8, max_position_embeddings=131_072)
    | dict(rms_norm_eps=1e-5, rope_theta=1_000_000.0, sliding_window=None)
    | dict(num_local_experts=8, num_experts_per_tok=2),
    fixed=families.NO_BIASES | {"router_jitter_noise": (0, None)},
)
