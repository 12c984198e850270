# SPDX-License-Identifier: Apache-2.0
"""Adapters merged into their kernels, a layer at a time, when these are sliced."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from alignjax.huggingface import leaves as lazy_leaves
from alignjax.models import decoder_config, lora


def merge(leaves: Mapping[str, Any], c: decoder_config.DecoderConfig) -> dict[str, Any]:
    """`lora.merge` of parameters that are read when they are sliced.

    Args:
      leaves: by path, those of adapters among them.
      c: settings of the model that they are of.
    """
    found = {}
    for name, leaf in leaves.items():
        owner, _, last = name.rpartition("/")
        if last.startswith("lora_"):
            continue
        if last == "kernel" and f"{owner}/lora_a" in leaves:
            names = ("kernel", "lora_a", "lora_b", "lora_m")
            parts = {
                n: leaves[f"{owner}/{n}"] for n in names if f"{owner}/{n}" in leaves
            }
            leaf = Merged(parts, c)
        found[name] = leaf
    return found


class Merged:
    """A kernel with its adapter in it, float32.

    Attributes:
      stored: the dtype that the kernel itself is kept in.
    """

    def __init__(self, parts: Mapping[str, Any], c: decoder_config.DecoderConfig):
        kernel = parts["kernel"]
        self._parts, self._config = parts, c
        self.shape, self.ndim = tuple(kernel.shape), len(kernel.shape)
        self.size = math.prod(self.shape)
        self.stored, self.dtype = np.dtype(kernel.dtype), np.dtype(np.float32)

    def __getitem__(self, index) -> np.ndarray:
        first, *rest = lazy_leaves.whole_index(index, self.ndim)
        if not isinstance(first, slice):
            return self._layer(first)[tuple(rest)]
        layers = range(*first.indices(self.shape[0]))
        return np.stack([self._layer(i)[tuple(rest)] for i in layers])

    def _layer(self, i: int) -> np.ndarray:
        i %= self.shape[0]
        layer = {
            name: np.asarray(leaf[i : i + 1]).astype(np.float32)
            for name, leaf in self._parts.items()
        }
        return np.asarray(lora.merge(layer, self._config)["kernel"][0])
