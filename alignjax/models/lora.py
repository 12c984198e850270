# SPDX-License-Identifier: Apache-2.0
"""LoRA (arXiv:2106.09685) from outside: adapters merged into kernels, or left out.

`projection.Projection` computes with them. A model that is given parameters without
adapters computes what it would have without them, so the frozen base of a policy is
also its reference.
"""

from __future__ import annotations

import jax.numpy as jnp

from alignjax.models import settings
from alignjax.types import Params

# The pattern of what is trained; with heads for scores, `r".*/lora_[ab]|score/.*"`.
TRAINABLE = r".*/lora_[ab]"


def merge(params: Params, c: settings.DecoderConfig) -> Params:
    """Parameters without adapters that compute what `params` do: W + scale A B.

    Where there are none they are unchanged. They suit the model of `c`, and one whose
    `lora_rank` is 0.
    """
    if not isinstance(params, dict):
        return params
    if "lora_a" not in params:
        return {name: merge(value, c) for name, value in params.items()}
    kernel, a, b = (params[name] for name in ("kernel", "lora_a", "lora_b"))
    layers, rank = a.shape[0], a.shape[-1]
    a, b = a.reshape(layers, -1, rank), b.reshape(layers, rank, -1)
    added = c.lora_scale * jnp.matmul(a, b, precision="highest")
    return strip(params) | {"kernel": kernel + added.reshape(kernel.shape)}


def strip(params: Params) -> Params:
    """Parameters without adapters, which compute what the base does."""
    if not isinstance(params, dict):
        return params
    return {
        name: strip(value)
        for name, value in params.items()
        if name not in ("lora_a", "lora_b")
    }
