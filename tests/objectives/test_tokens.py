# SPDX-License-Identifier: Apache-2.0
"""Figures of each token, against sums over a small vocabulary."""

import jax
import jax.numpy as jnp
import numpy as np

from alignjax.losses import catalogue
from alignjax.objectives import logprobs
from alignjax.types import LogProbs


def logits(seed):
    return jax.random.normal(jax.random.key(seed), (3, 4, 7)) * 3


def softmax(x):
    powers = np.exp(np.asarray(x, np.float64))
    return powers / powers.sum(-1, keepdims=True)


def test_collision():
    expected = np.log((softmax(logits(0)) ** 2).sum(-1))
    np.testing.assert_allclose(logprobs.collision(logits(0)), expected, rtol=1e-5)
    moved = logprobs.collision(logits(0) + 1000.0)  # a softmax does not see it
    np.testing.assert_allclose(moved, expected, rtol=1e-3, atol=1e-3)


def test_divergence():
    p, q = softmax(logits(0)), softmax(logits(1))
    ours = logprobs.divergence(logits(1), logits(0))
    np.testing.assert_allclose(ours, (q * np.log(q / p)).sum(-1), rtol=1e-5)
    assert np.abs(logprobs.divergence(logits(0), logits(0))).max() < 1e-6


def test_tdpo_moves_the_policy_towards_the_reference_where_it_rejects():
    """Through the KL alone, its gradient by the logits is that of the summed KLs."""

    def loss(policy_logits):
        kl = logprobs.divergence(logits(1)[:2], policy_logits).sum(-1)[None]
        policy = LogProbs(jnp.zeros((1, 2)), jnp.full((1, 2), 4.0), reference_kl=kl)
        reference = LogProbs(jnp.zeros((1, 2)), jnp.full((1, 2), 4.0))
        return catalogue.PREFERENCE["tdpo1"](policy, reference, beta=0.1).sum(), kl

    (_, kl), gradient = jax.value_and_grad(loss, has_aux=True)(logits(0)[:2])
    by_margin = -0.1 / (1 + np.exp(0.1 * (kl[0, 0] - kl[0, 1])))
    along = softmax(logits(0)[:2]) - softmax(logits(1)[:2])
    expected = by_margin * np.array([1, -1])[:, None, None] * along
    np.testing.assert_allclose(gradient, expected, rtol=1e-4, atol=1e-7)
