# SPDX-License-Identifier: Apache-2.0
"""Floors: the least time of each kernel on a card, and of the parts of a step.

The floor of a kernel is the larger of its operations over the peak and its bytes over
the bandwidth of the card; of fused attention, its operations over the rate that was
measured for such a shape. Their sum times the card's factor predicts a step.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from alignjax.plan import cards, program

# Kinds of work, by which traces are summed up too.
PRODUCTS, ATTENTION, COLLECTIVES = "products", "attention", "collectives"
COPIES, ELEMENTWISE = "copies", "element-wise"
KINDS = (PRODUCTS, ATTENTION, ELEMENTWISE, COPIES, COLLECTIVES)

# Parts by the path of the source that a kernel comes from; the first that matches.
PATHS = (
    ("embedding", r"_embed\b|position_embed"),
    ("norms", r"norm\b"),
    ("MLP, element-wise", r"\bmlp\b|_mlp\b|/moe\b"),
    ("attention, element-wise", r"attention|_heads\b|/rope|/[qkvo]/"),
    ("layers, other", r"/layers\b|\bDecoder\.hidden|_read\b"),
    ("cross-entropy", r"unembed|logprobs|jvp\(\)"),
)
_LAYERS = re.compile(r"/layers\b|layers\[|Block|\blayer_")
_MOVES = {"copy", "transpose", "bitcast-convert", "dynamic-slice", "slice", "pad"}
_MOVES |= {"dynamic-update-slice", "concatenate", "broadcast"}


class Floor(NamedTuple):
    """A part of a step: kernels, and per step seconds, operations and bytes."""

    kernels: float
    seconds: float
    flops: float
    nbytes: float


class Collective(NamedTuple):
    """One kind of collective along some axes of the mesh, in a step of one device."""

    opcode: str
    axes: str
    times: float
    nbytes: float
    seconds: float


def seconds(kernel: program.Kernel, card: cards.Card) -> float:
    """The floor of a kernel, each time that it runs."""
    if kernel.opcode in program.COLLECTIVES:
        return _transfer(kernel, card)
    flops = kernel.flops / card.peak
    if kernel.attention is not None:
        flops = kernel.flops / _attention_rate(kernel.attention, card)
    return max(flops, (kernel.read + kernel.written) / card.bandwidth)


def _transfer(kernel: program.Kernel, card: cards.Card) -> float:
    if kernel.opcode == "collective-permute":
        return kernel.read / card.link
    n = len(program.first_group(kernel.groups))
    passes = 2 if kernel.opcode == "all-reduce" else 1
    return passes * kernel.read * (n - 1) / n / card.link


def _attention_rate(shape: program.Attention, card: cards.Card) -> float:
    """The measured rate of the nearest shape; heads count more than lengths."""
    distance = lambda measured: (
        abs(math.log2(measured[0] / shape.head)),
        abs(math.log2(measured[1] / shape.keys)),
    )
    return card.attention[min(card.attention, key=distance)][shape.masked]


def kind(kernel: program.Kernel) -> str:
    """The kind of work of a kernel, one of `KINDS`."""
    if kernel.opcode in program.COLLECTIVES:
        return COLLECTIVES
    if kernel.attention is not None:
        return ATTENTION
    if kernel.flops:
        return PRODUCTS
    return COPIES if kernel.root in _MOVES else ELEMENTWISE


def part(kernel: program.Kernel) -> str:
    """The part of a step that a kernel belongs to."""
    if (name := kind(kernel)) in (COLLECTIVES, ATTENTION):
        return name
    path = kernel.op_name
    if name == PRODUCTS:
        return "products of layers" if _LAYERS.search(path) else "products of the head"
    if "dynamic_update_slice" in path or kernel.root == "dynamic-update-slice":
        return "stacking in loops"
    if kernel.read == 0:
        return "clearing"
    if kernel.root == "dynamic-slice":
        return "unstacking in loops"
    for name, pattern in PATHS:
        if re.search(pattern, path):
            return name
    return "optimizer, other"


def by_part(
    kernels: Sequence[program.Kernel], card: cards.Card, of=part
) -> dict[str, Floor]:
    """The parts of a step, the longest first."""
    parts: dict[str, Floor] = {}
    for kernel in kernels:
        one = (1, seconds(kernel, card), kernel.flops, kernel.read + kernel.written)
        before = parts.get(of(kernel), Floor(0, 0, 0, 0))
        sums = (x + kernel.times * y for x, y in zip(before, one, strict=True))
        parts[of(kernel)] = Floor(*sums)
    return dict(sorted(parts.items(), key=lambda item: -item[1].seconds))


def collectives(
    kernels: Sequence[program.Kernel], card: cards.Card, mesh: Mapping[str, int]
) -> list[Collective]:
    """The collectives of a step by kind and axes, those of most bytes first.

    Args:
      mesh: the sizes of its axes, slowest first, as devices are numbered over them.
    """
    rows: dict[tuple[str, str], Collective] = {}
    for x in kernels:
        if x.opcode in program.COLLECTIVES:
            pairs = x.opcode == "collective-permute"
            group = program.first_group(x.groups)
            key = (x.opcode, "pairs" if pairs else _axes(group, mesh))
            before = rows.get(key, Collective(*key, 0, 0, 0))
            one = (1, x.read, seconds(x, card))
            sums = (a + x.times * b for a, b in zip(before[2:], one, strict=True))
            rows[key] = Collective(*key, *sums)
    return sorted(rows.values(), key=lambda row: -row.nbytes)


def _axes(group: Sequence[int], mesh: Mapping[str, int]) -> str:
    """The axes of the mesh along which the devices of a group lie."""
    names = [name for name, size in mesh.items() if size > 1]
    sizes = list(mesh.values())
    step = {
        name: math.prod(sizes[i + 1 :]) for i, name in enumerate(mesh) if name in names
    }
    for count in range(1, len(names) + 1):
        for axes in itertools.combinations(names, count):
            digits = itertools.product(*(range(mesh[axis]) for axis in axes))
            devices = {
                sum(d * step[axis] for d, axis in zip(digit, axes, strict=True))
                for digit in digits
            }
            if devices == set(group):
                return "+".join(axes)
    return "all"
