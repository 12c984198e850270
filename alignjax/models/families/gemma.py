# SPDX-License-Identifier: Apache-2.0
"""Gemma (arXiv:2403.08295): GeGLU, scaled embeddings, scales of norms kept minus 1."""

from alignjax.models import families, tensor_names

_SIZE = dict(vocab_size=256_000, head_dim=256, max_length=8192, dtype="bfloat16")
FAMILY = families.Family(
    name="gemma",
    defaults=dict(
        norm_offset=1.0,
        norm_epsilon=1e-6,
        activation="geglu",
        embedding_scale=True,
        tied=True,
    ),
    sizes={
        "2b": _SIZE | dict(d_model=2048, layers=18, heads=8, kv_heads=1, d_ff=16_384),
        "7b": _SIZE | dict(d_model=3072, layers=28, heads=16, d_ff=24_576),
    },
    model_types=("gemma",),
    architecture="GemmaForCausalLM",
    tensors=tensor_names.table(),
    absent=families.ABSENT
    | dict(num_key_value_heads=16, head_dim=256, max_position_embeddings=8192)
    | dict(tie_word_embeddings=True, attention_bias=False),
    activation=("hidden_act", "hidden_activation"),
    # The first files say "gelu", and mean the approximation by tanh all the same.
    activations={"gelu_pytorch_tanh": "geglu", "gelu": "geglu"},
    fixed={"hidden_activation": ("gelu_pytorch_tanh", None)},
)
