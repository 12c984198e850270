# SPDX-License-Identifier: Apache-2.0
"""Noise of `sampling.noise` beside jax's."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from alignjax.sampling import noise


@pytest.mark.parametrize("size", [1, 300, 8192])
@pytest.mark.parametrize("kind", ["threefry2x32", "rbg"])
def test_it_is_jaxs_bit_for_bit(kind, size):
    keys_B = jax.random.split(jax.random.key(7, impl=kind), 5)
    expected_BV = jax.vmap(lambda key: jax.random.gumbel(key, (size,)))(keys_B)
    noise_BV = jax.jit(noise.gumbel, static_argnums=1)(keys_B, size)
    assert noise_BV.dtype == jnp.float32
    np.testing.assert_array_equal(noise_BV, expected_BV)


def test_the_least_of_its_uniform_numbers_is_finite(monkeypatch):
    """All 23 bits are 0 in one of 8 million numbers, which a long rollout draws."""
    zeros = lambda key0, key1, x, y: (jnp.zeros_like(y), jnp.zeros_like(y))
    monkeypatch.setattr(noise, "_threefry", zeros)
    least = noise.gumbel(jax.random.split(jax.random.key(0), 1), 3)
    tiny = np.finfo(np.float32).tiny
    np.testing.assert_allclose(least, np.full((1, 3), -np.log(-np.log(tiny))), 1e-6)


def test_it_has_no_loop():
    """jax's own has one on CPUs, through all numbers."""
    keys_B = jax.random.split(jax.random.key(0), 4)
    program = jax.jit(noise.gumbel, static_argnums=1).lower(keys_B, 256).compile()
    assert " while(" not in program.as_text()
    loop = jax.jit(jax.vmap(lambda key: jax.random.gumbel(key, (256,))))
    if jax.default_backend() == "cpu":
        assert " while(" in loop.lower(keys_B).compile().as_text()
