# SPDX-License-Identifier: Apache-2.0
"""The gate: the learner's log-probs are those of the sampler."""

import dataclasses
import types

import jax
import numpy as np
import pytest

from alignjax import errors
from alignjax.distributed import sharding
from alignjax.rollouts import gates, source
from tests.rollouts import small


@pytest.mark.parametrize("temperature", [0.7, 1.3])
def test_log_probs_are_those_of_the_sampler(experiment, temperature):
    """Both sides divide by the temperature; where one does not, the run stops."""
    rollouts = experiment[0].rollouts
    settings = dataclasses.replace(rollouts.settings, temperature=temperature)
    sampler = rollouts.sampler._replace(temperature=temperature)
    both = dataclasses.replace(rollouts, settings=settings, sampler=sampler)
    _, figures, _ = small.make(experiment, both)
    assert figures["gate/max"] < 1e-4
    one = dataclasses.replace(rollouts, sampler=sampler)
    with pytest.raises(errors.ConfigError, match=r"rollouts\.gate"):
        small.make(experiment, one)


@pytest.mark.parametrize("pairs", [False, True])
def test_a_sampler_with_other_weights_is_noticed(experiment, pairs):
    run, state, frozen = experiment
    own = small.models(run, state, frozen)
    stale = jax.tree.map(lambda x: x * 1.1, own.policy)

    class Stale(type(run.rollouts.sampler)):
        def __call__(self, params, *arguments, **options):
            return super().__call__(stale, *arguments, **options)

    sampler = Stale(*run.rollouts.sampler)
    with pytest.raises(errors.ConfigError, match=r"rollouts\.gate"):
        rollouts = dataclasses.replace(run.rollouts, sampler=sampler, pairs=pairs)
        small.make(experiment, rollouts)


def test_the_figures_of_the_gate():
    """Of the sampled tokens alone; what stands behind them is never read."""
    gap, action = np.zeros((1, 2, 1000), np.float32), np.ones((1, 2, 1000), bool)
    gap[0, 0], action[0, 1] = np.arange(1000) / 1e7, False
    gap[0, 1] = np.nan
    figures = gates.check(-1 + gap, -1 + 0 * gap, action, None, "float32")
    assert figures == pytest.approx(
        {"gate/mean": 499.5e-7, "gate/p99.9": 998e-7, "gate/max": 999e-7}, rel=0.01
    )


def test_one_token_that_is_off_is_noticed(experiment):
    """However small its part of the mean is."""
    gate = experiment[0].rollouts.gate
    old, action = np.zeros((1, 1, 1000), np.float32), np.ones((1, 1, 1000), bool)
    off = old.copy()
    off[..., 7] = 0.05
    with pytest.raises(errors.ConfigError, match=r"rollouts\.gate: .* at one of them"):
        gate(old, off, action)
    off[..., 7] = np.nan
    with pytest.raises(errors.NonFinite, match="not finite in the sampler"):
        gate(old, off, action)
    with pytest.raises(errors.NonFinite, match="not finite in the trainer"):
        gate(off, old, action)
    off[..., 7] = 1e-3
    assert gate(old, off, action)["gate/max"] == pytest.approx(1e-3)


def test_products_of_float32_may_have_fewer_bits(experiment):
    """On accelerators they have, unless JAX is told otherwise."""
    rollouts = experiment[0].rollouts
    gpu = types.SimpleNamespace(platform="gpu")
    mesh = types.SimpleNamespace(devices=np.array([gpu]))
    there = dataclasses.replace(rollouts, sampler=rollouts.sampler._replace(mesh=mesh))
    off, action = np.full((1, 1, 50), 2e-3, np.float32), np.ones((1, 1, 50), bool)
    assert there.gate(0 * off, off, action)["gate/mean"] == pytest.approx(2e-3)
    for precise in (rollouts, there):
        with (
            jax.default_matmul_precision("highest"),
            pytest.raises(errors.ConfigError, match=r"rollouts\.gate"),
        ):
            precise.gate(0 * off, off, action)


def test_a_sampler_whose_weights_stay_behind_is_noticed(experiment):
    """In a later rollout, although the limit of the first one would let it pass."""
    run, state, frozen = experiment

    class Behind(type(run.rollouts.sampler)):
        def __call__(self, params, *arguments, **options):
            return super().__call__(state.params, *arguments, **options)

    rollouts = dataclasses.replace(run.rollouts, sampler=Behind(*run.rollouts.sampler))
    moved = state.replace(params=jax.tree.map(lambda x: x * 1.00001, state.params))
    batches = source.Source(rollouts, frozen, 0)
    with sharding.use(run.mesh, run.rules):
        batches(0, state)
        with pytest.raises(errors.ConfigError, match=r"gate: .* in the first rollout"):
            batches(1, moved)
        # It is as far in a first one.
        gap = source.Source(rollouts, frozen, 0)
        gap(0, moved)
        assert 1e-5 < gap.figures(0)["rollout/gate/mean"] < 1e-4
        own = dataclasses.replace(rollouts.settings, gate=1.0)
        dataclasses.replace(rollouts, settings=own).check_rise(1e-6, 4e-5)


def test_differences_that_rounding_explains_may_rise(experiment):
    rollouts = experiment[0].rollouts
    rollouts.check_rise(1e-8, 9e-6)
    rollouts.check_rise(9e-6, 4e-5)
    with pytest.raises(errors.ConfigError, match=r"rollouts\.gate: .* 4\.6e-05"):
        rollouts.check_rise(9e-6, 4.6e-5)


def test_automatic_dtypes_are_known_by_the_device(experiment):
    """CPUs compute in float32 where dtype is "auto", and so have its limits."""
    sampler = experiment[0].rollouts.sampler
    config = dataclasses.replace(sampler.model.config, dtype="auto")
    sampler = sampler._replace(model=sampler.model._replace(config=config))
    rollouts = dataclasses.replace(experiment[0].rollouts, sampler=sampler)
    with pytest.raises(errors.ConfigError, match=r"rollouts\.gate"):
        rollouts.check_rise(1e-6, 4e-5)
