# SPDX-License-Identifier: Apache-2.0
"""Denominators: what losses of tokens are divided by, as weights known before them.

A denominator is `(action_GKT, weight_GK, *, ...) -> Weights`: bool, the tokens that
count, and float32, what each response counts, 0 where it does not. With losses l and
|y| the actions of a response, the loss of a batch is sum(token l) / sum(share): two
sums, which add over microbatches and devices. Only sums over a response, those of
`sequence_sum` and up to a constant of `constant`, are gradients of an expected reward;
`sequence_mean` counts a token less the longer its response is, and `token_mean` a
response less the longer all others are. A response that does not count has a
share of 0.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from alignjax import registry
from alignjax.bounds import Size

DENOMINATORS = registry.Registry("denominator")


class Weights(NamedTuple):
    """Weights of tokens, and the part of a denominator that a response adds.

    Attributes:
      token: float32 [G, K, T].
      share: float32 [G, K].
    """

    token: jax.Array
    share: jax.Array


@DENOMINATORS.register
def token_mean(action_GKT, weight_GK) -> Weights:
    """sum l / sum |y|: DAPO, arXiv:2503.14476; each token counts the same."""
    token_GKT = _weighted(action_GKT, weight_GK)
    return Weights(token_GKT, token_GKT.sum(-1))


@DENOMINATORS.register
def sequence_mean(action_GKT, weight_GK) -> Weights:
    """mean of (sum l)/|y|: GRPO, arXiv:2402.03300 Eq. 3; each response counts the same.

    And so for losses of a response, such as `policy_gradient.gspo`.
    """
    token_GKT = _weighted(action_GKT, weight_GK)
    length_GK1 = jnp.maximum(action_GKT.sum(-1, keepdims=True), 1)
    return Weights(token_GKT / length_GK1, _share(action_GKT, weight_GK))


@DENOMINATORS.register
def sequence_sum(action_GKT, weight_GK) -> Weights:
    """mean of sum l: RLOO, arXiv:2402.14740; the gradient of the expected reward."""
    return Weights(_weighted(action_GKT, weight_GK), _share(action_GKT, weight_GK))


@DENOMINATORS.register
def constant(action_GKT, weight_GK, *, length: Size) -> Weights:
    """mean of (sum l)/L: Dr. GRPO, arXiv:2503.20783, for one L.

    Args:
      length: L, the most tokens that a response may have; of the config, never the
        width of a batch, with which the learning rate would change.
    """
    token_GKT = _weighted(action_GKT, weight_GK) / length
    return Weights(token_GKT, _share(action_GKT, weight_GK))


@DENOMINATORS.register
def prompt_mean(action_GKT, weight_GK) -> Weights:
    """mean over prompts of sum l / sum |y|: each prompt counts the same.

    Without a bias by length among the responses to a prompt. A prompt counts as much as
    the heaviest of its responses.
    """
    token_GKT = _weighted(action_GKT, weight_GK)
    total_G11 = token_GKT.sum((-2, -1), keepdims=True)
    prompt_G11 = _share(action_GKT, weight_GK).max(-1)[:, None, None]
    token_GKT = prompt_G11 * token_GKT / jnp.where(total_G11 > 0, total_G11, 1.0)
    return Weights(token_GKT, token_GKT.sum(-1))


def _weighted(action_GKT, weight_GK):
    return jnp.where(action_GKT, weight_GK[..., None], 0.0).astype(jnp.float32)


def _share(action_GKT, weight_GK):
    return jnp.where(action_GKT.any(-1), weight_GK, 0.0).astype(jnp.float32)
