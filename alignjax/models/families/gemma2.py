# SPDX-License-Identifier: Apache-2.0
"""Gemma 2 (arXiv:2408.00118): every other layer has a window; norms on both sides;
products of queries and keys, and logits, are softly capped."""

from alignjax.models import families, tensor_names
from alignjax.models.families import gemma

_SIZE = dict(
    vocab_size=256_000,
    head_dim=256,
    max_length=8192,
    window=4096,
    attention_scale=256**-0.5,
    attention_softcap=50.0,
    logit_softcap=30.0,
    dtype="bfloat16",
)
# Shared with Gemma 3.
ABSENT = families.ABSENT | dict(
    num_key_value_heads=4,
    head_dim=256,
    max_position_embeddings=8192,
    tie_word_embeddings=True,
    attention_bias=False,
    query_pre_attn_scalar=256,
    final_logit_softcapping=30.0,
    sliding_window=4096,
)
ACTIVATION = ("hidden_activation", "hidden_act")  # the second is for other readers
ACTIVATIONS = {"gelu_pytorch_tanh": "geglu"} | families.GATED

FAMILY = families.Family(
    name="gemma2",
    defaults=gemma.FAMILY.defaults
    | dict(norm_placement="both", window_pattern=(True, False)),
    sizes={
        "2b": _SIZE | dict(d_model=2304, layers=26, heads=8, kv_heads=4, d_ff=9216),
        "9b": _SIZE | dict(d_model=3584, layers=42, heads=16, kv_heads=8, d_ff=14_336),
        "27b": _SIZE
        | dict(d_model=4608, layers=46, heads=32, kv_heads=16, d_ff=36_864)
        | dict(head_dim=128, attention_scale=144**-0.5),
    },
    model_types=("gemma2",),
    architecture="Gemma2ForCausalLM",
    tensors=tensor_names.table(tensor_names.NORMS_AROUND),
    keys=families.KEYS
    | dict(attention_softcap="attn_logit_softcapping")
    | dict(logit_softcap="final_logit_softcapping"),
    absent=ABSENT | dict(attn_logit_softcapping=50.0),
    activation=ACTIVATION,
    activations=ACTIVATIONS,
    ignored=("sliding_window_size",),
    windows=families.Windows(lambda layer, _: layer % 2 == 0),
)
