# SPDX-License-Identifier: Apache-2.0
"""Losses of reward models: `(scores, *, ...) -> loss_B`, float32, one value an example.

Scores of a pair are [B, 2], the chosen response's first. An ensemble's heads are one
more axis, over which the caller maps.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp

from alignjax.bounds import Noise, NonNegative
from alignjax.losses import catalogue, links, scores

loss = functools.partial(catalogue.register, catalogue.REWARD, reference=False)


@loss(inputs=("margin_B", "weight_B"))
def bradley_terry(
    score_B2: jax.Array,
    *,
    margin_B=0.0,
    weight_B=1.0,
    label_smoothing: Noise = 0.0,
    centring: NonNegative = 0.0,
):
    """Bradley-Terry, arXiv:2203.02155: -log s(s_w - s_l - margin), and options.

    Args:
      score_B2: float32.
      margin_B: by how much the chosen one is to be ahead, arXiv:2307.09288.
      weight_B: what each pair counts; the caller divides by its sum.
      label_smoothing: e of -(1-e) log s(z) - e log s(-z); an array [B] of 1 - p is a
        soft label p, as in arXiv:2212.08073.
      centring: the weight of (s_w + s_l)^2, arXiv:2312.09244, which uses 0.01.
    """
    z_B = scores.difference(score_B2) - margin_B
    center_B = centring * jnp.square(score_B2.sum(-1))
    return weight_B * (links.cross_entropy(z_B, label_smoothing) + center_B)


@loss(inputs=("present_BK",), data="rankings")
def plackett_luce(score_BK: jax.Array, *, present_BK=True):
    """Plackett-Luce, 1975: sum_i [log sum_j>=i e^(s_j) - s_i], the best one first.

    `present_BK`, bool, marks the responses that exist.
    """
    K = score_BK.shape[-1]
    later_BKK = jnp.arange(K)[:, None] <= jnp.arange(K)
    score_BK = absent(score_BK, present_BK)
    rest_BK = jax.nn.logsumexp(absent(score_BK[..., None, :], later_BKK), axis=-1)
    return jnp.where(present_BK, rest_BK - score_BK, 0.0).sum(-1)


@loss(inputs=("present_BK",), data="rankings")
def all_pairs(score_BK: jax.Array, *, present_BK=True):
    """All pairs of a ranking, arXiv:2203.02155 Eq. 1: mean of -log s(s_i - s_j), i < j.

    The best one first; one prompt counts as one example however long its list is.
    """
    K = score_BK.shape[-1]
    present_BK = jnp.broadcast_to(present_BK, score_BK.shape)
    pair_BKK = present_BK[..., :, None] & present_BK[..., None, :]
    pair_BKK &= jnp.arange(K)[:, None] < jnp.arange(K)
    cost_BKK = -jax.nn.log_sigmoid(score_BK[..., :, None] - score_BK[..., None, :])
    total_B = jnp.where(pair_BKK, cost_BKK, 0.0).sum((-2, -1))
    return total_B / jnp.maximum(pair_BKK.sum((-2, -1)), 1)


@loss(inputs=("target_BA", "present_BA"), data="ratings")
def regression(score_BA: jax.Array, *, target_BA, present_BA=True):
    """Regression to A attributes, arXiv:2406.08673: the mean of (score - target)^2.

    `present_BA`, bool, marks the attributes that were rated.
    """
    present_BA = jnp.broadcast_to(present_BA, score_BA.shape)
    error_BA = jnp.where(present_BA, score_BA - target_BA, 0.0)
    return jnp.square(error_BA).sum(-1) / jnp.maximum(present_BA.sum(-1), 1)


def absent(x_BK, present_BK):
    """`x_BK` with no weight in a softmax for the responses that are absent."""
    return jnp.where(present_BK, x_BK, -1e30)
