# SPDX-License-Identifier: Apache-2.0
"""What losses want of each token, against sums over a small vocabulary."""

import jax
import jax.numpy as jnp
import numpy as np

from alignjax.losses import catalogue
from alignjax.losses import language_model as tokens
from alignjax.types import LogProbs


def logits(seed):
    return jax.random.normal(jax.random.key(seed), (3, 4, 7)) * 3


def softmax(x):
    powers = np.exp(np.asarray(x, np.float64))
    return powers / powers.sum(-1, keepdims=True)


def test_collision():
    expected = np.log((softmax(logits(0)) ** 2).sum(-1))
    np.testing.assert_allclose(tokens.collision(logits(0)), expected, rtol=1e-5)
    moved = tokens.collision(logits(0) + 1000.0)  # a softmax does not see it
    np.testing.assert_allclose(moved, expected, rtol=1e-3, atol=1e-3)


def test_reference_kl():
    p, q = softmax(logits(0)), softmax(logits(1))
    ours = tokens.reference_kl(logits(0), logits(1))
    np.testing.assert_allclose(ours, (q * np.log(q / p)).sum(-1), rtol=1e-5)
    assert np.abs(tokens.reference_kl(logits(0), logits(0))).max() < 1e-6


def test_tdpo_moves_the_policy_towards_the_reference_where_it_rejects():
    """Through the KL alone, its gradient by the logits is that of the summed KLs."""

    def loss(policy_logits):
        kl = tokens.reference_kl(policy_logits, logits(1)[:2]).sum(-1)[None]
        policy = LogProbs(jnp.zeros((1, 2)), jnp.full((1, 2), 4.0), reference_kl=kl)
        reference = LogProbs(jnp.zeros((1, 2)), jnp.full((1, 2), 4.0))
        return catalogue.PREFERENCE["tdpo1"](policy, reference, beta=0.1).sum(), kl

    (_, kl), gradient = jax.value_and_grad(loss, has_aux=True)(logits(0)[:2])
    by_margin = -0.1 / (1 + np.exp(0.1 * (kl[0, 0] - kl[0, 1])))
    along = softmax(logits(0)[:2]) - softmax(logits(1)[:2])
    expected = by_margin * np.array([1, -1])[:, None, None] * along
    np.testing.assert_allclose(gradient, expected, rtol=1e-4, atol=1e-7)


COUNTS = np.array(
    [
        [[0, 1, 1, 1, 1, 0], [1, 1, 0, 0, 0, 0]],
        [[0, 0, 1, 0, 0, 0], [1, 0, 1, 1, 0, 1]],
        [[0, 0, 0, 0, 0, 0], [1, 1, 1, 0, 0, 0]],
    ],
    bool,
)


def test_the_first_tokens():
    expected = [
        [[0, 1, 1, 0, 0, 0], [1, 1, 0, 0, 0, 0]],
        [[0, 0, 1, 0, 0, 0], [1, 0, 0, 0, 0, 0]],
        [[0, 0, 0, 0, 0, 0], [0, 0, 0, 0, 0, 0]],
    ]
    np.testing.assert_array_equal(tokens.first(COUNTS), np.array(expected, bool))


def test_drawn_tokens():
    """As many as the shorter response has, all of them equally often."""
    keys = jax.random.split(jax.random.key(0), 4000)
    drawn = np.asarray(jax.vmap(lambda key: tokens.drawn(COUNTS, key))(keys))
    assert not drawn[:, ~COUNTS].any()
    shorter = COUNTS.sum(-1).min(-1)
    assert (drawn.sum(-1) == shorter[:, None]).all()
    often = drawn.mean(0)
    np.testing.assert_allclose(often[0, 0, 1:5], 2 / 4, atol=0.03)
    np.testing.assert_allclose(often[1, 1, [0, 2, 3, 5]], 1 / 4, atol=0.03)
    again = tokens.drawn(COUNTS, keys[0])
    np.testing.assert_array_equal(again, drawn[0])
