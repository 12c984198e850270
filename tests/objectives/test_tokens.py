# SPDX-License-Identifier: Apache-2.0
"""Figures of each token, against sums over a small vocabulary."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from alignjax.losses import catalogue
from alignjax.objectives import logprobs
from alignjax.types import LogProbs
from tests.objectives import batches, subject


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


def whole(model, params, sequences, reference, temperature):
    """As `logprobs.tokens` has them, from all logits at once."""
    log = lambda params: jax.nn.log_softmax(
        model.unembed(params, model.hidden(params, sequences)) / temperature
    )
    policy, other = log(params), log(reference)
    pick = lambda x: jnp.take_along_axis(x, sequences.targets[..., None], -1)[..., 0]
    return dict(
        logp=pick(policy),
        reference_logp=pick(other),
        entropy=-(jnp.exp(policy) * policy).sum(-1),
        kl=(jnp.exp(policy) * (policy - other)).sum(-1),
        reference_kl=(jnp.exp(other) * (other - policy)).sum(-1),
    )


@pytest.mark.parametrize(("temperature", "chunk"), [(0.7, 7), (1.0, 7), (1.3, 1000)])
def test_figures_at_a_temperature_are_those_of_whole_logits(temperature, chunk):
    model, params, reference = subject.model(), subject.params(0), subject.params(1)
    sequences = logprobs.flatten_sequences(subject.batch())
    names = ("logp", "reference_logp", "entropy", "kl", "reference_kl")

    def chunked(params):
        figures = logprobs.tokens(
            model,
            params,
            sequences,
            chunk=chunk,
            needs=names,
            reference=reference,
            temperature=temperature,
            entropy_gradient=True,
        )
        return {name: getattr(figures, name) for name in names}

    def gradient(compute):
        """Of figures that matter differently at each token."""

        def total(params):
            figures = compute(params)
            parts = [jnp.sin(i + 3 * figures[name]) for i, name in enumerate(names)]
            return sum(parts).sum(), figures

        return jax.jit(jax.grad(total, has_aux=True))(params)

    plain = lambda params: whole(model, params, sequences, reference, temperature)
    (ours, figures), (theirs, expected) = gradient(chunked), gradient(plain)
    for name in names:
        np.testing.assert_allclose(
            figures[name], expected[name], rtol=1e-5, atol=1e-5, err_msg=name
        )
    for a, b in zip(*map(jax.tree.leaves, (ours, theirs)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5 * np.abs(b).max())


def test_entropy_has_no_gradient_unless_one_is_asked_for():
    model, params = subject.model(), subject.params(0)
    sequences = logprobs.flatten_sequences(subject.batch())

    def total(params, **options):
        return logprobs.tokens(
            model, params, sequences, needs=("entropy",), **options
        ).entropy.sum()

    assert not any(x.any() for x in jax.tree.leaves(jax.grad(total)(params)))
    asked = jax.grad(total)(params, entropy_gradient=True)
    assert all(x.any() for x in jax.tree.leaves(asked))


def test_a_policy_that_is_its_reference_has_no_kl():
    """It is 0, and so is its gradient, exactly."""
    model, params = subject.model(), subject.params(0)
    sequences = logprobs.flatten_sequences(subject.batch())

    def total(policy):
        figures = logprobs.tokens(
            model, policy, sequences, needs=("kl",), reference=params, temperature=0.7
        )
        return figures.kl.sum(), figures

    gradient, figures = jax.grad(total, has_aux=True)(params)
    assert not figures.kl.any()
    np.testing.assert_array_equal(figures.logp, figures.reference_logp)
    assert not any(x.any() for x in jax.tree.leaves(gradient))


@pytest.mark.parametrize("layout", batches.LAYOUTS)
def test_tokens_of_responses_in_every_layout(layout):
    """[G, K, T] and back; what stands elsewhere in a row is never read."""
    batch = subject.batch(layout, K=3, empty=(2,), padding=1)
    rank = logprobs.ranks(batch)
    there = np.asarray(batch.responses) != 0
    whose = np.where(there, 100.0 * np.asarray(batch.responses) + rank, np.nan)
    x_GKT = np.asarray(logprobs.by_response(batch, whose, 8))
    B, P, K = batch.lengths.shape
    length_GK = np.asarray(batch.lengths).reshape(-1, K)
    for g, k in np.ndindex(B * P, K):
        n = length_GK[g, k]
        number = 1 + (g % P) * K + k
        np.testing.assert_array_equal(x_GKT[g, k, :n], 100.0 * number + np.arange(n))
        assert not x_GKT[g, k, n:].any()
    back = np.asarray(logprobs.by_target(batch, x_GKT))
    np.testing.assert_array_equal(back, np.where(there, whose, 0.0))
