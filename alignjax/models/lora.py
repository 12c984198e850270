# SPDX-License-Identifier: Apache-2.0
"""LoRA (arXiv:2106.09685): adapters merged into kernels, or left out.

`projection.Projection` computes with adapters. With parameters that have none a model
computes what its base does, so the frozen base of a policy is also its reference.
"""

from __future__ import annotations

import re

import jax
import jax.numpy as jnp

from alignjax.models import decoder_config, projection
from alignjax.types import Params

# Pattern of the trained parameters; with heads for scores, `r".*/lora_[abm]|score/.*"`.
TRAINABLE = r".*/lora_[abm]"
_NAMES = ("lora_a", "lora_b", "lora_m")


def merge(params: Params, c: decoder_config.DecoderConfig) -> Params:
    """Parameters without adapters that compute what `params` do: W + scale A B.

    Without adapters they are unchanged. They suit the model of `c`, and one whose
    `lora_rank` is 0. Kernels are in float32.
    """
    if not isinstance(params, dict):
        return params
    if "lora_a" not in params:
        return {name: merge(value, c) for name, value in params.items()}
    kernel, a, b = (params[name] for name in ("kernel", "lora_a", "lora_b"))
    layers, rank = a.shape[0], a.shape[-1]
    a, b = a.reshape(layers, -1, rank), b.reshape(layers, rank, -1)
    merged = kernel.reshape(layers, a.shape[1], -1)
    added = c.lora_scale * jnp.matmul(a, b, precision="highest")
    if "lora_m" in params:
        m = params["lora_m"].reshape(layers, -1)
        factor = lambda *x: projection.dora_factor(*x, c.lora_scale)
        merged = (merged + added) * jax.vmap(factor)(merged, a, b, m)[:, None]
    else:
        merged = merged + added
    return strip(params) | {"kernel": merged.reshape(kernel.shape)}


def strip(params: Params) -> Params:
    """Parameters without adapters, with which a model computes what its base does."""
    if not isinstance(params, dict):
        return params
    return {name: strip(value) for name, value in params.items() if name not in _NAMES}


def problems(c: decoder_config.DecoderConfig, trainable: str) -> list[str]:
    """What is wrong with the pattern of what is trained, for the adapters of `c`."""
    targets = [x for x in c.projections if re.fullmatch(c.lora_targets, x)]
    trains = lambda name: any(re.fullmatch(trainable, f"{x}/{name}") for x in targets)
    if c.lora_dora and trains("lora_b") and not trains("lora_m"):
        problem = (
            f"trainable: {trainable!r} leaves out the magnitudes of lora_dora = True, "
            f"lora_m; train {TRAINABLE!r}, or set lora_dora to False"
        )
        return [problem]
    if c.lora_rank and trainable == ".*":
        problem = (
            f"trainable: {trainable!r}, the default, trains the whole model beside its "
            f"adapters (model.lora_rank = {c.lora_rank}); set it to {TRAINABLE!r}, or "
            f"with heads for scores to {TRAINABLE + '|score/.*'!r}"
        )
        return [problem]
    return []
