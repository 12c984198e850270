# SPDX-License-Identifier: Apache-2.0
"""GPT-2 (Radford et al. 2019): LayerNorm, learned positions, GELU, biases, tied."""

from __future__ import annotations

from collections.abc import Mapping

from alignjax.models import families, tensor_names


def _normalise(hf: dict) -> dict:
    """With `n_inner`, which is four times the width where it is null or absent."""
    width = hf.get("n_embd")
    if hf.get("n_inner") is None:
        hf["n_inner"] = 4 * width if isinstance(width, int) else 1
    return hf


def _adjust(hf: Mapping, fields: Mapping) -> dict:
    return {} if hf.get("scale_attn_weights", True) else {"attention_scale": 1.0}


def _export(c, hf: dict) -> dict:
    # The rates of dropout would otherwise be 0.1.
    rates = {"resid_pdrop": c.dropout, "embd_pdrop": c.dropout, "attn_pdrop": 0.0}
    return {**hf, **rates, "scale_attn_weights": c.attention_scale is None}


_SIZE = dict(vocab_size=50_257, max_length=1024)
_LAYER = "transformer.h.{layer}."
_QKV = ("layers/q/", "layers/k/", "layers/v/")
_plain = tensor_names.plain
FAMILY = families.Family(
    name="gpt2",
    defaults=dict(
        norm="layernorm",
        norm_epsilon=1e-5,
        positions="learned",
        activation="gelu",
        attention_bias="all",
        mlp_bias=True,
        tied=True,
    ),
    sizes={
        "124m": _SIZE | dict(d_model=768, layers=12, heads=12, d_ff=3072),
        "355m": _SIZE | dict(d_model=1024, layers=24, heads=16, d_ff=4096),
        "774m": _SIZE | dict(d_model=1280, layers=36, heads=20, d_ff=5120),
        "1558m": _SIZE | dict(d_model=1600, layers=48, heads=25, d_ff=6400),
    },
    model_types=("gpt2",),
    architecture="GPT2LMHeadModel",
    tensors=(  # matrices are [in, out], as parameters are
        _plain("transformer.wte.weight", "embed"),
        _plain("transformer.wpe.weight", "position_embed"),
        _plain("transformer.ln_f.weight", "norm/scale"),
        _plain("transformer.ln_f.bias", "norm/bias"),
        tensor_names.Tensor("lm_head.weight", "head"),
        _plain(_LAYER + "ln_1.weight", "layers/attention_norm/scale"),
        _plain(_LAYER + "ln_1.bias", "layers/attention_norm/bias"),
        _plain(_LAYER + "ln_2.weight", "layers/mlp_norm/scale"),
        _plain(_LAYER + "ln_2.bias", "layers/mlp_norm/bias"),
        _plain(_LAYER + "attn.c_attn.weight", tuple(x + "kernel" for x in _QKV)),
        _plain(_LAYER + "attn.c_attn.bias", tuple(x + "bias" for x in _QKV)),
        _plain(_LAYER + "attn.c_proj.weight", "layers/o/kernel"),
        _plain(_LAYER + "attn.c_proj.bias", "layers/o/bias"),
        _plain(_LAYER + "mlp.c_fc.weight", "layers/mlp/up/kernel"),
        _plain(_LAYER + "mlp.c_fc.bias", "layers/mlp/up/bias"),
        _plain(_LAYER + "mlp.c_proj.weight", "layers/mlp/down/kernel"),
        _plain(_LAYER + "mlp.c_proj.bias", "layers/mlp/down/bias"),
    ),
    keys=dict(
        vocab_size="vocab_size",
        d_model="n_embd",
        layers="n_layer",
        heads="n_head",
        d_ff="n_inner",
        max_length="n_positions",
        norm_epsilon="layer_norm_epsilon",
        tied="tie_word_embeddings",
    ),
    absent=dict(n_positions=1024, layer_norm_epsilon=1e-5, tie_word_embeddings=True),
    activation=("activation_function",),
    activations={"gelu_new": "gelu", "gelu": "gelu_exact", "gelu_pytorch_tanh": "gelu"},
    fixed=dict(
        scale_attn_weights=(True, False, None),
        scale_attn_by_inverse_layer_idx=(False,),
        n_special=(0,),
    ),
    constants={"scale_attn_by_inverse_layer_idx": False},
    # Another length of the masks, and heads that are not this one.
    ignored=tuple(
        "n_ctx reorder_and_upcast_attn summary_type summary_use_proj "
        "summary_activation summary_proj_to_labels summary_first_dropout "
        "predict_special_tokens output_past".split()
    ),
    normalise=_normalise,
    adjust=_adjust,
    export=_export,
)
