# SPDX-License-Identifier: Apache-2.0
"""Accelerators as data: what they can do, and what their compilers ask about them."""

from __future__ import annotations

from typing import NamedTuple

from alignjax import errors, registry


class Gpu(NamedTuple):
    """What XLA must know of an NVIDIA GPU to compile for it; from its datasheet.

    Attributes:
      capability: of CUDA, (major, minor).
      cores: streaming multiprocessors.
      lanes: float32 units of each.
      clock: GHz, at most.
      l2: bytes of its last cache.
      shared: bytes of a multiprocessor's own memory; a block may have all but 1024.
    """

    capability: tuple[int, int]
    cores: int
    lanes: int
    clock: float
    l2: int
    shared: int


class Card(NamedTuple):
    """A device, by the figures that plans are made of.

    Attributes:
      kind: as jax calls it, `device_kind`.
      memory: bytes of its memory.
      peak: bfloat16 FLOP/s that large matrix products reach.
      bandwidth: bytes a second that large copies reach.
      link: bytes a second that a device sends to the others of its host.
      attention: FLOP/s of fused causal attention, forwards and backwards, by the size
        of heads and the length: `{(H, T): (without a mask, with one)}`.
      factor: the time of a step over the sum of its floors.
      measured: how many steps the factor was fitted on; 0 where it is another card's.
      gpu: for the compiler.
      slices: for the compiler, the shapes that parts of a TPU pod have, by their number
        of chips.
      chip: for the compiler, how a TPU's chip is set up, where it has several ways.
    """

    kind: str
    memory: int
    peak: float
    bandwidth: float
    link: float
    attention: dict[tuple[int, int], tuple[float, float]]
    factor: float
    measured: int = 0
    gpu: Gpu | None = None
    slices: dict[int, str] | None = None
    chip: str | None = None


# One H200, jax 0.11.2, cuDNN 9.28: a product of 8192^3 reached 806e12 FLOP/s and the
# attention of these shapes 293e12, 212e12 and 482e12 (with a dense mask 185e12, 142e12
# and 228e12).
_ATTENTION = {
    (64, 1024): (212e12, 142e12),
    (64, 2048): (293e12, 185e12),
    (128, 4096): (482e12, 228e12),
}
_PEAK, _BANDWIDTH = 790e12, 4.3e12
# What these are of the datasheet's 989e12 and 4.8e12.
_OF_PEAK, _OF_BANDWIDTH = _PEAK / 989e12, _BANDWIDTH / 4.8e12
# The mean of measured times over floors of three steps of GPT-2 124M on an H200 (119.1,
# 114.2 and 104.1 ms over 97.1, 92.1 and 84.6); docs/performance.md tests it on others.
FACTOR = 1.233


def _like_h200(kind, memory, peak, bandwidth, link, **fields) -> Card:
    """A card of which a datasheet is known, as far from it as the H200 is from its."""
    attention = {
        shape: tuple(rate * peak / 989e12 for rate in rates)
        for shape, rates in _ATTENTION.items()
    }
    rates = dict(peak=peak * _OF_PEAK, bandwidth=bandwidth * _OF_BANDWIDTH)
    return Card(
        kind, memory, **rates, link=link, attention=attention, factor=FACTOR, **fields
    )


# Slices of pods that are tori of two dimensions, and of three.
_FLAT = {1: "1x1", 4: "2x2", 8: "2x4", 16: "4x4", 32: "4x8", 64: "8x8"}
_FLAT |= {128: "8x16", 256: "16x16"}
_CUBES = {4: "2x2x1", 8: "2x2x2", 16: "2x2x4", 32: "2x4x4", 64: "4x4x4"}
_CUBES |= {128: "4x4x8", 256: "4x8x8"}
_HOPPER = Gpu((9, 0), 132, 128, 1.98, 52_428_800, 233_472)
CARDS = {
    "a100": _like_h200(
        "NVIDIA A100-SXM4-80GB",
        85_100_068_864,
        312e12,
        2.04e12,
        300e9,
        gpu=Gpu((8, 0), 108, 64, 1.41, 41_943_040, 167_936),
    ),
    "h100": _like_h200(
        "NVIDIA H100 80GB HBM3", 84_942_979_072, 989e12, 3.35e12, 450e9, gpu=_HOPPER
    ),
    "h200": _like_h200(
        "NVIDIA H200", 151_397_597_184, 989e12, 4.8e12, 450e9, gpu=_HOPPER, measured=3
    ),
    "b200": _like_h200(
        "NVIDIA B200",
        191_514_411_008,
        2250e12,
        7.67e12,
        900e9,
        gpu=Gpu((10, 0), 148, 128, 1.965, 132_644_864, 233_472),
    ),
    # Of TPUs `link` is all links of a chip in one direction.
    "v4": _like_h200(
        "TPU v4", 32 * 2**30, 275e12, 1.228e12, 300e9, slices=_CUBES, chip="megacore"
    ),
    "v5e": _like_h200("TPU v5 lite", 16 * 2**30, 197e12, 819e9, 200e9, slices=_FLAT),
    "v5p": _like_h200("TPU v5", 95 * 2**30, 459e12, 2.765e12, 600e9, slices=_CUBES),
    "v6e": _like_h200("TPU v6 lite", 32 * 2**30, 918e12, 1.638e12, 400e9, slices=_FLAT),
}


def find(name: str) -> Card:
    """The card of that name. Raises ConfigError with the known ones."""
    if name not in CARDS:
        raise errors.ConfigError(
            f"topology: no card {name!r}; {registry.closest(name, CARDS)}"
        )
    return CARDS[name]


def of_kind(kind: str) -> Card | None:
    """The card that jax calls so; None of others, such as processors."""
    return next((card for card in CARDS.values() if card.kind == kind), None)
