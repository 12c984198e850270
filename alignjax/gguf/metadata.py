# SPDX-License-Identifier: Apache-2.0
"""What the metadata of a GGUF file says of a model, as a config.json, both ways.

Keys of an architecture begin with its name. Each is read here, or may have only the
value that is computed, or changes nothing; any other is refused by name, since what it
changes would be ignored. Keys of other beginnings are notes, and `tokenizer.` is read
in `tokenizer`.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Callable, Collection, Mapping
from typing import Any

import numpy as np

from alignjax import config, errors, registry
from alignjax.huggingface import config_json
from alignjax.models import decoder_config, families, rope

ARCHITECTURES = ("gemma", "llama", "phi3", "qwen2", "qwen3")  # families of that name
# Numbers of the types of metadata that are written.
U32, F32, BOOL, STRING, I32 = 4, 6, 7, 8, 5
# Key of an architecture: key of config.json.
KEYS = {
    "vocab_size": "vocab_size",
    "context_length": "max_position_embeddings",
    "embedding_length": "hidden_size",
    "block_count": "num_hidden_layers",
    "feed_forward_length": "intermediate_size",
    "attention.head_count": "num_attention_heads",
    "attention.head_count_kv": "num_key_value_heads",
    "attention.key_length": "head_dim",
    "attention.layer_norm_rms_epsilon": "rms_norm_eps",
    "rope.freq_base": "rope_theta",
}
OPTIONAL = {"vocab_size", "rope.freq_base"}
OPTIONAL |= {"attention.head_count_kv", "attention.key_length"}
FLOATS = {"attention.layer_norm_rms_epsilon", "rope.freq_base"}
# Keys of an architecture that may only have these values.
FIXED = {
    "attention.causal": (True,),
    "attention.clamp_kqv": (0,),
    "attention.max_alibi_bias": (0,),
    "expert_count": (0,),
    "expert_used_count": (0,),
    "pooling_type": (0,),
    "use_parallel_residual": (False,),
}
# Keys that change nothing that is computed.
NOTES = {"rope.scaling.finetuned", "tensor_data_layout"}
# Numbers of `rope.scaling` and `rope_scaling`, by kind; kinds have the same names.
SCALING = {
    "none": {},
    "linear": {"factor": "factor"},
    "yarn": {
        "factor": "factor",
        "original_context_length": "original_max_position_embeddings",
        "attn_factor": "attn_factor",
        "yarn_beta_fast": "beta_fast",
        "yarn_beta_slow": "beta_slow",
    },
    "longrope": {
        "original_context_length": "original_max_position_embeddings",
        "attn_factor": "attention_factor",
    },
}
FACTORS = "rope_freqs.weight"  # what Llama 3.1 divides its frequencies by
# How the models that have such factors were published.
LLAMA3 = dict(original_length=8192, low_freq_factor=1.0, high_freq_factor=4.0)
LLAMA3_FACTORS = (8.0, 32.0)
LONG = {x: f"rope_factors_{x}.weight" for x in ("short", "long")}
# Name of a tensor of a layer: the name in folders of Hugging Face's.
LAYER = {
    "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
    **{f"attn_{x}": f"self_attn.{x}_proj" for x in "qkv"},
    "attn_output": "self_attn.o_proj",
    "attn_qkv": "self_attn.qkv_proj",
    **{f"attn_{x}_norm": f"self_attn.{x}_norm" for x in "qk"},
    **{f"ffn_{x}": f"mlp.{x}_proj" for x in ("gate", "up", "down")},
}
OUTER = {
    "token_embd.weight": "model.embed_tokens.weight",
    "output_norm.weight": "model.norm.weight",
    "output.weight": "lm_head.weight",
}
MOST_NUMBERS = 2**16  # in a list, which has one a layer
Values = Callable[[str], np.ndarray]


def plain(metadata: Mapping[str, Any], where: str) -> dict[str, Any]:
    """The metadata, of which all but the tokenizer's has lists in place of arrays.

    Raises:
      ConfigError: a list of more numbers than a model has layers.
    """
    out = dict(metadata)
    for key, value in metadata.items():
        if isinstance(value, np.ndarray) and not key.startswith("tokenizer."):
            if value.size > MOST_NUMBERS:
                raise errors.ConfigError(
                    f"{where}: {key:.80}: {value.size:,} numbers, of {MOST_NUMBERS:,} "
                    "at most"
                )
            out[key] = value.tolist()
    return out


def family_of(metadata: Mapping[str, Any], where: str) -> families.Family:
    """The family of an architecture.

    Raises:
      ConfigError: there is none, or the file is a part of a model or an adapter.
    """
    kind = metadata.get("general.type", "model")
    if kind != "model" or metadata.get("adapter.type") is not None:
        raise errors.ConfigError(
            f"{where}: general.type: {kind!r:.60} is no whole model; take a file of one"
        )
    if (count := metadata.get("split.count", 1)) not in (0, 1):
        raise errors.ConfigError(
            f"{where}: split.count: one of {count!r:.20} files of a model; join them "
            "first with llama-gguf-split --merge"
        )
    if (version := metadata.get("general.quantization_version", 2)) != 2:
        raise errors.ConfigError(
            f"{where}: general.quantization_version: {version!r:.20} is not read, only "
            "2; take a newer file"
        )
    name = metadata.get("general.architecture")
    if name not in ARCHITECTURES:
        remedy = registry.closest(str(name)[:60], ARCHITECTURES)
        raise errors.ConfigError(
            f"{where}: general.architecture: {name!r:.60} is not read; {remedy}"
        )
    return families.find(name)


def names(family: families.Family, layers: int) -> dict[str, str]:
    """`{name in a GGUF file: name in a folder}` of all tensors that there may be."""
    inner = dict(LAYER)
    if family.name == "phi3":
        inner["ffn_up"] = "mlp.gate_up_proj"
    return OUTER | {
        f"blk.{i}.{name}.{last}": f"model.layers.{i}.{in_folder}.{last}"
        for i in range(layers)
        for name, in_folder in inner.items()
        for last in ("weight", "bias")
    }


def naming_keys(family: families.Family, problem: str) -> str:
    """A problem with a config.json or its model, told of the keys of this file."""
    if problem.startswith("model."):
        problem = config_json.naming_keys(family, problem)
    keys = {name: key for key, name in KEYS.items()}
    keys |= {
        f"rope_scaling.{name}": f"rope.scaling.{key}"
        for names in SCALING.values()
        for key, name in names.items()
    }
    keys["rope_scaling.original_length"] = "rope.scaling.original_context_length"
    keys["sliding_window"] = "attention.sliding_window"
    named = lambda match: f"{family.name}.{keys.get(match[0], match[0])}"
    return re.sub(r"[\w.]+(?=: | = )", named, problem.removeprefix("config.json."))


def read(
    metadata: Mapping[str, Any],
    tensors: Collection[str],
    values: Values,
    family: families.Family,
    where: str,
) -> dict[str, Any]:
    """The config.json of the model that a file has.

    Args:
      tensors: names of its tensors.
      values: `name -> array` of a tensor, for those that hold settings.
      where: the file, for messages.

    Raises:
      ConfigError: keys that are missing, unknown or of another type, and whatever would
        be computed otherwise here.
    """
    prefix, problems, hf = f"{family.name}.", [], {"model_type": family.model_types[0]}
    keys = {
        key.removeprefix(prefix): value
        for key, value in metadata.items()
        if key.startswith(prefix)
    }
    scaling = {
        key.removeprefix("rope.scaling."): keys.pop(key)
        for key in [*keys]
        if key.startswith("rope.scaling.") and key not in NOTES
    }
    if (linear := keys.pop("rope.scale_linear", 1)) != 1:  # of the first files
        scaling = {"type": "linear", "factor": linear} | scaling
    handled = {*KEYS, *NOTES, "rope.dimension_count", "attention.value_length"}
    handled |= {"attention.sliding_window"} if family.name == "phi3" else set()
    for key, value in keys.items():
        if key in FIXED and value not in FIXED[key]:
            problems.append(f"{prefix}{key}: {value!r:.60} is not computed here")
        elif key not in handled and key not in FIXED:
            problems.append(
                f"{prefix}{key}: unknown, so that what it changes would be ignored "
                f"(its value is {value!r:.60})"
            )
    for key, name in KEYS.items():
        value = _scalar(keys.get(key))
        if value is None and key in OPTIONAL and key not in keys:
            continue
        if not isinstance(value, (int, float) if key in FLOATS else int):
            problems.append(f"{prefix}{key}: {value!r:.60} is no such number")
        else:
            hf[name] = _shortest(value) if isinstance(value, float) else value
    if problems:
        raise errors.ConfigError([f"{where}: {problem}" for problem in problems])
    hf["tie_word_embeddings"] = "output.weight" not in tensors
    if "attention_bias" in family.absent:
        hf["attention_bias"] = "blk.0.attn_q.bias" in tensors
    if "mlp_bias" in family.absent:
        hf["mlp_bias"] = "blk.0.ffn_gate.bias" in tensors
    if family.name == "phi3":
        hf["sliding_window"] = keys.get("attention.sliding_window") or None
    hf |= _heads(hf, keys, family, f"{where}: {prefix}")
    scaled = _scaling(scaling, f"{where}: {prefix}rope.scaling")
    factors = [name for name in (FACTORS, *LONG.values()) if name in tensors]
    if factors == [FACTORS] and scaled is None:
        scaled = _llama3(values(FACTORS), hf, f"{where}: {FACTORS}")
    elif factors == [*LONG.values()] and (scaled or {}).get("rope_type") == "longrope":
        lists = {f"{x}_factor": _list(values(name)) for x, name in LONG.items()}
        scaled = {**scaled, **lists}
        original = "original_max_position_embeddings"  # Phi 3 has it outside as well
        hf |= {original: scaled[original]} if original in scaled else {}
    elif factors or (scaled or {}).get("rope_type") == "longrope":
        raise errors.ConfigError(
            f"{where}: {', '.join(factors) or 'no tensor of factors'} beside "
            f"{prefix}rope.scaling.type = {scaling.get('type')!r:.40} is not computed"
        )
    if scaled is not None:
        hf["rope_scaling"] = scaled
    return hf


def _scalar(value: Any) -> Any:
    """A number; the one of a list with a number a layer that are all equal."""
    if isinstance(value, list) and value and value.count(value[0]) == len(value):
        return value[0]
    return value


def _shortest(value: float) -> float:
    """The shortest decimal number that is the same in float32."""
    return float(str(np.float32(value)))


def _list(values: np.ndarray) -> list[float]:
    return [_shortest(x) for x in values.reshape(-1)]


def _heads(hf: Mapping, keys: Mapping, family: families.Family, where: str) -> dict:
    """`head_dim` and `partial_rotary_factor`."""
    heads, width = hf["num_attention_heads"], hf["hidden_size"]
    if not 0 < heads <= width:
        raise errors.ConfigError(f"{where}attention.head_count: {heads} of {width}")
    size = hf.get("head_dim", width // heads)
    if (values := keys.get("attention.value_length", size)) != size:
        raise errors.ConfigError(
            f"{where}attention.value_length: {values!r:.40}, where keys have {size}; "
            "heads of two sizes are not computed here"
        )
    rotated = keys.get("rope.dimension_count", size)
    if not isinstance(rotated, int) or not 0 < rotated <= size:
        raise errors.ConfigError(
            f"{where}rope.dimension_count: {rotated!r:.40} of {size} is not computed"
        )
    if "partial_rotary_factor" in family.absent:
        return {"head_dim": size, "partial_rotary_factor": rotated / size}
    if rotated != size:
        raise errors.ConfigError(
            f"{where}rope.dimension_count: {rotated} of {size}; this family rotates all"
        )
    return {"head_dim": size}


def _scaling(numbers: Mapping[str, Any], where: str) -> dict[str, Any] | None:
    """`rope_scaling` of config.json, but for the lists of longrope."""
    kind = numbers.get("type", "none")
    if kind not in list(SCALING):
        raise errors.ConfigError(f"{where}.type: {kind!r:.60} is not computed here")
    problems, scaled = [], {"rope_type": kind}
    for key, value in numbers.items():
        if key == "type" or (value == 0 and kind == "none"):
            continue
        if key not in SCALING[kind] or not isinstance(value, (int, float)):
            problems.append(f"{where}.{key}: {value!r:.60} is not computed for {kind}")
        else:
            value = _shortest(value) if isinstance(value, float) else value
            scaled[SCALING[kind][key]] = value
    factor = scaled.pop("attn_factor", 1)
    if factor != 1:
        problems.append(f"{where}.attn_factor: {factor} is not computed for {kind}")
    if problems:
        raise errors.ConfigError(problems)
    return None if kind == "none" else scaled


def _llama3(factors: np.ndarray, hf: Mapping[str, Any], where: str) -> dict[str, Any]:
    """The scaling of Llama 3.1 or 3.2 that has these factors."""
    for factor in LLAMA3_FACTORS:
        s = rope.Scaling(kind="llama3", factor=factor, **LLAMA3)
        expected = factors_of(s, hf["head_dim"], hf.get("rope_theta", 10_000.0))
        if expected.shape == factors.shape and np.allclose(factors, expected, 1e-5, 0):
            names = {"original_length": "original_max_position_embeddings"}
            numbers = {names.get(k, k): v for k, v in LLAMA3.items()}
            return {"rope_type": "llama3", "factor": factor, **numbers}
    raise errors.ConfigError(
        f"{where}: its factors are not those of Llama 3.1 or 3.2, and others are not "
        "computed here"
    )


def factors_of(scaling: rope.Scaling, dimensions: int, theta: float) -> np.ndarray:
    """What a scaling divides each frequency by, float32 [dimensions / 2]."""
    plain = rope.frequencies(dimensions, theta)
    return (plain / rope.frequencies(dimensions, theta, scaling)).astype(np.float32)


def write(
    c: decoder_config.DecoderConfig, family: families.Family
) -> tuple[dict[str, tuple[int, Any]], dict[str, np.ndarray]]:
    """The metadata of a model, `{key: (type, value)}`, and tensors that hold settings.

    Raises:
      ConfigError: a field that a file of the architecture cannot express.
    """
    if family.name not in ARCHITECTURES:
        raise errors.ConfigError(
            f"model.family: {family.name} has no GGUF form here; only "
            f"{', '.join(ARCHITECTURES)} have"
        )
    hf, settings = config_json.write(c, family), {}
    number = lambda key: (F32 if key in FLOATS else U32, hf[KEYS[key]])
    numbers = {key: number(key) for key in KEYS}
    numbers["attention.value_length"] = (U32, c.size_of_head)
    numbers["rope.dimension_count"] = (U32, c.rotated_dimensions)
    if family.name == "phi3" and c.window is not None:
        numbers["attention.sliding_window"] = (U32, c.window)
    if (s := c.rope_scaling) is not None and s.kind == "llama3":
        settings[FACTORS] = factors_of(s, c.size_of_head, c.rope_theta)
    elif s is not None:
        scaled = hf["rope_scaling"] | {
            "original_max_position_embeddings": s.original_length,
            "attention_factor": rope.amplitude(s) if s.kind == "longrope" else None,
        }
        numbers["rope.scaling.type"] = (STRING, s.kind)
        for key, name in SCALING[s.kind].items():
            if scaled.get(name) is not None:
                kind = U32 if key == "original_context_length" else F32
                numbers[f"rope.scaling.{key}"] = (kind, scaled[name])
        if s.kind == "longrope":
            lists = (s.short_factor, s.long_factor)
            for name, values in zip(LONG.values(), lists, strict=True):
                settings[name] = np.array(values, np.float32)
    metadata = {
        "general.architecture": (STRING, family.name),
        "general.type": (STRING, "model"),
        "general.quantization_version": (U32, 2),
        **{f"{family.name}.{key}": entry for key, entry in numbers.items()},
    }
    _check(c, family, metadata, settings)
    return metadata, settings


def _check(c, family, metadata, settings) -> None:
    """Raises ConfigError unless what is written reads as the same model."""
    tensors = {*settings} | (set() if c.tied else {"output.weight"})
    tensors |= {"blk.0.attn_q.bias"} if c.attention_bias != "none" else set()
    tensors |= {"blk.0.ffn_gate.bias"} if c.mlp_bias else set()
    plain = {key: value for key, (_, value) in metadata.items()}
    hf = read(plain, tensors, settings.__getitem__, family, "export")
    fields = config_json.read(hf, family)
    again = config.build(decoder_config.DecoderConfig, fields, "model")
    c = dataclasses.replace(c, max_length=c.context or c.max_length)
    before, after = config_json.computed(c), config_json.computed(again)
    problems = [
        f"model.{name}: {value!r:.200} cannot be said in a GGUF file of {family.name}, "
        f"which would be read as {after[name]!r:.200}"
        for name, value in before.items()
        if not _equal(value, after[name])
    ]
    if problems:
        raise errors.ConfigError(problems)


def _equal(a: Any, b: Any) -> bool:
    """Whether two values of a field are the same in float32."""
    if dataclasses.is_dataclass(a) and dataclasses.is_dataclass(b):
        a, b = dataclasses.astuple(a), dataclasses.astuple(b)
    if isinstance(a, tuple) and isinstance(b, tuple) and len(a) == len(b):
        return all(map(_equal, a, b))
    if isinstance(a, float) and isinstance(b, (int, float)):
        return math.isclose(a, b, rel_tol=1e-6)
    return a == b
