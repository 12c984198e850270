# SPDX-License-Identifier: Apache-2.0
"""`rope_scaling` of config.json and `rope.Scaling`, both ways."""

from __future__ import annotations

import math
from collections.abc import Mapping

from alignjax import errors
from alignjax.models import decoder_config, rope

_ORIGINAL = "original_max_position_embeddings"
_LISTS = ("short_factor", "long_factor")
# Our field: their key.
_SCALING = {
    "factor": "factor",
    "original_length": _ORIGINAL,
    "low_freq_factor": "low_freq_factor",
    "high_freq_factor": "high_freq_factor",
    "beta_fast": "beta_fast",
    "beta_slow": "beta_slow",
    "truncate": "truncate",
    "attention_factor": "attention_factor",
    "short_factor": "short_factor",
    "long_factor": "long_factor",
}


def read(theirs: Mapping, max_length: int, original: int | None = None) -> dict | None:
    """`rope.Scaling` as a dict, or None where frequencies are not stretched.

    Args:
      theirs: what is left of rope_scaling, or of rope_parameters.
      max_length: of texts, which some numbers follow from where they are not given.
      original: what config.json itself says that texts were like originally.

    Raises:
      ConfigError: a kind or a number that we do not compute with.
    """
    given = {key: value for key, value in theirs.items() if value is not None}
    kind = given.pop("type", "default")
    kind = given.pop("rope_type", kind)
    if kind not in ["default", *rope.KINDS]:
        raise errors.ConfigError(
            f"config.json.rope_scaling.rope_type: {kind!r} is not computed here; only "
            f"default, {', '.join(rope.KINDS)}"
        )
    required, optional = rope.KINDS.get(kind, (set(), set()))
    known = {_SCALING[name]: name for name in _SCALING if name in required | optional}
    ignored = {_ORIGINAL}
    problems = [
        f"config.json.rope_scaling.{key}: {kind} has no such number"
        for key in sorted(set(given) - {*known, *_FACTORS.get(kind, ()), *ignored})
    ]
    problems += [
        f"config.json.rope_scaling.{key}: {value!r} is not a number"
        for key, value in given.items()
        if not isinstance(value, (int, float)) and key not in _LISTS
    ]
    if problems:
        raise errors.ConfigError(problems)
    if given.get(_ORIGINAL, 2) < 2:
        raise errors.ConfigError(
            f"config.json.rope_scaling.{_ORIGINAL}: {given[_ORIGINAL]} must be at "
            "least 2"
        )
    if "original_length" in required:
        given[_ORIGINAL] = original or given.get(_ORIGINAL) or max_length
    if kind in _FACTORS and "attention_factor" not in given:
        _attention_factor(kind, given, max_length)
    said = {name: given[key] for key, name in known.items() if key in given}
    said = {k: tuple(v) if isinstance(v, list) else v for k, v in said.items()}
    return {"kind": kind, **said} if required else None


# Numbers from which that of attention follows.
_FACTORS = {"yarn": ("mscale", "mscale_all_dim"), "longrope": ("factor",)}


def _attention_factor(kind: str, given: dict, max_length: int) -> None:
    """Says in `given` what it leaves to be inferred."""
    original = given[_ORIGINAL]
    factor = given.setdefault("factor", max_length / original)
    if kind == "longrope":
        given["attention_factor"] = _longrope(factor, original)
    elif given.get("mscale") and given.get("mscale_all_dim"):
        scales = given["mscale"], given["mscale_all_dim"]
        one, all_dimensions = (_yarn(factor, scale) for scale in scales)
        given["attention_factor"] = one / all_dimensions


def _yarn(factor: float, scale: float) -> float:
    return 1.0 if factor <= 1 else 0.1 * scale * math.log(factor) + 1.0


def _longrope(factor: float, original: int) -> float:
    return 1.0 if factor <= 1 else math.sqrt(1 + math.log(factor) / math.log(original))


def write(c: decoder_config.DecoderConfig) -> dict | None:
    """rope_scaling, None where frequencies are not stretched."""
    s = c.rope_scaling
    if s is None:
        return None
    said = {theirs: getattr(s, ours) for ours, theirs in _SCALING.items()}
    if s.kind == "longrope":
        usual = _longrope(c.max_length / s.original_length, s.original_length)
        if s.attention_factor == usual:  # older readers take exactly three numbers
            del said["attention_factor"]
    said = {k: list(v) if isinstance(v, tuple) else v for k, v in said.items()}
    return {"rope_type": s.kind} | {k: v for k, v in said.items() if v is not None}
