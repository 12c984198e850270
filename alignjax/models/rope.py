# SPDX-License-Identifier: Apache-2.0
"""Rotary positions (arXiv:2104.09864) and the ways to stretch them to longer texts.

Frequencies are constants of a model, computed on the host in float32, step by step as
transformers does: at position 100,000 the last bit of one is a hundredth of a radian.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np

from alignjax import bounds, errors
from alignjax.distributed import sharding

_SIZES = {"factor", "original_length"}
# Required and optional numbers of each kind.
KINDS = {
    "linear": ({"factor"}, set()),
    "llama3": (_SIZES | {"low_freq_factor", "high_freq_factor"}, set()),
    "yarn": (_SIZES, {"beta_fast", "beta_slow", "truncate", "attention_factor"}),
    "longrope": (
        {"original_length", "short_factor", "long_factor"},
        {"attention_factor"},
    ),
}


@dataclasses.dataclass(frozen=True)
class Scaling:
    """How rotary frequencies are changed for texts longer than the original ones.

    Attributes:
      kind: `linear` divides all frequencies by `factor` (arXiv:2306.15595); `llama3`
        divides the low ones and interpolates in the middle (arXiv:2407.21783); `yarn`
        does so by dimension and sharpens attention (arXiv:2309.00071); `longrope`
        divides each by a number of its own, from one list or another according to the
        document's length (arXiv:2402.13753).
      factor: of the length of texts.
      original_length: in tokens, of texts before stretching.
      low_freq_factor, high_freq_factor: original_length over these are the wavelengths
        from which on frequencies are divided, and up to which they stay.
      beta_fast, beta_slow: turns within original_length, from which on frequencies
        stay, and up to which they are divided; by default 32 and 1.
      truncate: whether the dimensions that follow from these are rounded; by default.
      attention_factor: of cosines and sines; by default 1 for longrope and
        1 + ln(factor) / 10 for yarn.
      short_factor, long_factor: for documents of up to original_length tokens, and for
        longer ones; one number a frequency.
    """

    kind: Literal["linear", "llama3", "yarn", "longrope"]
    factor: bounds.Positive | None = None
    original_length: bounds.Count | None = None
    low_freq_factor: bounds.Positive | None = None
    high_freq_factor: bounds.Positive | None = None
    beta_fast: bounds.Positive | None = None
    beta_slow: bounds.Positive | None = None
    truncate: bool | None = None
    attention_factor: bounds.Positive | None = None
    short_factor: tuple[bounds.Positive, ...] | None = None
    long_factor: tuple[bounds.Positive, ...] | None = None

    def __post_init__(self):
        required, optional = KINDS[self.kind]
        names, problems = ", ".join(sorted(required | optional)), []
        for field in dataclasses.fields(self)[1:]:
            name, is_set = field.name, getattr(self, field.name) is not None
            if name in required and not is_set:
                problems.append(f"{name}: {self.kind} needs it")
            if name not in required | optional and is_set:
                problems.append(f"{name}: {self.kind} has none; it has {names}")
        low, high = self.low_freq_factor, self.high_freq_factor
        if self.kind == "llama3" and not problems and low >= high:
            problems.append(
                f"low_freq_factor: {low} must be less than high_freq_factor = {high}"
            )
        if problems:
            raise errors.ConfigError(problems)

    @property
    def by_length(self) -> bool:
        """Whether frequencies depend on the length of a document."""
        return self.kind == "longrope" and self.short_factor != self.long_factor


def frequencies(
    dimensions: int, theta: float, scaling: Scaling | None = None, long: bool = False
) -> np.ndarray:
    """Radians a token, float32 [dimensions / 2], the highest first.

    With `long` those of documents longer than `scaling.original_length`.
    """
    f32 = np.float32
    exponents = np.arange(0, dimensions, 2, dtype=f32) / f32(dimensions)
    powers = np.power(float(theta), exponents.astype(np.float64)).astype(f32)
    plain = f32(1) / powers
    if scaling is None:
        return plain
    if scaling.kind == "linear":
        return plain / f32(scaling.factor)
    if scaling.kind == "llama3":
        return _llama3(plain, scaling)
    if scaling.kind == "yarn":
        return _yarn(powers, theta, scaling)
    divisors = scaling.long_factor if long else scaling.short_factor
    return f32(1) / (np.asarray(divisors, f32) * powers)


def _llama3(plain, s: Scaling) -> np.ndarray:
    f32 = np.float32
    # A number divided by a tensor is that times the reciprocal in torch; the last bit
    # of a frequency shows in the logits of long texts.
    wavelengths = f32(2 * math.pi) * (f32(1) / plain)
    turns = f32(s.original_length) * (f32(1) / wavelengths)
    low, high = s.low_freq_factor, s.high_freq_factor
    share = (turns - f32(low)) / f32(high - low)
    mixed = (f32(1) - share) * plain / f32(s.factor) + share * plain
    divided = wavelengths > s.original_length / low
    unchanged = wavelengths < s.original_length / high
    return np.where(divided, plain / f32(s.factor), np.where(unchanged, plain, mixed))


def _yarn(powers, theta: float, s: Scaling) -> np.ndarray:
    f32, half = np.float32, len(powers)

    def dimension(turns: float) -> float:
        """The dimension that makes so many turns in the original length, Eq. 17."""
        ratio = math.log(s.original_length / (turns * 2 * math.pi))
        return 2 * half * ratio / (2 * math.log(theta))

    low, high = dimension(s.beta_fast or 32), dimension(s.beta_slow or 1)
    if s.truncate is not False:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, 2 * half - 1)
    if low == high:
        high += 0.001
    ramp = (np.arange(half, dtype=f32) - f32(low)) / f32(high - low)
    share = f32(1) - np.clip(ramp, 0, 1)
    divided = f32(1) / (f32(s.factor) * powers)
    return divided * (f32(1) - share) + f32(1) / powers * share


def amplitude(scaling: Scaling | None) -> float:
    """The factor of cosines and sines."""
    if scaling is None or scaling.kind not in ("yarn", "longrope"):
        return 1.0
    if scaling.attention_factor is not None:
        return scaling.attention_factor
    if scaling.kind == "yarn" and scaling.factor > 1:
        return 0.1 * math.log(scaling.factor) + 1
    return 1.0


def rotations(positions_BT: jax.Array, frequencies_R, amplitude: float = 1.0):
    """Cosines and sines, float32 [B, T, R].

    `frequencies_R` may be [B, T, R] too, where documents differ in them.
    """
    angles = positions_BT[..., None].astype(jnp.float32) * frequencies_R
    if sharding.platform() == "cpu" and positions_BT.size > 1:
        # XLA recomputes such results in every layer that reads them, but no loops.
        turn = lambda i: jax.lax.cond(i == 0, jnp.cos, jnp.sin, angles)
        cos, sin = jax.lax.map(turn, jnp.arange(2))
    else:
        cos, sin = jnp.cos(angles), jnp.sin(angles)
    return (cos, sin) if amplitude == 1 else (amplitude * cos, amplitude * sin)


def rotate(x_BTNH: jax.Array, cos_sin) -> jax.Array:
    """RoPE (arXiv:2104.09864 Eq. 34), pairing dimension i with i + R of 2 R <= H.

    Dimensions from 2 R on stay as they are.
    """
    cos, sin = (table[..., None, :] for table in cos_sin)
    R = cos.shape[-1]
    x = x_BTNH.astype(jnp.float32)
    first, second, rest = x[..., :R], x[..., R : 2 * R], x[..., 2 * R :]
    parts = (first * cos - second * sin, second * cos + first * sin)
    if rest.shape[-1]:
        parts += (rest,)
    return jnp.concatenate(parts, axis=-1).astype(x_BTNH.dtype)
