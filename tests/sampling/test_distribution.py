# SPDX-License-Identifier: Apache-2.0
"""What is drawn has the stated distribution, and the log-probability of it."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import subject

from alignjax import sampling
from alignjax.sampling import distribution


@pytest.mark.parametrize("variant", subject.VARIANTS)
def test_logprobs_are_those_of_teacher_forcing(variant):
    model, params = subject.nano(**subject.VARIANTS[variant])
    rows = subject.generate(subject.PROMPTS, (model, params), temperature=0.8, top_k=50)
    assert [len(row.ids) for row in rows if row.finish_reason == "length"]
    for row in rows:
        logits = subject.teacher_forced(model, params, row)
        picked = np.arange(len(row.ids)), row.ids
        np.testing.assert_allclose(
            row.model_logprobs, subject.log_softmax(logits)[picked], atol=1e-5
        )
        expected = np.stack(
            [subject.stated(x, temperature=0.8, top_k=50) for x in logits]
        )
        np.testing.assert_allclose(row.logprobs, expected[picked], atol=1e-5)
        assert row.logprobs.dtype == row.model_logprobs.dtype == np.float32


@pytest.mark.parametrize(
    "filters", [*subject.FILTERS.values(), dict(temperature=0)], ids=str
)
def test_every_filter_states_its_distribution(filters):
    model, params = subject.nano()
    for row in subject.generate(subject.PROMPTS, **filters):
        logits = subject.teacher_forced(model, params, row)
        expected = [
            subject.stated(x, **filters)[i]
            for x, i in zip(logits, row.ids, strict=True)
        ]
        np.testing.assert_allclose(row.logprobs, expected, atol=1e-5)


def test_greedy_takes_the_maximum_and_says_certain():
    model, params = subject.nano()
    for row in subject.generate(subject.PROMPTS, temperature=0, seeds=[9, 9, 9, 9]):
        logits = subject.teacher_forced(model, params, row)
        assert row.ids == [subject.stated(x).argmax() for x in logits]
        assert not row.logprobs.any()
        assert (row.model_logprobs < 0).all()


def test_control_tokens_and_empty_rows_are_never_drawn():
    model, params = subject.nano()
    # The model wants nothing but these.
    wanted = (
        jnp.zeros((subject.ROWS, 32))
        .at[subject.BOS]
        .set(9)
        .at[subject.ROLE :]
        .set(9)
        .at[: subject.BOS, 0]
        .set(1e-3)
    )
    for filters in (*subject.FILTERS.values(), dict(temperature=0)):
        rows = subject.generate(
            subject.PROMPTS, (model, params | {"embed": wanted}), **filters
        )
        assert {i for row in rows for i in row.ids} <= {*range(256), subject.EOS}


@pytest.mark.parametrize("name", subject.FILTERS)
def test_frequencies_are_those_of_the_distribution(name):
    count, V = 20_000, 12
    logits = jax.random.normal(jax.random.key(2), (1, V)) * 1.5
    chosen = sampling.settings(**{"temperature": 0.8, **subject.FILTERS[name]})
    keys = jax.vmap(jax.random.key)(jnp.arange(count, dtype=jnp.uint32))
    drawn, logps = jax.jit(distribution.draw)(
        jnp.broadcast_to(logits, (count, V)), keys, chosen
    )
    logps_BC, ids_BC = distribution.candidates(logits, chosen)
    probs = np.zeros(V)
    probs[ids_BC[0]] = np.exp(logps_BC[0])
    np.testing.assert_allclose(np.exp(logps), probs[drawn], rtol=1e-5)
    seen = np.bincount(drawn, minlength=V)
    assert (seen[probs == 0] == 0).all()
    assert abs(probs.sum() - 1) < 1e-5
    expected = count * probs[probs > 0]
    chi_square = ((seen[probs > 0] - expected) ** 2 / expected).sum()
    freedom = len(expected) - 1
    # 99.9 %: three standard deviations of the cube root, Wilson and Hilferty 1931.
    spread = math.sqrt(2 / (9 * freedom)) if freedom else 0
    assert chi_square <= freedom * (1 - spread**2 + 3.09 * spread) ** 3 + 1e-6


def test_filters_at_their_edges():
    def kept(logits, **filters):
        logits = jnp.array([logits], jnp.float32)
        logps, ids = distribution.candidates(logits, sampling.settings(**filters))
        return dict(zip(ids[0].tolist(), np.exp(logps[0]).tolist(), strict=True))

    def support(*arguments, **filters):
        return {i for i, p in kept(*arguments, **filters).items() if p > 0}

    ties = [1.0, 2.0, 2.0, 2.0, 0.0]
    assert support(ties, top_k=2) == {1, 2}  # exactly k, the smaller ids
    assert support(ties, top_k=99) == {0, 1, 2, 3, 4}
    quarters = np.log([0.5, 0.25, 0.125, 0.125])
    assert support(quarters, top_p=0.49) == {0}
    assert support(quarters, top_p=0.6) == {0, 1}
    assert support(quarters, top_p=1e-9) == {0}
    assert support(quarters, top_p=1) == {0, 1, 2, 3}
    # Of the two that top-k leaves, the first has 2/3 of the mass.
    assert support(quarters, top_k=2, top_p=0.6) == {0}
    assert support(quarters, min_p=0.49) == {0, 1}
    assert support(quarters, min_p=1) == {0}
    assert support([-np.inf, 1.0, -np.inf, 1.0], top_p=0.9) == {1, 3}
    assert support([-np.inf, 1.0, -np.inf], top_k=3) == {1}
    assert kept([1e4, 1e4 - 1, 0.0], temperature=1e-6)[0] == 1.0
    assert np.isfinite(list(kept([1e30, -1e30]).values())).all()


def test_a_draw_is_the_first_maximum():
    """Of log-probs and Gumbel noise of a row's own key, as argmax has it."""
    logits = jax.random.normal(jax.random.key(0), (64, 300))
    keys = jax.random.split(jax.random.key(1), 64)
    tokens, _ = distribution.draw(logits, keys, sampling.settings())
    noise = jnp.stack([jax.random.gumbel(key, (300,)) for key in keys])
    best = jnp.argmax(jax.nn.log_softmax(logits) + noise, axis=-1)
    np.testing.assert_array_equal(tokens, best)
    ties = jnp.array([[1.0, 2, 2], [-np.inf, -np.inf, 0], [3, 3, 3], [-np.inf] * 3])
    first = distribution._first_maximum(ties)
    np.testing.assert_array_equal(first, jnp.argmax(ties, -1, keepdims=True))
    # Of a model that diverged, a token that there is.
    assert distribution._first_maximum(jnp.array([[np.nan, 0.0]])).tolist() == [[0]]
