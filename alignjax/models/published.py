# SPDX-License-Identifier: Apache-2.0
"""config.json of Hugging Face checkpoints and the fields of a decoder, both ways.

Each key is read, or does not change what a model computes, or may only have the value
that we compute with; anything else is refused by name. What families have in common
is here; files of transformers 4 and of 5 are both read, and written is what both read.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterable, Mapping, Sequence

from alignjax import config, errors
from alignjax.models import decoder_config, scaling

# Fields that say how a model is computed or trained, not what it computes.
_RUN = {
    "attention",
    "base",
    "context",
    "dropout",
    "dtype",
    "embedding_noise",
    "init_std",
    "remat",
    "router_z_loss",
    "score_heads",
    "unroll",
}

# Our field: their key.
KEYS = {
    "vocab_size": "vocab_size",
    "d_model": "hidden_size",
    "layers": "num_hidden_layers",
    "heads": "num_attention_heads",
    "kv_heads": "num_key_value_heads",
    "head_dim": "head_dim",
    "d_ff": "intermediate_size",
    "max_length": "max_position_embeddings",
    "norm_epsilon": "rms_norm_eps",
    "tied": "tie_word_embeddings",
}

# Fields that families read from keys of which they make something.
ELSEWHERE = {
    "activation": "hidden_act",
    "attention_scale": "query_pre_attn_scalar",
    "local_rope_theta": "rope_local_base_freq",
    "rope_fraction": "partial_rotary_factor",
    "router_loss": "router_aux_loss_coef",
    "window": "sliding_window",
}

# Keys that change nothing that is computed: names, tokens, how to train or to generate.
_IGNORED = frozenset(
    """
    _name_or_path _attn_implementation _attn_implementation_autoset _commit_hash
    architectures model_type transformers_version torch_dtype dtype torchscript
    use_cache bos_token_id eos_token_id pad_token_id sep_token_id unk_token_id
    decoder_start_token_id initializer_range attention_dropout attn_dropout
    embd_pdrop resid_pdrop attn_pdrop hidden_dropout pretraining_tp
    output_attentions output_hidden_states return_dict return_dict_in_generate
    output_scores use_return_dict id2label label2id num_labels problem_type
    task_specific_params finetuning_task tokenizer_class prefix cache_implementation
    chunk_size_feed_forward use_bfloat16 tf_legacy_loss remove_invalid_values
    exponential_decay_length_penalty suppress_tokens begin_suppress_tokens
    forced_bos_token_id forced_eos_token_id bad_words_ids do_sample early_stopping
    length_penalty max_length min_length max_new_tokens no_repeat_ngram_size
    encoder_no_repeat_ngram_size num_beam_groups num_beams num_return_sequences
    diversity_penalty repetition_penalty temperature top_k top_p typical_p
    tie_encoder_decoder cross_attention_hidden_size unsloth_version unsloth_fixed
    is_llama_config transformers.js_config gradient_checkpointing _num_labels
    """.split()
)

# Keys that may only have these values.
_FIXED = {
    "is_encoder_decoder": (False, None),
    "add_cross_attention": (False, None),
    "is_decoder": (False, True, None),
    "pruned_heads": ({}, None),
    "use_bidirectional_attention": (False, None),
    "use_mrope": (False, None),
    "rope_interleaved": (False, None),
}
# Of families whose class has, or lacks, biases whatever this says.
NO_BIASES = {"attention_bias": (False, None)}

# Their activation of a gated MLP: ours; the first name is the one that is written. GELU
# is exact where it is called just that.
GATED = {
    "silu": "swiglu",
    "swish": "swiglu",
    "gelu": "geglu_exact",
    "gelu_pytorch_tanh": "geglu",
    "gelu_new": "geglu",
}
_ROPE_KEYS = (
    "rope_theta",
    "rope_scaling",
    "rope_parameters",
    "partial_rotary_factor",
    "original_max_position_embeddings",
)


def architecture(c: decoder_config.DecoderConfig) -> dict:
    """The fields that say what a model computes, those left to others filled in."""
    fields = {f.name: getattr(c, f.name) for f in dataclasses.fields(c)}
    fields |= {"kv_heads": c.num_kv_heads, "head_dim": c.size_of_head}
    if c.attention_scale is None:
        fields["attention_scale"] = c.size_of_head**-0.5
    unscaled = c.window is not None and c.rope_scaling is None
    if c.local_rope_theta is None and unscaled:
        fields["local_rope_theta"] = c.rope_theta
    fields |= {"expert_d_ff": c.size_of_expert}
    return {name: value for name, value in fields.items() if not _of_a_run(name)}


def without_extras() -> dict:
    """Values of the fields that add parameters to a model, with which they do not."""
    names = {
        f.name: f.default for f in dataclasses.fields(decoder_config.DecoderConfig)
    }
    return {
        name: default
        for name, default in names.items()
        if name.startswith("lora_") or name in ("score_heads", "base")
    }


def _of_a_run(name: str) -> bool:
    return name in _RUN or name.startswith("lora_")


def read(
    hf: Mapping,
    keys: Mapping[str, str],
    *,
    absent: Mapping,
    fixed: Mapping[str, Collection] | None = None,
    known: Iterable[str] = (),
) -> dict:
    """The fields that config.json says directly, once all of its keys are known.

    Args:
      hf: config.json.
      keys: our field: their key.
      absent: what transformers takes for a key that is not there.
      fixed: values that a key may have, where we compute with no other.
      known: keys that the caller reads.

    Raises:
      ConfigError: unknown or missing keys and other values, all of them at once.
    """
    fixed = _FIXED | dict(fixed or {})
    accepted = {*keys.values(), *known, *fixed, *_IGNORED, *absent}
    problems = []
    for key in hf:
        if key == "auto_map":
            problems.append(
                "config.json.auto_map: names code of the checkpoint's own, which is "
                "not run; delete it if the model is just what model_type says"
            )
        elif key not in accepted:
            problems.append(
                f"config.json.{key}: unknown, so that what it changes would be "
                f"ignored (its value is {hf[key]!r:.60}); delete it if that is nothing"
            )
    for key, values in fixed.items():
        if key in hf and hf[key] not in values:
            allowed = " or ".join(map(repr, values))
            problems.append(
                f"config.json.{key}: {hf[key]!r} is not computed here; only {allowed}"
            )
    found = {**absent, **hf}
    for field, key in keys.items():
        if key not in found:
            problems.append(f"config.json.{key}: missing")
        elif fault := config.fault(decoder_config.DecoderConfig, field, found[key]):
            problems.append(f"config.json.{key}: {fault}")
    if problems:
        raise errors.ConfigError(problems)
    return {ours: found[theirs] for ours, theirs in keys.items()}


def complete(hf: Mapping, fields: Mapping) -> dict:
    """All fields that say what a model computes, and the `dtype` to compute it in."""
    defaults = {
        f.name: f.default
        for f in dataclasses.fields(decoder_config.DecoderConfig)
        if f.default is not dataclasses.MISSING and not _of_a_run(f.name)
    }
    kept = str(hf.get("dtype") or hf.get("torch_dtype")).removeprefix("torch.")
    # The range of float16 is too small to train in.
    dtype = "bfloat16" if kept in ("bfloat16", "float16") else "float32"
    return {**defaults, **fields, "dtype": dtype}


def write(
    c: decoder_config.DecoderConfig, module_type: str, keys: Mapping[str, str]
) -> dict:
    """The part of config.json that fields say directly.

    Tokens are for those to say who know the tokenizer: a class of transformers would
    otherwise put its own there, and train no embedding of the one that it pads with.
    """
    fields = architecture(c)
    said = {theirs: fields[ours] for ours, theirs in keys.items()}
    tokens = dict.fromkeys(("bos_token_id", "eos_token_id", "pad_token_id"))
    return {"model_type": module_type, **said, **tokens, "torch_dtype": c.dtype}


def within(hf: Mapping, key: str) -> dict:
    """The object under a key, empty where there is none. Raises ConfigError."""
    return config.expect(hf.get(key) or {}, dict, f"config.json.{key}")


def flag(hf: Mapping, key: str, absent: bool = False) -> bool:
    """Whether a key is true; null is not. Raises ConfigError."""
    value = hf.get(key, absent)
    return value is not None and config.expect(value, bool, f"config.json.{key}")


def whole(hf: Mapping, key: str, absent: int, least: int = 1) -> int:
    """The number under a key, from `least` up. Raises ConfigError."""
    value = config.expect(hf.get(key, absent), int, f"config.json.{key}")
    if value < least:
        raise errors.ConfigError(f"config.json.{key}: {value} must be at least {least}")
    return value


def choice(hf: Mapping, key: str, known: Mapping[str, str], absent: str) -> str:
    """Our word for theirs, of an activation.

    Raises:
      ConfigError: we have none.
    """
    value = hf.get(key) or absent
    if value not in list(known):  # which compares, where a dict would hash
        raise errors.ConfigError(
            f"config.json.{key}: {value!r} is not computed here; only "
            f"{', '.join(map(repr, known))}"
        )
    return known[value]


def word(ours: str, known: Mapping[str, str]) -> str:
    """Their word for ours.

    Raises:
      ConfigError: they have none.
    """
    back = {value: key for key, value in reversed(known.items())}
    if ours not in back:
        raise errors.ConfigError(
            f"model.activation: {ours!r} has no name in this family's config.json; "
            f"only {', '.join(back)} have"
        )
    return back[ours]


def biases(hf: Mapping) -> str:
    """`attention_bias` of ours from theirs, which all four projections share."""
    return "all" if flag(hf, "attention_bias") else "none"


def write_biases(c: decoder_config.DecoderConfig) -> bool:
    return c.attention_bias == "all"


def read_scale(hf: Mapping, absent: float) -> float:
    """`attention_scale` from query_pre_attn_scalar, of which it is the inverse root."""
    value = hf.get("query_pre_attn_scalar", absent)
    if not isinstance(value, (int, float)) or value <= 0:
        raise errors.ConfigError(
            f"config.json.query_pre_attn_scalar: {value!r} is not a positive number"
        )
    return value**-0.5


def write_scale(c: decoder_config.DecoderConfig) -> float:
    """query_pre_attn_scalar: the whole number whose scale it is, where there is one."""
    if c.attention_scale is None:
        return c.size_of_head
    exact = c.attention_scale**-2
    return round(exact) if round(exact) ** -0.5 == c.attention_scale else exact


def rope_keys() -> tuple[str, ...]:
    """The keys from which `read_rope` reads."""
    return _ROPE_KEYS


def read_rope(
    hf: Mapping, max_length: int, theta: float = 10_000.0, *, partial: bool = False
) -> dict:
    """rope_theta, rope_scaling and rope_fraction.

    Args:
      theta: what transformers takes where there is none.
      partial: whether the family's class reads partial_rotary_factor; others rotate
        all of a head whatever it says.

    Raises:
      ConfigError: a kind or a number that we do not compute with.
    """
    given = within(hf, "rope_scaling") or within(hf, "rope_parameters")
    parameters = dict(given)
    for key, default in (("rope_theta", theta), ("partial_rotary_factor", 1.0)):
        if parameters.get(key) is None:
            parameters[key] = default if hf.get(key) is None else hf[key]
    fraction = parameters.pop("partial_rotary_factor")
    if not partial and fraction != 1:
        raise errors.ConfigError(
            f"config.json.partial_rotary_factor: {fraction!r} is not read by this "
            "family's class in transformers, which rotates all of a head; delete it if "
            "the model was trained so"
        )
    original = hf.get("original_max_position_embeddings")
    if original is not None:
        whole(hf, "original_max_position_embeddings", original, least=2)
    return {
        "rope_theta": parameters.pop("rope_theta"),
        "rope_fraction": fraction,
        "rope_scaling": scaling.read(parameters, max_length, original),
    }


def write_rope(c: decoder_config.DecoderConfig) -> dict:
    """rope_theta and rope_scaling."""
    return {"rope_theta": c.rope_theta, "rope_scaling": scaling.write(c)}


def windows(window: int | None, flags: Sequence[bool]) -> dict:
    """`window` and `window_pattern` of layers, of which some have a window."""
    if not any(flags):
        return {"window": None, "window_pattern": (True,)}
    if window is None:
        raise errors.ConfigError(
            "config.json.sliding_window: missing, and there are layers with a window"
        )
    return {"window": window, "window_pattern": decoder_config.shortest(flags)}


def read_layer_types(hf: Mapping, usual: Sequence[bool]) -> Sequence[bool]:
    """Of each layer, whether it has a window; `usual` where config.json does not say.

    Raises:
      ConfigError: a kind of layer that we do not have, or not one for each.
    """
    kinds = hf.get("layer_types")
    if kinds is None:
        return usual
    known = {"full_attention": False, "sliding_attention": True}
    kinds = config.expect(kinds, list, "config.json.layer_types")
    if len(kinds) != len(usual) or any(kind not in list(known) for kind in kinds):
        raise errors.ConfigError(
            f"config.json.layer_types: {kinds!r:.80} are not {len(usual)} of "
            f"{', '.join(known)}"
        )
    return [known[kind] for kind in kinds]


def layer_types(c: decoder_config.DecoderConfig) -> list[str]:
    """Which layers have a window, in their words."""
    flags = [c.window is not None and flag for flag in c.layers_with_window]
    return ["sliding_attention" if flag else "full_attention" for flag in flags]
