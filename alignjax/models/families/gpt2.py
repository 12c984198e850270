# SPDX-License-Identifier: Apache-2.0
"""GPT-2 (Radford et al. 2019): LayerNorm, learned positions, GELU, biases, tied."""

from __future__ import annotations

from collections.abc import Mapping

from alignjax.models import decoder_config, names, published

DEFAULTS = dict(
    norm="layernorm",
    norm_epsilon=1e-5,
    positions="learned",
    activation="gelu",
    attention_bias="all",
    mlp_bias=True,
    tied=True,
)

_SIZE = dict(vocab_size=50_257, max_length=1024)

CONFIGS = {
    "124m": _SIZE | dict(d_model=768, layers=12, heads=12, d_ff=3072),
    "355m": _SIZE | dict(d_model=1024, layers=24, heads=16, d_ff=4096),
    "774m": _SIZE | dict(d_model=1280, layers=36, heads=20, d_ff=5120),
    "1558m": _SIZE | dict(d_model=1600, layers=48, heads=25, d_ff=6400),
}

MODEL_TYPES = ("gpt2",)
ARCHITECTURE = "GPT2LMHeadModel"
_LAYER = "transformer.h.{layer}."
_QKV = ("layers/q/", "layers/k/", "layers/v/")
# Their matrices are [in, out], as ours are.
TENSORS = (
    names.plain("transformer.wte.weight", "embed"),
    names.plain("transformer.wpe.weight", "position_embed"),
    names.plain("transformer.ln_f.weight", "norm/scale"),
    names.plain("transformer.ln_f.bias", "norm/bias"),
    names.Tensor("lm_head.weight", "head"),
    names.plain(_LAYER + "ln_1.weight", "layers/attention_norm/scale"),
    names.plain(_LAYER + "ln_1.bias", "layers/attention_norm/bias"),
    names.plain(_LAYER + "ln_2.weight", "layers/mlp_norm/scale"),
    names.plain(_LAYER + "ln_2.bias", "layers/mlp_norm/bias"),
    names.plain(_LAYER + "attn.c_attn.weight", tuple(x + "kernel" for x in _QKV)),
    names.plain(_LAYER + "attn.c_attn.bias", tuple(x + "bias" for x in _QKV)),
    names.plain(_LAYER + "attn.c_proj.weight", "layers/o/kernel"),
    names.plain(_LAYER + "attn.c_proj.bias", "layers/o/bias"),
    names.plain(_LAYER + "mlp.c_fc.weight", "layers/mlp/up/kernel"),
    names.plain(_LAYER + "mlp.c_fc.bias", "layers/mlp/up/bias"),
    names.plain(_LAYER + "mlp.c_proj.weight", "layers/mlp/down/kernel"),
    names.plain(_LAYER + "mlp.c_proj.bias", "layers/mlp/down/bias"),
)
KEYS = {
    "vocab_size": "vocab_size",
    "d_model": "n_embd",
    "layers": "n_layer",
    "heads": "n_head",
    "max_length": "n_positions",
    "norm_epsilon": "layer_norm_epsilon",
    "tied": "tie_word_embeddings",
}
_ABSENT = {
    "n_positions": 1024,
    "layer_norm_epsilon": 1e-5,
    "tie_word_embeddings": True,
}
_ACTIVATIONS = {"gelu_new": "gelu", "gelu": "gelu_exact", "gelu_pytorch_tanh": "gelu"}
_KNOWN = (
    "n_inner",
    "activation_function",
    "scale_attn_weights",
    # Another length of the masks, and heads that are not this one.
    "n_ctx",
    "reorder_and_upcast_attn",
    "summary_type",
    "summary_use_proj",
    "summary_activation",
    "summary_proj_to_labels",
    "summary_first_dropout",
    "predict_special_tokens",
    "output_past",
)


def fields(hf: Mapping) -> dict:
    """config.json -> fields of a decoder; ConfigError for what we do not compute."""
    fixed = {"scale_attn_by_inverse_layer_idx": (False,), "n_special": (0,)}
    said = published.read(hf, KEYS, absent=_ABSENT, fixed=fixed, known=_KNOWN)
    said["d_ff"] = 4 * said["d_model"]
    if hf.get("n_inner") is not None:
        said["d_ff"] = published.whole(hf, "n_inner", said["d_ff"])
    if not published.flag(hf, "scale_attn_weights", absent=True):
        said["attention_scale"] = 1.0
    activation = published.choice(
        hf, "activation_function", _ACTIVATIONS, absent="gelu_new"
    )
    return published.complete(hf, {**DEFAULTS, **said, "activation": activation})


def config_json(c: decoder_config.DecoderConfig) -> dict:
    """The config.json of a decoder; see `names.config_json`, which checks it."""
    return {
        "architectures": [ARCHITECTURE],
        **published.write(c, "gpt2", KEYS),
        "n_inner": c.d_ff,
        "activation_function": published.word(c.activation, _ACTIVATIONS),
        "scale_attn_weights": c.attention_scale is None,
        "scale_attn_by_inverse_layer_idx": False,
        # Rates that its class would otherwise set to 0.1.
        "resid_pdrop": c.dropout,
        "embd_pdrop": c.dropout,
        "attn_pdrop": 0.0,
    }
