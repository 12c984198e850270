# SPDX-License-Identifier: Apache-2.0
"""config.json of Hugging Face folders and the fields of a decoder, both ways.

Two interpreters of a `families.Family`: `read`, config.json -> fields, and `write`,
fields -> config.json. Each key is read, or changes nothing that a model computes, or
may have only the value that is computed here; anything else is refused by name. Files
of transformers 4 and 5 are both read; what is written, both read.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import re
from collections.abc import Mapping
from typing import Any

from alignjax import config, errors, registry
from alignjax.models import decoder_config, families, rope

# Fields that say how a model is computed or trained, not what it computes.
_RUN_FIELDS = set(
    """
    attention base context dropout dtype embedding_noise init_std remat router_z_loss
    score_heads unroll
    """.split()
)
# Fields that are converted from another key than `Family.keys` has, for messages.
_CONVERTED = {
    "activation": "hidden_act",
    "attention_scale": "query_pre_attn_scalar",
    "local_rope_theta": "rope_local_base_freq",
    "rope_fraction": "partial_rotary_factor",
    "router_loss": "router_aux_loss_coef",
    "window": "sliding_window",
}
# Keys that change nothing that is computed: names, tokens, how to train or to generate;
# and so do all that begin with an underscore.
_IGNORED = frozenset(
    """
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
    is_llama_config transformers.js_config gradient_checkpointing
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
_ORIGINAL_LENGTH = "original_max_position_embeddings"
_ROPE_KEYS = {"rope_theta", "rope_scaling", "rope_parameters", "partial_rotary_factor"}
# Numbers of `rope_scaling` from which the one for attention follows.
_FACTORS = {"yarn": ("mscale", "mscale_all_dim"), "longrope": ("factor",)}
# Dtype of the weights: a dtype of activations in which none of their values is lost.
_COMPUTE = {"bfloat16": "bfloat16", "float32": "float32", "float16": "float32"}
_LAYER_TYPES = {"full_attention": False, "sliding_attention": True}


@functools.cache
def model_types() -> dict[str, families.Family]:
    """The family that reads each `model_type`."""
    all_families = [families.find(name) for name in families.names()]
    return {kind: family for family in all_families for kind in family.model_types}


def family_of(hf: Mapping) -> families.Family:
    """The family of a config.json.

    Raises:
      ConfigError: no family has its `model_type`.
    """
    kind, kinds = hf.get("model_type"), model_types()
    if kind not in list(kinds):  # which compares, where a dict would hash
        remedy = registry.closest(str(kind), kinds)
        raise errors.ConfigError(
            f"config.json.model_type: no family reads {kind!r}; {remedy}"
        )
    return kinds[kind]


def computed(c: decoder_config.DecoderConfig) -> dict[str, Any]:
    """The fields that say what a model computes, with derived defaults filled in."""
    fields = {f.name: getattr(c, f.name) for f in dataclasses.fields(c)}
    fields |= dict(kv_heads=c.num_kv_heads, head_dim=c.size_of_head)
    fields |= dict(expert_d_ff=c.size_of_expert)
    if c.attention_scale is None:
        fields["attention_scale"] = c.size_of_head**-0.5
    unscaled = c.window is not None and c.rope_scaling is None
    if c.local_rope_theta is None and unscaled:
        fields["local_rope_theta"] = c.rope_theta
    return {name: value for name, value in fields.items() if not _of_a_run(name)}


def _of_a_run(name: str) -> bool:
    return name in _RUN_FIELDS or name.startswith("lora_")


def naming_keys(family: families.Family, problem: str) -> str:
    """A problem with a field of `DecoderConfig`, told of the key that it comes from."""
    keys = _CONVERTED | dict(family.keys)
    key = lambda match: keys.get(match[0], match[0])
    line = re.sub(r"\b\w+(?=: | = )", key, problem.removeprefix("model."))
    return f"config.json.{line}"


def read(hf: Mapping, family: families.Family) -> dict[str, Any]:
    """Fields of `DecoderConfig` from a config.json.

    Raises:
      ConfigError: unknown or missing keys, values of another type, and whatever would
        be computed otherwise here.
    """
    try:
        return _read(hf, family)
    except ArithmeticError as error:
        raise errors.ConfigError(
            f"config.json: a number that cannot be computed with ({error}); mend it"
        ) from error


def _read(hf: Mapping, family: families.Family) -> dict[str, Any]:
    whole = hf
    if family.beside_text and "text_config" in hf:
        hf = _text_config(hf, family)
    if family.normalise is not None:
        hf = family.normalise(dict(hf))
    fields = _direct(hf, family)
    if "rope_theta" in family.absent:
        fields |= _read_rope(hf, family, fields["max_length"])
    fields["activation"] = _read_activation(hf, family)
    if "attention_bias" in family.absent:
        fields["attention_bias"] = "all" if _flag(hf, "attention_bias") else "none"
    if "query_pre_attn_scalar" in family.absent:
        fields["attention_scale"] = _read_scale({**family.absent, **hf})
    if "router_aux_loss_coef" in family.absent:
        loss = hf.get("router_aux_loss_coef")
        loss = family.absent["router_aux_loss_coef"] if loss is None else loss
        # transformers adds the loss only where it returns the logits of routers.
        fields["router_loss"] = loss if _flag(hf, "output_router_logits") else 0.0
    if family.windows is not None:
        fields |= _read_windows(hf, family, fields["layers"])
    if family.adjust is not None:
        fields |= family.adjust(hf, fields)
    defaults = {
        f.name: f.default
        for f in dataclasses.fields(decoder_config.DecoderConfig)
        if f.default is not dataclasses.MISSING and not _of_a_run(f.name)
    }
    return {**defaults, **family.defaults, **fields, **_read_dtype(whole)}


def write(c: decoder_config.DecoderConfig, family: families.Family) -> dict[str, Any]:
    """The config.json of a model; reading it gives all that the model computes.

    Ids of tokens are null, for whoever knows the tokenizer to fill in: a class of
    transformers would otherwise put its own there, and train no embedding of the one
    that it pads with.

    Raises:
      ConfigError: a field that the family's config.json cannot express.
    """
    c = dataclasses.replace(c, max_length=c.context or c.max_length)
    fields = computed(c)
    hf = {
        "architectures": [family.architecture],
        "model_type": family.model_types[0],
        **{key: fields[name] for name, key in family.keys.items()},
        **dict.fromkeys(("bos_token_id", "eos_token_id", "pad_token_id")),
        "torch_dtype": c.dtype,
        **dict.fromkeys(family.activation, _activation_name(c, family)),
        **family.constants,
    }
    if "rope_theta" in family.absent:
        hf |= {"rope_theta": c.rope_theta, "rope_scaling": _write_scaling(c)}
        if "partial_rotary_factor" in family.absent and c.rope_fraction != 1:
            hf["partial_rotary_factor"] = c.rope_fraction
    if "attention_bias" in family.absent:
        hf["attention_bias"] = c.attention_bias == "all"
    if "query_pre_attn_scalar" in family.absent:
        hf["query_pre_attn_scalar"] = _write_scale(c)
    if "router_aux_loss_coef" in family.absent:
        usual = family.absent["router_aux_loss_coef"]
        hf["output_router_logits"] = c.router_loss > 0
        hf["router_aux_loss_coef"] = c.router_loss or usual
    if family.windows is not None:
        hf |= _write_windows(c, family)
    if family.export is not None:
        hf = family.export(c, hf)
    again = config.build(decoder_config.DecoderConfig, read(hf, family), "config.json")
    values = computed(again)
    problems = [
        f"model.{name}: {value!r} cannot be said in the config.json of "
        f"{family.architecture}, which would be read as {values[name]!r}"
        for name, value in fields.items()
        if value != values[name]
    ]
    if problems:
        raise errors.ConfigError(problems)
    return hf


def _text_config(hf: Mapping, family: families.Family) -> dict:
    """The config.json of the text part of a model that also sees."""
    shared = ("dtype", "torch_dtype", "tie_word_embeddings")
    if problems := _unknown(hf, {"text_config", *family.beside_text, *shared}):
        raise errors.ConfigError(problems)
    outer = {key: hf[key] for key in shared if key in hf}
    return outer | _object(hf, "text_config")


def _read_dtype(hf: Mapping) -> dict[str, str]:
    """The `dtype` to compute in, where the file says which the weights have."""
    for part in (hf, hf.get("text_config") or {}):
        for key in ("dtype", "torch_dtype"):
            if (name := str(part.get(key)).removeprefix("torch.")) in _COMPUTE:
                return {"dtype": _COMPUTE[name]}
    return {}


def _direct(hf: Mapping, family: families.Family) -> dict[str, Any]:
    """The fields that keys have directly, once all keys and their types are known."""
    fixed = _FIXED | dict(family.fixed)
    accepted = {*family.keys.values(), *family.absent, *fixed}
    accepted.update(family.activation, family.ignored)
    if "rope_theta" in family.absent:
        accepted |= {*_ROPE_KEYS, _ORIGINAL_LENGTH}
    if (windows := family.windows) is not None:
        accepted.update(["layer_types"] if windows.listed else [])
        accepted.update(["use_sliding_window"] if windows.gated else [])
        accepted.update([windows.key] if windows.key else [])
    problems = _unknown(hf, accepted)
    for key, values in fixed.items():
        if key in hf and hf[key] not in values:
            problems.append(
                f"config.json.{key}: {hf[key]!r} is not computed here; only "
                f"{' or '.join(map(repr, values))}"
            )
    values = {**family.absent, **hf}
    for field, key in family.keys.items():
        if key not in values:
            problems.append(f"config.json.{key}: missing")
        elif fault := config.fault(decoder_config.DecoderConfig, field, values[key]):
            problems.append(f"config.json.{key}: {fault}")
    if problems:
        raise errors.ConfigError(problems)
    return {field: values[key] for field, key in family.keys.items()}


def _unknown(hf: Mapping, accepted: set[str]) -> list[str]:
    return [
        f"config.json.{key}: unknown, so that what it changes would be ignored (its "
        f"value is {value!r:.60}); delete it if that is nothing"
        for key, value in hf.items()
        if key not in accepted and key not in _IGNORED and not key.startswith("_")
    ]


def _object(hf: Mapping, key: str) -> dict:
    """The object under a key, empty where there is none."""
    return config.expect(hf.get(key) or {}, dict, f"config.json.{key}")


def _flag(hf: Mapping, key: str) -> bool:
    value = hf.get(key)
    return value is not None and config.expect(value, bool, f"config.json.{key}")


def _number(hf: Mapping, key: str, absent: int, least: int) -> int:
    value = config.expect(hf.get(key, absent), int, f"config.json.{key}")
    if value < least:
        raise errors.ConfigError(f"config.json.{key}: {value} must be at least {least}")
    return value


def _read_activation(hf: Mapping, family: families.Family) -> str:
    key, names = family.activation[0], family.activations
    value = hf.get(key) or next(iter(names))
    if value not in list(names):
        only = ", ".join(map(repr, names))
        raise errors.ConfigError(
            f"config.json.{key}: {value!r} is not computed here; only {only}"
        )
    return names[value]


def _activation_name(c: decoder_config.DecoderConfig, family: families.Family) -> str:
    for name, activation in family.activations.items():
        if activation == c.activation:
            return name
    raise errors.ConfigError(
        f"model.activation: {c.activation!r} has no name in this family's config.json; "
        f"only {', '.join(dict.fromkeys(family.activations.values()))} have"
    )


def _read_scale(hf: Mapping) -> float:
    """`attention_scale`, the inverse root of query_pre_attn_scalar."""
    value = hf["query_pre_attn_scalar"]
    if not isinstance(value, (int, float)) or value <= 0:
        raise errors.ConfigError(
            f"config.json.query_pre_attn_scalar: {value!r} is not a positive number"
        )
    return value**-0.5


def _write_scale(c: decoder_config.DecoderConfig) -> float:
    """query_pre_attn_scalar: a whole number where one gives exactly this scale."""
    if c.attention_scale is None:
        return c.size_of_head
    exact = c.attention_scale**-2
    return round(exact) if round(exact) ** -0.5 == c.attention_scale else exact


def _read_windows(hf: Mapping, family: families.Family, layers: int) -> dict[str, Any]:
    """`window` and `window_pattern`, from `layer_types` or from the family's rule."""
    rule = family.windows
    used = not rule.gated or _flag(hf, "use_sliding_window")
    window = {**family.absent, **hf}["sliding_window"] if used else None
    number = _number(hf, rule.key, rule.absent, rule.least) if rule.key else 0
    has_window = [rule.has_window(layer, number) for layer in range(layers)]
    if rule.gated and window is None:
        has_window = [False] * layers
    if rule.listed and hf.get("layer_types") is not None:
        kinds = config.expect(hf["layer_types"], list, "config.json.layer_types")
        if len(kinds) != layers or any(x not in list(_LAYER_TYPES) for x in kinds):
            raise errors.ConfigError(
                f"config.json.layer_types: {kinds!r:.80} are not {layers} of "
                f"{', '.join(_LAYER_TYPES)}"
            )
        has_window = [_LAYER_TYPES[kind] for kind in kinds]
    if not any(has_window):
        return {"window": None, "window_pattern": (True,)}
    if window is None:
        raise errors.ConfigError(
            "config.json.sliding_window: missing, and there are layers with a window"
        )
    return {"window": window, "window_pattern": decoder_config.shortest(has_window)}


def _write_windows(
    c: decoder_config.DecoderConfig, family: families.Family
) -> dict[str, Any]:
    hf: dict[str, Any] = {"sliding_window": c.window}
    if family.windows.gated:
        hf["use_sliding_window"] = c.window is not None
    if family.windows.listed:
        full, sliding = _LAYER_TYPES
        flags = [c.window is not None and flag for flag in c.layers_with_window]
        hf["layer_types"] = [sliding if flag else full for flag in flags]
    return hf


def _read_rope(hf: Mapping, family: families.Family, max_length: int) -> dict[str, Any]:
    """rope_theta, rope_scaling and rope_fraction."""
    numbers = dict(_object(hf, "rope_scaling") or _object(hf, "rope_parameters"))
    absent = {"partial_rotary_factor": 1.0} | family.absent
    for key in ("rope_theta", "partial_rotary_factor"):
        if numbers.get(key) is None:
            numbers[key] = absent[key] if hf.get(key) is None else hf[key]
    fraction = numbers.pop("partial_rotary_factor")
    if "partial_rotary_factor" not in family.absent and fraction != 1:
        raise errors.ConfigError(
            f"config.json.partial_rotary_factor: {fraction!r} is not read by this "
            "family's class in transformers, which rotates all of a head; delete it if "
            "the model was trained so"
        )
    original = hf.get(_ORIGINAL_LENGTH)
    if original is not None:
        _number(hf, _ORIGINAL_LENGTH, original, least=2)
    return {
        "rope_theta": numbers.pop("rope_theta"),
        "rope_fraction": fraction,
        "rope_scaling": _read_scaling(numbers, max_length, original),
    }


def _scaling_keys(names) -> dict[str, str]:
    """`{key in rope_scaling: field of rope.Scaling}`, which differ in one."""
    return {_ORIGINAL_LENGTH if x == "original_length" else x: x for x in names}


def _read_scaling(
    numbers: Mapping, max_length: int, original: int | None
) -> dict[str, Any] | None:
    """The fields of `rope.Scaling`, or None where frequencies are not stretched.

    Args:
      numbers: `rope_scaling` or `rope_parameters`, without those of `_read_rope`.
      max_length: of texts, from which some numbers follow where they are absent.
      original: the length before stretching, where config.json itself has it.
    """
    numbers = {key: value for key, value in numbers.items() if value is not None}
    kind = numbers.pop("type", "default")
    kind = numbers.pop("rope_type", kind)
    where = "config.json.rope_scaling"
    if kind not in (kinds := ["default", *rope.KINDS]):
        raise errors.ConfigError(
            f"{where}.rope_type: {kind!r} is not computed here; only {', '.join(kinds)}"
        )
    required, optional = rope.KINDS.get(kind, (set(), set()))
    keys = _scaling_keys(required | optional)
    unknown = set(numbers) - {*keys, *_FACTORS.get(kind, ()), _ORIGINAL_LENGTH}
    problems = [f"{where}.{key}: {kind} has no such number" for key in sorted(unknown)]
    problems += [
        f"{where}.{key}: {value!r} is not a number"
        for key, value in numbers.items()
        if not isinstance(value, (int, float))
        and key not in ("short_factor", "long_factor")
    ]
    if problems:
        raise errors.ConfigError(problems)
    if (stated := numbers.get(_ORIGINAL_LENGTH, 2)) < 2:
        problem = f"{stated} must be at least 2"
        raise errors.ConfigError(f"{where}.{_ORIGINAL_LENGTH}: {problem}")
    if "original_length" in required:
        numbers[_ORIGINAL_LENGTH] = (
            original or numbers.get(_ORIGINAL_LENGTH) or max_length
        )
    if kind in _FACTORS and "attention_factor" not in numbers:
        numbers |= _attention_factor(kind, numbers, max_length)
    fields = {name: numbers[key] for key, name in keys.items() if key in numbers}
    fields = {k: tuple(v) if isinstance(v, list) else v for k, v in fields.items()}
    return {"kind": kind, **fields} if required else None


def _attention_factor(kind: str, numbers: Mapping, max_length: int) -> dict[str, float]:
    """The factor, and that of attention, where they follow from other numbers."""
    original = numbers[_ORIGINAL_LENGTH]
    factor = numbers.get("factor", max_length / original)
    if kind == "longrope":
        return {"factor": factor, "attention_factor": _longrope(factor, original)}
    scales = numbers.get("mscale"), numbers.get("mscale_all_dim")
    if not all(scales):
        return {"factor": factor}
    first, second = (
        1.0 if factor <= 1 else 0.1 * scale * math.log(factor) + 1.0 for scale in scales
    )
    return {"factor": factor, "attention_factor": first / second}


def _longrope(factor: float, original: int) -> float:
    return 1.0 if factor <= 1 else math.sqrt(1 + math.log(factor) / math.log(original))


def _write_scaling(c: decoder_config.DecoderConfig) -> dict[str, Any] | None:
    s = c.rope_scaling
    if s is None:
        return None
    names = [field.name for field in dataclasses.fields(s)[1:]]
    numbers = {key: getattr(s, name) for key, name in _scaling_keys(names).items()}
    if s.kind == "longrope":
        usual = _longrope(c.max_length / s.original_length, s.original_length)
        if s.attention_factor == usual:  # older readers take exactly three numbers
            del numbers["attention_factor"]
    numbers = {k: list(v) if isinstance(v, tuple) else v for k, v in numbers.items()}
    return {"rope_type": s.kind} | {k: v for k, v in numbers.items() if v is not None}
