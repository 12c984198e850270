# SPDX-License-Identifier: Apache-2.0
"""What the fields of a decoder allow: lines `field: what is wrong`, none if nothing."""

from __future__ import annotations

import dataclasses
import re

from alignjax.models import attention

_POSITIVE = (
    "vocab_size d_model layers heads d_ff max_length unroll kv_heads head_dim window "
    "experts_per_token expert_d_ff "
    "norm_epsilon rope_theta local_rope_theta attention_scale attention_softcap "
    "logit_softcap"
).split()
_NOT_NEGATIVE = (
    "score_heads embedding_noise lora_rank experts router_loss router_z_loss init_std"
).split()


def problems(c) -> list[str]:
    """All that is wrong with the fields of a `settings.DecoderConfig`."""
    found = []
    for name in _POSITIVE:
        value = getattr(c, name)
        if value is not None and value <= 0:
            found.append(f"{name}: {value} must be positive")
    for name in _NOT_NEGATIVE:
        if getattr(c, name) < 0:
            found.append(f"{name}: {getattr(c, name)} must be at least 0")
    if not found:
        found += _shapes(c) + _windows(c) + _positions(c) + _experts(c)
    for name in ("dropout", "lora_dropout"):
        if not 0 <= getattr(c, name) < 1:
            found.append(f"{name}: {getattr(c, name)} is not in [0, 1)")
    found += _adapters(c) + _base(c)
    if c.attention != "auto" and c.attention not in attention.BACKENDS:
        known = ", ".join(["auto", *attention.BACKENDS])
        found.append(f"attention: {c.attention!r} is not one of {known}")
    return found


def _shapes(c) -> list[str]:
    found = []
    if c.head_dim is None and c.d_model % c.heads:
        found.append(
            f"heads: {c.heads} do not divide d_model = {c.d_model}; "
            "change either, or set head_dim"
        )
    if c.heads % c.num_kv_heads:
        found.append(f"kv_heads: {c.num_kv_heads} do not divide heads = {c.heads}")
    if c.layers % c.unroll:
        found.append(f"unroll: {c.unroll} does not divide layers = {c.layers}")
    return found


def _windows(c) -> list[str]:
    if not c.window_pattern:
        return ["window_pattern: empty; leave it out where all layers have the window"]
    if c.window is None and not all(c.window_pattern):
        return ["window_pattern: has no effect without window; set that, or leave it"]
    if not any(c.window_pattern):
        return ["window_pattern: no layer has the window; leave both out"]
    if c.local_rope_theta is not None and c.window is None:
        return ["local_rope_theta: has no effect without window; set that, or leave it"]
    return []


def _positions(c) -> list[str]:
    if c.context is not None and c.context < c.max_length:
        return [f"context: {c.context} is less than max_length = {c.max_length}"]
    if c.positions != "rope":
        found = []
        for name in ("rope_scaling", "local_rope_theta", "context"):
            if getattr(c, name) is not None:
                found.append(f"{name}: has no effect with positions = {c.positions!r}")
        if c.rope_fraction != 1:
            found.append(
                f"rope_fraction: has no effect with positions = {c.positions!r}"
            )
        return found
    if c.size_of_head % 2:
        return [f"head_dim: {c.size_of_head} is odd; rotary positions pair"]
    if not 0 < c.rope_fraction <= 1:
        return [f"rope_fraction: {c.rope_fraction} is not in (0, 1]"]
    R = c.rotated_dimensions
    if R < 2 or R % 2:
        of = f"{c.rope_fraction} of head_dim = {c.size_of_head}"
        return [f"rope_fraction: {of} are {R} dimensions, which is not even"]
    found = []
    for name in ("short_factor", "long_factor"):
        values = getattr(c.rope_scaling, name, None)
        if values is not None and len(values) != R // 2:
            found.append(
                f"rope_scaling.{name}: has {len(values)} numbers for {R // 2} "
                "frequencies"
            )
    return found


def _experts(c) -> list[str]:
    if not c.experts:
        names = ("expert_d_ff", "router_loss", "router_z_loss")
        return [
            f"{name}: has no effect without experts; set those, or leave it"
            for name in names
            if getattr(c, name)
        ]
    found = []
    if c.experts_per_token > c.experts:
        found.append(
            f"experts_per_token: {c.experts_per_token} are more than the "
            f"experts = {c.experts} that there are"
        )
    if c.mlp_bias:
        found.append("mlp_bias: experts have no biases; set it to False")
    return found


def _base(c) -> list[str]:
    if c.base != "nf4":
        return []
    return [
        f"base: 'nf4' keeps two codes a byte, and {name} is odd; choose another"
        for name in ("d_model", "d_ff", "size_of_head")
        if getattr(c, name) % 2
    ]


def _adapters(c) -> list[str]:
    found = []
    if not c.lora_rank:
        for field in dataclasses.fields(c):
            value = getattr(c, field.name)
            if field.name.startswith("lora_") and value != field.default:
                found.append(
                    f"{field.name}: {value!r} has no effect with lora_rank = 0; "
                    f"set that, or this to {field.default!r}"
                )
    if c.lora_alpha <= 0:
        found.append(f"lora_alpha: {c.lora_alpha} must be positive")
    try:
        matches = [re.fullmatch(c.lora_targets, x) for x in c.projections]
    except re.error as error:
        found.append(f"lora_targets: {c.lora_targets!r}: {error}")
    else:
        if not any(matches):
            but = "; experts get no adapters" if c.experts else ""
            found.append(
                f"lora_targets: {c.lora_targets!r} matches no projection; there "
                f"are: {', '.join(c.projections)}{but}"
            )
    return found
