# SPDX-License-Identifier: Apache-2.0
"""Gemma 3 (arXiv:2503.19786), the part that reads text: five layers of six have a
window, and rotary frequencies of their own; queries and keys are normalised."""

from __future__ import annotations

from collections.abc import Mapping

from alignjax import config, errors
from alignjax.models import decoder_config, names, published
from alignjax.models.families import gemma, gemma2

DEFAULTS = gemma.DEFAULTS | dict(
    norm_placement="both",
    qk_norm="head",
    window_pattern=(True,) * 5 + (False,),
    rope_theta=1_000_000.0,
)

_SIZE = dict(
    head_dim=256,
    attention_scale=256**-0.5,
    local_rope_theta=10_000.0,
    dtype="bfloat16",
)
_SHORT = _SIZE | dict(vocab_size=262_144, max_length=32_768, window=512)
_LONG = _SIZE | dict(
    vocab_size=262_208,
    max_length=131_072,
    window=1024,
    rope_scaling=dict(kind="linear", factor=8.0),
)

CONFIGS = {
    "270m": _SHORT | dict(d_model=640, layers=18, heads=4, kv_heads=1, d_ff=2048),
    "1b": _SHORT | dict(d_model=1152, layers=26, heads=4, kv_heads=1, d_ff=6912),
    "4b": _LONG | dict(d_model=2560, layers=34, heads=8, kv_heads=4, d_ff=10_240),
    "12b": _LONG | dict(d_model=3840, layers=48, heads=16, kv_heads=8, d_ff=15_360),
    "27b": _LONG
    | dict(d_model=5376, layers=62, heads=32, kv_heads=16, d_ff=21_504)
    | dict(head_dim=128, attention_scale=168**-0.5),
}

MODEL_TYPES = ("gemma3_text", "gemma3")
ARCHITECTURE = "Gemma3ForCausalLM"
TENSORS = (
    *names.OUTER,
    *names.NORMS_AROUND,
    *names.ATTENTION,
    *names.QK_NORMS,
    *names.MLP,
)
KEYS = published.KEYS | {"logit_softcap": "final_logit_softcapping"}
_ABSENT = {
    "vocab_size": 262_208,
    "hidden_size": 2304,
    "intermediate_size": 9216,
    "num_hidden_layers": 26,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 256,
    "max_position_embeddings": 131_072,
    "rms_norm_eps": 1e-6,
    "tie_word_embeddings": True,
    "final_logit_softcapping": None,
    "sliding_window": 4096,
}
_KNOWN = (
    *gemma2.KNOWN,
    "rope_local_base_freq",
    "sliding_window_pattern",
    "_sliding_window_pattern",  # not read by its class
)
# Of a model that also sees; the rest of it is not read.
_OUTSIDE = (
    "text_config",
    "vision_config",
    "mm_tokens_per_image",
    "boi_token_index",
    "eoi_token_index",
    "image_token_index",
    "tie_word_embeddings",
)


def fields(hf: Mapping) -> dict:
    """config.json -> fields of a decoder; ConfigError for what we do not compute."""
    if "text_config" in hf:
        published.read(hf, {}, absent={}, known=_OUTSIDE)
        shared = ("dtype", "torch_dtype", "tie_word_embeddings")
        hf = {key: hf[key] for key in shared if key in hf} | published.within(
            hf, "text_config"
        )
    fixed = {"attn_logit_softcapping": (None,)}  # its class has the key and ignores it
    said = published.read(hf, KEYS, absent=_ABSENT, fixed=fixed, known=_KNOWN)
    period = published.whole(hf, "sliding_window_pattern", 6)
    usual = [(layer + 1) % period != 0 for layer in range(said["layers"])]
    window = {**_ABSENT, **hf}["sliding_window"]
    said |= published.windows(window, published.read_layer_types(hf, usual))
    said |= _read_rope(hf, said)
    return published.complete(hf, {**DEFAULTS, **said, **gemma2.attention(hf)})


def _read_rope(hf: Mapping, said: Mapping) -> dict:
    """Rotations of the layers without a window, and the base of the others."""
    new = published.within(hf, "rope_parameters")
    far, near = (
        config.expect(new.get(kind) or {}, dict, f"config.json.rope_parameters.{kind}")
        for kind in ("full_attention", "sliding_attention")
    )
    if unknown := set(new) - {"full_attention", "sliding_attention"}:
        raise errors.ConfigError(
            f"config.json.rope_parameters.{unknown.pop()}: no kind of layer"
        )
    without = {k: v for k, v in hf.items() if k != "rope_parameters"}
    scaling = {**far, **published.within(hf, "rope_scaling")}
    found = published.read_rope(
        {**without, "rope_scaling": scaling}, said["max_length"], 1_000_000.0
    )
    theta = hf.get("rope_local_base_freq", 10_000.0)
    local = published.read_rope({"rope_scaling": near}, said["max_length"], theta)
    if local["rope_scaling"] is not None:
        raise errors.ConfigError(
            "config.json.rope_parameters.sliding_attention: rotations of layers with a "
            "window are not scaled here"
        )
    theta = None if said["window"] is None else local["rope_theta"]
    return {**found, "local_rope_theta": theta}


def config_json(c: decoder_config.DecoderConfig) -> dict:
    """The config.json of a decoder; see `names.config_json`, which checks it."""
    local = c.rope_theta if c.local_rope_theta is None else c.local_rope_theta
    return {
        "architectures": [ARCHITECTURE],
        **published.write(c, "gemma3_text", KEYS),
        **published.write_rope(c),
        "rope_local_base_freq": local,
        **gemma2.write_attention(c),
        "attn_logit_softcapping": None,
    }
