# SPDX-License-Identifier: Apache-2.0
"""Mistral (arXiv:2310.06825): Llama's layers, the first of them with a window."""

from alignjax.models import families, tensor_names

_7B = families.UNTIED | dict(
    d_model=4096, layers=32, heads=32, kv_heads=8, d_ff=14_336, max_length=32_768
)
_7B |= dict(norm_epsilon=1e-5)
_LATER = dict(rope_theta=1_000_000.0)
_12B = _7B | dict(vocab_size=131_072, d_model=5120, layers=40, head_dim=128)
FAMILY = families.Family(
    name="mistral",
    defaults={},
    sizes={
        "7b-v0.1": _7B | dict(vocab_size=32_000, window=4096),
        "7b-v0.2": _7B | _LATER | dict(vocab_size=32_000),
        "7b-v0.3": _7B | _LATER | dict(vocab_size=32_768),
        "nemo-12b": _12B | _LATER | dict(max_length=131_072),
        "small-24b": _12B | dict(d_ff=32_768, rope_theta=100_000_000.0),
    },
    model_types=("mistral",),
    architecture="MistralForCausalLM",
    tensors=tensor_names.table(),
    keys=families.KEYS | {"window": "sliding_window"},
    absent=families.ABSENT
    | dict(num_key_value_heads=8, max_position_embeddings=131_072)
    | dict(sliding_window=4096),
    fixed=families.NO_BIASES,
)
