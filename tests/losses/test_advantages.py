# SPDX-License-Identifier: Apache-2.0
"""Advantages and denominators: by hand, by vectors of other hands, and what must not
matter: shifts, order, padding, and what stands behind masks."""

import json
import pathlib
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from alignjax.losses import advantages, denominators
from alignjax.losses.advantages import ADVANTAGES, Outcome

FILE = pathlib.Path(__file__).parent.parent / "golden" / "policy_gradient.json"
GOLDEN = json.loads(FILE.read_text())
GROUPS = ("rloo", "grpo", "dr_grpo", "batch_std", "reinforce_pp_baseline")


def array(x):
    return np.asarray(x, np.float32)


def scored(score, lengths=None, room=3, **fields):
    """Responses with one reward each, at the last of their tokens."""
    score = array(score)
    lengths = np.full(score.shape, 2) if lengths is None else np.asarray(lengths)
    action = np.arange(room) < lengths[..., None]
    there = np.isfinite(score)
    reward = advantages.token_rewards(score, action)
    return Outcome(reward, action, there, there, **fields)


def of_responses(name, score, **options):
    """The advantage of each response, which all of its actions have."""
    result = ADVANTAGES[name](scored(score), **options)
    np.testing.assert_array_equal(result.advantage[..., 0], result.advantage[..., 1])
    assert not result.advantage[..., 2].any()
    return np.asarray(result.advantage[..., 0]), np.asarray(result.weight)


@pytest.mark.parametrize(
    ("name", "options", "vector"),
    [
        ("rloo", {}, "rloo.adv"),
        ("grpo", {}, "grpo.adv(ddof1,eps1e-4)"),
        ("grpo", dict(ddof=0, epsilon=1e-8), "grpo.adv(ddof0,eps1e-8)"),
        ("dr_grpo", {}, "dr_grpo.adv"),
    ],
)
def test_vectors_of_groups(name, options, vector):
    ours, weight = of_responses(name, [GOLDEN["INPUT.group"]["rewards"]], **options)
    np.testing.assert_allclose(ours[0], GOLDEN[vector], rtol=1e-5, atol=1e-6)
    assert (weight == 1).all()


def test_those_with_a_scale_of_the_whole_rollout():
    score = [[1.0, 0.0, 0.0, 3.0], [2.0, 2.0, 1.0, 2.0]]
    ours, _ = of_responses("reinforce_pp_baseline", score)
    vector = GOLDEN["reinforce++_baseline.adv"]
    np.testing.assert_allclose(ours.ravel(), vector, rtol=1e-5, atol=1e-6)
    ours, _ = of_responses("reinforce_pp", score)  # all are equally long here
    vector = GOLDEN["reinforce_batchnorm.adv"]
    np.testing.assert_allclose(ours.ravel(), vector, rtol=1e-5, atol=1e-6)
    ours, _ = of_responses("batch_std", score, epsilon=1e-9)
    centred = np.array(score) - np.mean(score, axis=1, keepdims=True)
    np.testing.assert_allclose(ours, centred / np.std(score, ddof=1), rtol=1e-5)


def test_a_scale_of_the_whole_rollout_is_of_what_is_learned_from():
    """Prompts that dynamic sampling has dropped change nothing."""
    score = [[1.0, 0.0], [0.0, 0.0], [5.0, 5.0]]
    learned = np.array([[True, True], [False, False], [False, False]])
    for name in ("batch_std", "reinforce_pp", "reinforce_pp_baseline"):
        dropped = scored(score)._replace(learned=learned)
        among, alone = ADVANTAGES[name](dropped), ADVANTAGES[name](scored(score[:1]))
        np.testing.assert_allclose(among.advantage[:1], alone.advantage, rtol=1e-6)
        np.testing.assert_allclose(among.scale, alone.scale, rtol=1e-6)
        assert not among.advantage[1:].any() and not among.weight[1:].any()


@pytest.mark.parametrize("name", ["grpo", "batch_std", "reinforce_pp_baseline"])
def test_the_scale_is_what_rewards_are_divided_by(name):
    score = array([[1.0, 0.0, 5.0], [2.0, 2.5, 1.0]])
    ours = ADVANTAGES[name](scored(score))
    centred = score - score.mean(1, keepdims=True)
    np.testing.assert_allclose(ours.advantage[..., 0] * ours.scale, centred, rtol=1e-4)
    assert ADVANTAGES["rloo"](scored(score)).scale == 1


def test_baselines_that_are_no_group_mean():
    score = [[1.0, 4.0], [2.0, -1.0]]
    ours, weight = of_responses("reinforce", score, baseline=0.5)
    np.testing.assert_allclose(ours, np.array(score) - 0.5)
    outcome = scored(score, greedy=array([3.0, -2.0]))
    ours = advantages.remax(outcome).advantage[..., 0]
    np.testing.assert_allclose(ours, [[-2.0, 1.0], [4.0, 1.0]])
    assert (weight == 1).all()


def test_prompts_whose_greedy_response_has_no_reward():
    """Its baseline is not 0: all of its responses count nothing."""
    outcome = scored([[1.0, 4.0], [2.0, -1.0]], greedy=array([np.nan, -2.0]))
    result = advantages.remax(outcome)
    np.testing.assert_array_equal(result.weight, [[0, 0], [1, 1]])
    np.testing.assert_allclose(result.advantage[..., 0], [[0, 0], [4.0, 1.0]])


def test_two_responses():
    """GRPO sees which is better, RLOO by how much."""
    for gap in (1e-2, 5.0):
        ours, _ = of_responses("grpo", [[gap, 0.0]], epsilon=1e-9)
        np.testing.assert_allclose(ours, [[0.5**0.5, -(0.5**0.5)]], rtol=1e-5)
        ours, _ = of_responses("rloo", [[gap, 0.0]])
        np.testing.assert_allclose(ours, [[gap, -gap]], rtol=1e-6)


@pytest.mark.parametrize("name", [*GROUPS, "reinforce_pp"])
def test_equal_rewards_are_exactly_no_advantage(name):
    """In float32 the mean of eight times 0.1 is another number."""
    for reward in (0.1, 0.35, 1 / 3, 7e3):
        for K in (2, 7, 8):
            score = np.full((2, K), reward, np.float32)
            score[:, 0] = np.nextafter(score[:, 0], np.float32(9e9))  # a rounding apart
            outcome = scored(score, room=2)
            assert not np.asarray(ADVANTAGES[name](outcome).advantage).any(), K


def test_one_odd_reward_beside_equal_ones():
    """A residue of rounding among the others must not be divided by a tiny spread."""
    for name in GROUPS:
        ours, _ = of_responses(name, [[0.35] * 7 + [1.0], [0.35] * 8])
        assert not ours[1].any() and np.abs(ours).max() < 4
        np.testing.assert_allclose(ours[0, :7], ours[0, 0])


@pytest.mark.parametrize("name", GROUPS)
def test_a_shift_of_a_prompts_rewards_changes_nothing(name):
    score = np.random.default_rng(0).normal(size=(3, 4))
    shift = np.array([[100.0], [-3.0], [0.5]])
    if name == "batch_std":  # whose scale is that of all rewards together
        shift = 100.0
    plain, _ = of_responses(name, score)
    moved, _ = of_responses(name, score + shift)
    np.testing.assert_allclose(moved, plain, rtol=1e-3, atol=2e-4)
    by_ten, _ = of_responses(name, 10 * score)
    scale = 10 if name in ("rloo", "dr_grpo") else 1
    np.testing.assert_allclose(by_ten, scale * plain, rtol=1e-3)


@pytest.mark.parametrize("name", GROUPS)
def test_order_does_not_matter(name):
    score = np.random.default_rng(1).normal(size=(3, 4))
    plain, _ = of_responses(name, score)
    prompts, members = np.array([2, 0, 1]), np.array([3, 1, 0, 2])
    moved, _ = of_responses(name, score[prompts][:, members])
    expected = plain[prompts][:, members]
    np.testing.assert_allclose(moved, expected, rtol=1e-5, atol=1e-6)


def test_the_same_prompt_twice_is_two_groups():
    ours, _ = of_responses("rloo", [[0.0, 1.0], [10.0, 11.0]])
    np.testing.assert_allclose(ours, [[-1, 1], [-1, 1]])


@pytest.mark.parametrize("name", GROUPS)
def test_responses_without_a_reward_are_left_out(name):
    nan = np.nan
    full, _ = of_responses(name, [[1.0, 0.0, 3.0], [2.0, 5.0, 2.5]])
    holes = scored([[1.0, nan, 0.0, 3.0], [nan, 2.0, 5.0, 2.5]])
    result = ADVANTAGES[name](holes)
    there = np.isfinite([[1.0, nan, 0.0, 3.0], [nan, 2.0, 5.0, 2.5]])
    np.testing.assert_allclose(result.advantage[..., 0][there], full.ravel(), rtol=1e-5)
    np.testing.assert_array_equal(result.weight, there)
    assert not result.advantage[~there].any()
    # One that remains alone has nothing to be compared with.
    ours, weight = of_responses(name, [[nan, 7.0, nan], [1.0, 2.0, 4.0]])
    assert not ours[0].any() and not weight[0].any() and weight[1].all()


def test_unscored_responses_of_methods_without_groups():
    outcome = scored([[np.nan, 1.0]], greedy=array([0.0]))
    outcome = outcome._replace(value=jnp.zeros_like(outcome.reward))
    for name in set(ADVANTAGES) - set(GROUPS):
        result = ADVANTAGES[name](outcome)
        np.testing.assert_array_equal(result.weight, [[0, 1]], err_msg=name)


def test_fields_and_responses_that_an_advantage_needs():
    for name, function in ADVANTAGES.items():
        needs = advantages.requirements(function)
        assert needs.responses == (2 if name in GROUPS else 1)
        assert set(needs.fields) <= set(Outcome._fields)
    assert advantages.requirements(advantages.gae).fields == ("value",)
    assert advantages.requirements(lambda outcome: outcome).responses == 1


def test_whitening():
    x = array(GOLDEN["gae.adv"])
    there = np.ones(4, bool)
    for ddof, vector in ((0, "whitened(ddof0,eps1e-8)"), (1, "whitened(ddof1)")):
        ours = advantages.whiten(x, there, 1e-8, ddof)
        np.testing.assert_allclose(ours, GOLDEN[f"gae.{vector}"], rtol=1e-4)
    padded = np.concatenate([x, array([np.nan, 100.0])])
    ours = advantages.whiten(padded, np.arange(6) < 4)
    np.testing.assert_allclose(ours[:4], GOLDEN["gae.whitened(ddof0,eps1e-8)"], 1e-4)
    assert not ours[4:].any()


def one(reward, value, action=None, after=0.0):
    """A single response, its rewards given token by token."""
    reward, value = array(reward)[None, None], array(value)[None, None]
    action = np.ones(reward.shape, bool) if action is None else np.array([[action]])
    yes = np.ones((1, 1), bool)
    return Outcome(reward, action.astype(bool), yes, yes, value, after)


def advantage_of(outcome, **options):
    return np.asarray(advantages.gae(outcome, **options).advantage[0, 0])


def test_gae_by_the_vector_and_the_example():
    given = GOLDEN["INPUT.gae"]
    result = advantages.gae(one(given["rewards"], given["values"]))
    np.testing.assert_allclose(result.advantage[0, 0], GOLDEN["gae.adv"], rtol=1e-6)
    np.testing.assert_allclose(result.returns[0, 0], GOLDEN["gae.returns"], rtol=1e-6)
    # The score stands at the terminator, not on a state after it.
    ours = advantage_of(one([0, 0, 1], [0.2, 0.3, 0.5]))
    np.testing.assert_allclose(ours, [0.74125, 0.675, 0.5], rtol=1e-6)


def test_gae_at_its_ends():
    """lambda 1: what is still to come less the value; lambda 0: one step."""
    reward, value = [0.5, -1.0, 2.0], [0.2, 0.3, 0.5]
    ours = advantage_of(one(reward, value), lam=1.0)
    np.testing.assert_allclose(ours, [1.5 - 0.2, 1.0 - 0.3, 2 - 0.5], rtol=1e-6)
    ours = advantage_of(one(reward, value), lam=0.0, gamma=0.9)
    expected = [0.5 + 0.27 - 0.2, -1 + 0.45 - 0.3, 2 - 0.5]
    np.testing.assert_allclose(ours, expected, rtol=1e-6)
    ours = advantage_of(one(reward, [0, 0, 0]), lam=1.0, gamma=0.5)
    np.testing.assert_allclose(ours, [0.5 - 0.5 + 0.5, -1 + 1, 2], rtol=1e-6)


def three_ends(fill=0.0):
    """The same tokens: ended, cut off, and ended after a tool wrote two tokens.

    Padding, and what the tool wrote, have `fill` as reward and as value.
    """
    action = np.array([[1, 1, 1, 0, 0], [1, 1, 1, 0, 0], [1, 0, 0, 1, 1]], bool)
    reward = np.full((1, 3, 5), fill, np.float32)
    value = np.full((1, 3, 5), fill, np.float32)
    reward[0][action], value[0][action] = [0, 0, 1] * 3, [0.2, 0.3, 0.5] * 3
    yes = np.ones((1, 3), bool)
    outcome = Outcome(reward, action[None], yes, yes, value)
    return outcome, np.array([[False, True, False]])


@pytest.mark.parametrize("fill", [0.0, 100.0, np.nan])
def test_every_kind_of_end(fill):
    outcome, truncated = three_ends(fill)
    ended = array([0.74125, 0.675, 0.5])
    # With V(s_T+1) = 0.8 behind the last token: d = [.1, .2, 1.3].
    carried = array([0.1 + 0.95 * (0.2 + 0.95 * 1.3), 0.2 + 0.95 * 1.3, 1.3])
    for end, second, weight in (
        ("terminal", ended, 1),
        ("bootstrap", carried, 1),
        ("masked", 0 * ended, 0),
    ):
        with_end = advantages.with_end(outcome, truncated, end, array([[9, 0.8, 9]]))
        result = advantages.gae(with_end)
        for k, expected in enumerate((ended, second, ended)):
            there = outcome.action[0, k]
            ours = np.asarray(result.advantage[0, k])
            np.testing.assert_allclose(ours[there], expected, rtol=1e-5)
            assert not ours[~there].any()
        np.testing.assert_array_equal(result.weight, [[1, weight, 1]])
        expected = array([0.2, 0.3, 0.5]) + ended
        np.testing.assert_allclose(result.returns[0, 0, :3], expected, rtol=1e-6)
        assert np.isfinite(result.returns).all()
        white = advantages.gae_whitened(with_end)
        counts = outcome.action & (np.asarray(result.weight) > 0)[..., None]
        picked = np.asarray(white.advantage)[counts]
        np.testing.assert_allclose(picked.mean(), 0, atol=1e-6)
        np.testing.assert_allclose(picked.std(), 1, rtol=1e-5)
        assert not np.asarray(white.advantage)[~counts].any()
        # A critic learns in units of reward, of what is not whitened.
        np.testing.assert_array_equal(white.returns, result.returns)


def test_values_of_what_is_not_learned_are_never_read():
    """As of a response that is masked or has no reward: they may be anything."""
    outcome, truncated = three_ends()
    outcome.value[0, 1] = np.nan
    masked = advantages.with_end(outcome, truncated, "masked")
    for one in (masked, outcome._replace(scored=~truncated)):
        for name in ("gae", "gae_whitened"):
            result = ADVANTAGES[name](one)
            assert np.isfinite(result.advantage).all()
            assert np.isfinite(result.returns).all()
            assert not result.advantage[0, 1].any() and not result.returns[0, 1].any()


@pytest.mark.parametrize("name", GROUPS)
def test_a_response_without_an_action_has_no_reward(name):
    """It is compared with nothing, and nothing is compared with it."""
    with_it = scored([[1.0, 2.0, 6.0], [0.0, 4.0, 5.0], [3.0, 9.0, 9.0]])
    action = with_it.action.copy()
    action[0, 2] = action[2, 1:] = False
    none = ADVANTAGES[name](with_it._replace(action=jnp.asarray(action)))
    unscored = np.array(with_it.scored)
    unscored[0, 2] = unscored[2, 1:] = False
    expected = ADVANTAGES[name](with_it._replace(scored=unscored))
    np.testing.assert_allclose(none.advantage, expected.advantage, atol=1e-6)
    np.testing.assert_array_equal(none.weight, [[1, 1, 0], [1, 1, 1], [0, 0, 0]])


def test_what_is_masked_counts_in_the_baseline_alone():
    outcome = scored([[0.0, 1.0, 5.0]])
    cut = advantages.with_end(outcome, np.array([[False, False, True]]), "masked")
    result = advantages.rloo(cut)
    np.testing.assert_allclose(result.advantage[0, :2, 0], [-3.0, -1.5])
    np.testing.assert_array_equal(result.weight, [[1, 1, 0]])
    assert not result.advantage[0, 2].any()


def test_rewards_of_tokens():
    """The score at the last action, the KL at each; nothing anywhere else."""
    action = np.array([[[1, 1, 0, 0], [1, 0, 0, 1], [0, 0, 0, 0]]], bool)
    score = array([[2.0, np.nan, 5.0]])
    plain = np.asarray(advantages.token_rewards(array([[2.0, 3.0, 5.0]]), action))
    np.testing.assert_array_equal(plain, [[[0, 2, 0, 0], [0, 0, 0, 3], [0, 0, 0, 0]]])
    k1 = np.where(action, 0.5, np.nan)
    ours = advantages.token_rewards(score, action, k1, 0.1)
    expected = [[-0.05, 1.95, 0, 0], [-0.05, 0, 0, -0.05], [0, 0, 0, 0]]
    np.testing.assert_allclose(ours[0], expected, rtol=1e-6)
    assert ours.dtype == np.float32
    # Fractions are not cut to whole numbers where the scores are integers.
    ours = advantages.token_rewards(np.array([[1, 1, 1]]), action, k1, 0.1)
    np.testing.assert_allclose(ours[0, 0], [-0.05, 0.95, 0, 0], rtol=1e-6)
    given = GOLDEN["ppo.kl_in_reward(kl_coef=.05,score=1.5)"]
    k1 = -array(given) / 0.05
    k1[-1] = 0
    ours = advantages.token_rewards(
        array([[1.5]]), np.ones((1, 1, len(k1)), bool), k1[None, None], 0.05
    )
    np.testing.assert_allclose(ours[0, 0], given, rtol=1e-5)


def test_the_kl_of_later_tokens_is_in_the_return_of_earlier_ones():
    """Of REINFORCE++; RLOO has one sum for the whole response."""
    action = np.ones((1, 2, 3), bool)
    k1 = array([[[1, 2, 3], [0, 0, 0]]])
    reward = advantages.token_rewards(array([[1.0, 1.0]]), action, k1, 0.1)
    yes = np.ones((1, 2), bool)
    outcome = Outcome(reward, action, yes, yes)
    ours = advantages.reinforce_pp(outcome).advantage[0]
    plain = array([[1 - 0.6, 1 - 0.5, 1 - 0.3], [1, 1, 1]])
    np.testing.assert_allclose(ours, (plain - plain.mean()) / plain.std(), rtol=1e-4)
    ours = advantages.rloo(outcome).advantage[0]
    np.testing.assert_allclose(ours, [[-0.6] * 3, [0.6] * 3], rtol=1e-5)


def test_padding_changes_nothing():
    lengths = [[1, 3], [2, 2]]
    score = [[1.0, 0.0], [0.3, 2.0]]
    rng = np.random.default_rng(0)
    value = array(rng.normal(size=(2, 2, 3)))
    wide = np.pad(value, ((0, 0), (0, 0), (2, 3)), constant_values=np.nan)
    before = scored(score, lengths, 3, value=value, greedy=array([0.5, 0.5]))
    pad = lambda x, fill: np.pad(x, ((0, 0), (0, 0), (2, 3)), constant_values=fill)
    after = before._replace(
        reward=pad(before.reward, np.nan), action=pad(before.action, False), value=wide
    )
    for name, function in ADVANTAGES.items():
        narrow, padded = function(before), function(after)
        ours = np.asarray(padded.advantage)
        np.testing.assert_allclose(
            ours[..., 2:5], narrow.advantage, rtol=1e-5, atol=1e-6, err_msg=name
        )
        assert not ours[..., :2].any() and not ours[..., 5:].any()


def test_dynamic_sampling_goes_by_the_raw_outcome():
    """All-failed and all-solved prompts teach nothing, whatever a penalty adds."""
    raw = array([[0, 0, 0], [0, 1, 0], [1, 1, 1], [np.nan, 1, 0], [np.nan, 1, 1]])
    there = np.isfinite(raw)
    informative = np.asarray(advantages.informative(raw, there))
    np.testing.assert_array_equal(informative, [False, True, False, True, False])
    alone = advantages.informative(array([[np.nan, 1.0]]), np.array([[False, True]]))
    none = advantages.informative(array([[1.0, 0.0]]), np.zeros((1, 2), bool))
    assert not alone[0] and not none[0]


# Responses of three prompts: their actions, and what each counts.
ACTIONS = np.arange(6) < np.array([[[2], [6]], [[1], [3]], [[4], [0]]])
COUNTS = array([[1, 1], [1, 0], [1, 1]])  # the last one has no action


@pytest.mark.parametrize(
    ("name", "options", "total", "weight"),
    [
        ("token_mean", {}, 2 + 6 + 1 + 4, 13),
        ("sequence_mean", {}, 4, 4),
        ("sequence_sum", {}, 13, 4),
        ("constant", dict(length=10), 1.3, 4),
        ("prompt_mean", {}, 3, 3),
    ],
)
def test_the_table_of_denominators(name, options, total, weight):
    """Of losses that are all 1: what is summed, and what it is divided by."""
    weights = denominators.DENOMINATORS[name](ACTIONS, COUNTS, **options)
    np.testing.assert_allclose(weights.token.sum(), total, rtol=1e-6)
    np.testing.assert_allclose(weights.share.sum(), weight, rtol=1e-6)
    out = ~ACTIONS | (COUNTS == 0)[..., None]
    assert not np.asarray(weights.token)[out].any()
    assert not weights.share[1, 1] and not weights.share[2, 1]
    # Padding changes nothing, and prompts add up, in any cut of the batch.
    wide = np.pad(ACTIONS, ((0, 0), (0, 0), (1, 4)))
    padded = denominators.DENOMINATORS[name](wide, COUNTS, **options)
    np.testing.assert_array_equal(padded.token[..., 1:7], weights.token)
    parts = [
        denominators.DENOMINATORS[name](ACTIONS[g], COUNTS[g], **options)
        for g in (slice(0, 1), slice(1, 3))
    ]
    for field in ("token", "share"):
        joined = np.concatenate([getattr(part, field) for part in parts])
        np.testing.assert_array_equal(joined, getattr(weights, field))
    nothing = denominators.DENOMINATORS[name](ACTIONS, 0 * COUNTS, **options)
    assert not nothing.token.any() and not nothing.share.any()


def test_a_token_by_its_denominator():
    """Of the first prompt, |y| = 2 and 6: what a token of each response counts."""
    share = lambda name, **options: np.asarray(
        denominators.DENOMINATORS[name](ACTIONS, COUNTS, **options).token[0, :, 0]
    )
    np.testing.assert_allclose(share("token_mean"), [1, 1])
    np.testing.assert_allclose(share("sequence_mean"), [1 / 2, 1 / 6], rtol=1e-6)
    np.testing.assert_allclose(share("sequence_sum"), [1, 1])
    np.testing.assert_allclose(share("constant", length=10), [0.1, 0.1], rtol=1e-6)
    np.testing.assert_allclose(share("prompt_mean"), [1 / 8, 1 / 8], rtol=1e-6)


def test_prompts_may_count_differently():
    counts = COUNTS * array([[2], [1], [0.5]])
    for name in denominators.DENOMINATORS:
        options = dict(length=10) if name == "constant" else {}
        plain = denominators.DENOMINATORS[name](ACTIONS, COUNTS, **options)
        ours = denominators.DENOMINATORS[name](ACTIONS, counts, **options)
        scale = array([2, 1, 0.5])
        expected = np.asarray(plain.token) * scale[:, None, None]
        np.testing.assert_allclose(ours.token, expected, rtol=1e-6, err_msg=name)
        expected = np.asarray(plain.share) * scale[:, None]
        np.testing.assert_allclose(ours.share, expected, rtol=1e-6, err_msg=name)


def test_every_advantage_and_denominator_names_its_source():
    for function in (*ADVANTAGES.values(), *denominators.DENOMINATORS.values()):
        first = function.__doc__.splitlines()[0]
        named = re.search(r"arXiv:\d{4}\.\d{5}\b|, 19\d\d:", first)
        assert named or function is denominators.prompt_mean, function


def test_they_are_pure_functions_of_arrays():
    """Under jit, in float32, whatever the inputs' dtype."""
    outcome = scored([[1.0, 0.0], [0.3, 2.0]], greedy=array([0.5, 0.5]))
    outcome = outcome._replace(value=jnp.ones_like(outcome.reward))
    outcome = jax.tree.map(jnp.asarray, outcome)
    every = lambda outcome: {n: f(outcome) for n, f in ADVANTAGES.items()}
    compiled, eager = jax.jit(every)(outcome), every(outcome)
    for a, b in zip(*map(jax.tree.leaves, (compiled, eager)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
        assert a.dtype == np.float32
