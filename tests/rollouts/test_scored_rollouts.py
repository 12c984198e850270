# SPDX-License-Identifier: Apache-2.0
"""Rewards that cannot be learned from as they are, and those of several processes."""

import numpy as np
import pytest

from alignjax import errors, rewards
from alignjax.distributed import multihost
from alignjax.losses import advantages
from alignjax.rollouts import scoring


def named(values):
    return (rewards.Named("r", 1.0, lambda responses: values),)


def test_what_float32_cannot_square_is_no_reward():
    """It would be infinite in a deviation, and every advantage divided by it 0."""
    scored = scoring.score(named([1.0, 2.0, 3e18, -1e39, None]), [None] * 5)
    assert scored.faults == ["rewards: 2 beyond 1e+15 count as none"]
    numbers = scoring.numbers(scored.total)
    np.testing.assert_array_equal(numbers, [1.0, 2.0, np.nan, np.nan, np.nan])
    watched = rewards.Named("seen", 0.0, lambda responses: [1.0, 1e20])
    scored = scoring.score((*named([1.0, 2.0]), watched), [None] * 2)
    assert scored.faults == ["rewards: 1 beyond 1e+15 count as none"]


@pytest.mark.parametrize("name", ["grpo", "batch_std", "reinforce_pp_baseline"])
def test_the_largest_rewards_have_advantages(name):
    score_GK = np.random.default_rng(0).uniform(-1, 1, (64, 4)).astype(np.float32)
    yes = np.ones(score_GK.shape, bool)

    def of(size):
        earned = advantages.token_rewards(size * score_GK, yes[..., None])
        outcome = advantages.Outcome(earned, yes[..., None], yes, yes)
        return np.asarray(advantages.ADVANTAGES[name](outcome).advantage)

    np.testing.assert_allclose(of(np.float32(scoring.LARGEST)), of(1e4), rtol=1e-4)


def test_every_process_has_the_rewards_of_the_first(monkeypatch):
    first = np.array([[1.0, np.nan, 3.0], [1.0, np.nan, 3.0]])
    monkeypatch.setattr(multihost, "array_from_primary", lambda x: first)
    monkeypatch.setattr(multihost, "total", lambda number: number)
    scored = scoring.score(named([1.0, None, 2.0]), [None] * 3)
    assert scored.total == [1.0, None, 3.0] == scored.parts["r"]
    (line,) = scored.faults
    assert line.startswith("rewards: 1 scores of other processes differ")


def test_numbers_are_shared_to_the_last_bit(monkeypatch):
    """JAX rounds float64 to float32 by default."""
    monkeypatch.setattr(multihost.jax, "process_count", lambda: 2)
    sent = []

    def broadcast(x):
        sent.append(x.dtype)
        return multihost.jax.numpy.asarray(x)

    monkeypatch.setattr(multihost.multihost_utils, "broadcast_one_to_all", broadcast)
    x = np.array([[0.1, np.nan], [1e300, -1 / 3]])
    np.testing.assert_array_equal(multihost.array_from_primary(x), x)
    assert sent == [np.int32]


def test_a_reward_that_fails_in_one_process_ends_all(monkeypatch):
    monkeypatch.setattr(multihost, "_all_agree", lambda good: False)
    with pytest.raises(errors.DataError, match="another process says why"):
        scoring.score(named([1.0]), [None])
    with pytest.raises(errors.DataError, match="1 scores of 2 responses"):
        scoring.score(named([1.0]), [None] * 2)
