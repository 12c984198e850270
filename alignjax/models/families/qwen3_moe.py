# SPDX-License-Identifier: Apache-2.0
"""Qwen 3 with experts (arXiv:2505.09388): many small ones, eight of them a token.

Every layer has experts; a file in which some have an MLP instead is refused. What
config.json says of `router_loss` is read as Mixtral's.
"""

from __future__ import annotations

from alignjax import errors
from alignjax.models import families, tensor_names
from alignjax.models.families import qwen2, qwen3

_SIZE = families.UNTIED | dict(
    vocab_size=151_936, head_dim=128, kv_heads=4, max_length=40_960
)
_EXPERTS = ("num_experts", "num_local_experts")


def _normalise(hf: dict) -> dict:
    """The number of experts under the key of transformers 4; 5 has another for it."""
    numbers = [hf.pop(key) for key in _EXPERTS if key in hf]
    if numbers and numbers[0] != numbers[-1]:
        raise errors.ConfigError(
            f"config.json.{_EXPERTS[1]}: {' and '.join(_EXPERTS)} differ: {numbers}; "
            "delete the wrong one"
        )
    return {**hf, **dict.fromkeys(_EXPERTS[: len(numbers[:1])], *numbers[:1])}


FAMILY = families.Family(
    name="qwen3_moe",
    defaults=qwen3.FAMILY.defaults | dict(experts=128, experts_per_token=8),
    sizes={
        "30b-a3b": _SIZE
        | dict(d_model=2048, layers=48, heads=32, d_ff=6144, expert_d_ff=768),
        "235b-a22b": _SIZE
        | dict(d_model=4096, layers=94, heads=64, d_ff=12_288, expert_d_ff=1536),
    },
    model_types=("qwen3_moe",),
    architecture="Qwen3MoeForCausalLM",
    tensors=tensor_names.table(
        qk_norms=tensor_names.QK_NORMS,
        mlp=tensor_names.experts("mlp", "gate_proj", "up_proj", "down_proj"),
    ),
    keys=families.KEYS
    | dict(experts="num_experts", experts_per_token="num_experts_per_tok")
    | dict(expert_d_ff="moe_intermediate_size", norm_topk="norm_topk_prob"),
    absent=qwen2.ABSENT
    | families.ABSENT_ROUTER
    | dict(num_key_value_heads=4, num_experts=128, num_experts_per_tok=8)
    | dict(moe_intermediate_size=768, norm_topk_prob=False, attention_bias=False),
    # The layers of a decoder are alike here, so all of them have experts.
    fixed={"decoder_sparse_step": (1,), "mlp_only_layers": ([], None)},
    constants={"decoder_sparse_step": 1, "mlp_only_layers": []},
    ignored=("max_window_layers",),  # without effect in transformers too
    windows=families.Windows(lambda layer, _: True, gated=True, listed=False),
    normalise=_normalise,
)
