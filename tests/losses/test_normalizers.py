# SPDX-License-Identifier: Apache-2.0
"""Rewards that statistics change before advantages are taken, over several rollouts."""

import functools

import jax.numpy as jnp
import numpy as np
import pytest

from alignjax.losses import advantages, normalizers

NAN = np.nan


def outcome(score_GK, lengths_GK=None, k1_GKT=None, learned_GK=None):
    """Of responses of so many tokens, 3 unless given; a NaN is no reward."""
    score_GK = np.asarray(score_GK, np.float32)
    lengths_GK = np.full(score_GK.shape, 3) if lengths_GK is None else lengths_GK
    action_GKT = np.arange(4) < np.asarray(lengths_GK)[..., None]
    reward_GKT = advantages.token_rewards(score_GK, action_GKT, k1_GKT, 0.5)
    scored_GK = np.isfinite(score_GK)
    return advantages.Outcome(
        reward=jnp.where(action_GKT, reward_GKT, NAN),  # never read behind masks
        action=jnp.asarray(action_GKT),
        scored=jnp.asarray(scored_GK),
        learned=jnp.asarray(scored_GK if learned_GK is None else learned_GK),
    )


def traits(function):
    return normalizers.traits(getattr(function, "func", function))


def after(function, rollouts):
    """The rewards of responses, and what is kept, of one rollout after the other."""
    running, steps = traits(function).start, []
    for scores in rollouts:
        one = outcome(scores)
        out = function(one, running)
        assert set(out.running) == set(running)
        running = out.running
        steps.append((advantages.totals(one._replace(reward=out.reward)), out))
    return steps


ROLLOUTS = (
    [[1.0, 3.0], [NAN, -2.0]],
    [[NAN, NAN], [NAN, NAN]],
    [[0.5, 0.5], [7.0, NAN]],
)


def test_a_running_scale_is_of_all_rewards_so_far():
    steps = after(normalizers.running_scale, ROLLOUTS)
    for n, (total_GK, out) in enumerate(steps):
        so_far = np.ravel(ROLLOUTS[: n + 1])
        so_far = so_far[np.isfinite(so_far)]
        kept = out.running
        assert kept["count"] == so_far.size
        assert kept["mean"] == pytest.approx(so_far.mean(), rel=1e-6)
        assert kept["variance"] == pytest.approx(so_far.var(), rel=1e-6)
        assert out.scale == pytest.approx(so_far.std(), rel=1e-6)
        np.testing.assert_allclose(
            total_GK, np.nan_to_num(ROLLOUTS[n]) / so_far.std(), rtol=1e-6
        )


def test_it_does_not_lose_small_differences_of_large_rewards():
    random = np.random.default_rng(0)
    rollouts = 1e4 + random.normal(size=(20, 16, 8)).astype(np.float32)
    _, out = after(normalizers.running_scale, rollouts)[-1]
    assert out.scale == pytest.approx(rollouts.astype(np.float64).std(), rel=1e-3)


def test_decay_forgets_rollouts_from_before():
    now = functools.partial(normalizers.running_scale, decay=0.0)
    for scores, (_, out) in zip(ROLLOUTS, after(now, ROLLOUTS), strict=True):
        scores = np.ravel(scores)
        scores = scores[np.isfinite(scores)]
        if scores.size:
            assert out.scale == pytest.approx(scores.std(), rel=1e-6)
            assert out.running["count"] == scores.size
    half = functools.partial(normalizers.running_scale, decay=0.5)
    _, out = after(half, ROLLOUTS)[-1]
    # The rollout without a reward has nothing to tell of, and forgets nothing.
    x, w = [1.0, 3.0, -2.0, 0.5, 0.5, 7.0], [0.5] * 3 + [1.0] * 3
    mean = np.average(x, weights=w)
    variance = np.average((x - mean) ** 2, weights=w)
    assert out.running["count"] == 4.5
    assert out.running["mean"] == pytest.approx(mean, rel=1e-6)
    assert out.running["variance"] == pytest.approx(variance, rel=1e-6)


def test_equal_rewards_are_not_blown_up():
    for total_GK, out in after(normalizers.running_scale, [[[5.0, 5.0]]] * 2):
        assert total_GK.tolist() == [[5.0, 5.0]] and out.scale == 1
    whitened = normalizers.whitened_tokens(outcome([[0.0, 0.0]]), {})
    assert not np.nan_to_num(whitened.reward).any() and whitened.scale == 1


def test_a_solved_task_keeps_its_scale():
    """A scale that went on forgetting would fall to nothing, and rewards explode."""
    moving = functools.partial(normalizers.running_scale, decay=0.5)
    rollouts = [[[0.0, 1.0]], *[[[1.0, 1.0]]] * 50, [[0.0, 1.0]]]
    scales = [round(float(out.scale), 4) for _, out in after(moving, rollouts)]
    assert scales == [0.5] * 52


def test_a_moving_baseline_is_of_the_rollouts_before():
    moving = functools.partial(normalizers.moving_baseline, start=1.0, decay=0.75)
    steps = after(moving, ROLLOUTS)
    # After means of 2/3, none, and 8/3.
    baselines = [1.0, 0.75 + 0.25 * 2 / 3, 0.75 + 0.25 * 2 / 3]
    for scores, baseline, (total_GK, _) in zip(ROLLOUTS, baselines, steps, strict=True):
        expected = np.nan_to_num(np.array(scores) - baseline)
        np.testing.assert_allclose(total_GK, expected, rtol=1e-6)
    last = 0.75 * baselines[-1] + 0.25 * 8 / 3
    assert 1 + steps[-1][1].running["above"] == pytest.approx(last, rel=1e-6)
    constant = functools.partial(normalizers.moving_baseline, start=1.0, decay=1.0)
    one = outcome(ROLLOUTS[0])
    moved = advantages.reinforce(
        one._replace(reward=constant(one, {"above": 0}).reward)
    )
    plain = advantages.reinforce(one, baseline=1.0)
    np.testing.assert_allclose(moved.advantage, plain.advantage, rtol=1e-6)


def test_a_baseline_is_taken_from_the_last_action_alone():
    one = outcome([[2.0, 4.0]], lengths_GK=[[1, 4]])
    reward_GKT = normalizers.moving_baseline(one, {"above": jnp.float32(0.5)}).reward
    shown = np.where(one.action, reward_GKT, -9)
    assert shown.tolist() == [[[1.5, -9, -9, -9], [0, 0, 0, 3.5]]]


@pytest.mark.parametrize("ddof", [0, 1])
def test_whitened_tokens_keep_their_mean(ddof):
    """With the KL of each token, and a response that is scored and not learned."""
    random = np.random.default_rng(1)
    k1_GKT = random.normal(size=(2, 3, 4)).astype(np.float32)
    k1_GKT[..., -1] = NAN
    one = outcome(
        [[1.0, 2.0, NAN], [5.0, 0.0, 3.0]],
        lengths_GK=[[3, 2, 3], [1, 3, 0]],
        k1_GKT=k1_GKT,
        learned_GK=np.array([[True, True, False], [True, False, True]]),
    )
    out = normalizers.whitened_tokens(one, {}, ddof=ddof)
    counts = np.array(one.action & (one.learned & one.scored)[..., None])
    x, y = np.array(one.reward)[counts], np.array(out.reward)[counts]
    assert counts.sum() == 3 + 2 + 1
    np.testing.assert_allclose(
        y, x.mean() + (x - x.mean()) / x.std(ddof=ddof), rtol=1e-5
    )
    assert y.mean() == pytest.approx(x.mean(), rel=1e-5)
    assert y.std(ddof=ddof) == pytest.approx(1, rel=1e-5)
    # What is not learned is compared with all the same.
    other = np.array(one.reward)[1, 1, :3]
    expected = x.mean() + (other - x.mean()) / x.std(ddof=ddof)
    np.testing.assert_allclose(np.array(out.reward)[1, 1, :3], expected, rtol=1e-5)


@pytest.mark.parametrize("name", sorted(normalizers.NORMALIZERS))
def test_nothing_without_a_reward_is_learned(name):
    """And nothing is NaN: of all tokens that count, and of what is kept."""
    function = normalizers.NORMALIZERS[name]
    one = outcome([[NAN, NAN]])
    out = function(one, traits(function).start)
    again = advantages.reinforce(one._replace(reward=out.reward))
    assert not again.advantage.any() and not again.weight.any()
    assert all(np.isfinite(x) for x in out.running.values())
    assert out.running == traits(function).start
