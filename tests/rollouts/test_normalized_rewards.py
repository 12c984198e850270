# SPDX-License-Identifier: Apache-2.0
"""Rewards of a rollout that a normalizer changes, one of the user's own among them."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest

from alignjax import errors
from alignjax.distributed import sharding
from alignjax.experiment import build
from alignjax.losses import advantages, normalizers
from tests.rollouts import small

OWN = "tests.rollouts.test_normalized_rewards"


def scores(responses):
    return [4.0 * (i % 4) for i in range(len(responses))]


def made(experiment, name, running=(), **changes):
    """A rollout of these scores, by RLOO; options of the normalizer follow its name."""
    rollouts = small.with_rewards(experiment, scores)
    normalize = {"name": name} if isinstance(name, str) else name
    kl = dataclasses.replace(rollouts.settings.kl, place="loss", estimator=None)
    settings = dict(normalize=normalize, kl=kl) | changes
    settings = dataclasses.replace(rollouts.settings, **settings)
    rollouts = dataclasses.replace(rollouts, settings=settings)
    run, models = experiment[0], small.models(*experiment)
    with sharding.use(run.mesh, run.rules):
        return rollouts.make(5, models, 0.1, running=dict(running))


def test_advantages_are_of_the_rewards_as_they_are_normalized(experiment):
    deviation = np.std(4.0 * np.arange(4))
    plain, before, _ = made(experiment, {})
    batch, figures, _ = made(experiment, "running_scale")
    expected = plain.then.advantage / deviation
    np.testing.assert_allclose(batch.then.advantage, expected, rtol=1e-5, atol=1e-6)
    # What is logged and reported is the reward itself, and the penalty by its size.
    assert figures["reward"] == before["reward"] == 6.0
    assert before["kl/effective"] == pytest.approx(0.1)
    assert figures["kl/effective"] == pytest.approx(0.1 * deviation, rel=1e-5)
    assert "running/count" not in before and figures["running/count"] == 32
    assert (batch.figures["running/mean"] == 6.0).all()
    # Another rollout had rewards around 1,000.
    running = {"count": 32.0, "mean": 1000.0, "variance": 0.0}
    batch, figures, _ = made(experiment, "running_scale", running)
    both = [1000.0] * 32 + [4.0 * (i % 4) for i in range(32)]
    assert figures["running/variance"] == pytest.approx(np.var(both), rel=1e-5)
    expected = plain.then.advantage / np.std(both)
    np.testing.assert_allclose(batch.then.advantage, expected, rtol=1e-5, atol=1e-6)


def test_a_baseline_that_moves_changes_no_advantage_that_has_its_own(experiment):
    above = {"above": 5.0}
    plain, *_ = made(experiment, {}, advantage={"name": "reinforce"})
    batch, *_ = made(
        experiment, "moving_baseline", above, advantage={"name": "reinforce"}
    )
    first = lambda batch: batch.then.advantage[..., 0]
    np.testing.assert_allclose(first(batch), first(plain) - 5.0, atol=1e-5)
    batch, *_ = made(experiment, "moving_baseline", above)
    np.testing.assert_allclose(first(batch), first(made(experiment, {})[0]), atol=1e-5)


@normalizers.declare({"rollouts": 0.0})
def halved(outcome, running, *, by: float = 2.0):
    kept = {"rollouts": running["rollouts"] + 1}
    return normalizers.Normalized(outcome.reward / by, kept, by)


@normalizers.declare({"x": 0.0})
def undeclared(outcome, running):
    return normalizers.Normalized(outcome.reward, {"y": 1.0})


@normalizers.declare({"x": 0.0})
def infinite(outcome, running):
    return normalizers.Normalized(outcome.reward, {"x": jnp.inf})


@normalizers.declare({"x": 0.0})
def list_of_numbers(outcome, running):
    return normalizers.Normalized(outcome.reward, {"x": jnp.zeros(3)})


def of_responses(outcome, running):
    return normalizers.Normalized(outcome.reward.sum(-1))


def test_one_of_the_users_own(experiment):
    plain, *_ = made(experiment, {})
    batch, figures, _ = made(experiment, {"name": f"{OWN}:halved", "by": 4.0})
    expected = plain.then.advantage / 4
    np.testing.assert_allclose(batch.then.advantage, expected, rtol=1e-6)
    assert figures["running/rollouts"] == 1
    _, figures, _ = made(experiment, f"{OWN}:halved", {"rollouts": np.float32(7)})
    assert figures["running/rollouts"] == 8


@normalizers.declare({"x": 0.0})
def not_kept(outcome, running):
    return normalizers.Normalized(outcome.reward, None)


@normalizers.declare({"x": "zero"})
def words(outcome, running):
    return normalizers.Normalized(outcome.reward, running)


def by_nothing(outcome, running):
    return normalizers.Normalized(outcome.reward, scale=0.0)


def by_group(outcome, running):
    return normalizers.Normalized(outcome.reward, scale=jnp.ones((8, 1)))


def nan(outcome, running):
    return normalizers.Normalized(outcome.reward * jnp.nan)


def reads_padding(outcome, running):
    return normalizers.Normalized(outcome.reward / outcome.reward.std())


def array(outcome, running):
    return outcome.reward


def of_one(outcome):
    return normalizers.Normalized(outcome.reward)


def broken(outcome, running):
    raise KeyError("gold")


BAD = {
    "undeclared": r"keeps \['y'\], and declares \['x'\]",
    "infinite": "inf.*not all finite numbers",
    "list_of_numbers": "not all finite numbers",
    "not_kept": "keeps None",
    "words": "declares {'x': 'zero'}, which are not all numbers",
    "of_responses": r"the shape \[5, 4\] for reward, which has \[5, 4, 5\]",
    "by_nothing": "divided by 0, which is not above 0",
    "by_group": r"the shape \[8, 1\] for scale, which has \[\]",
    "nan": "rewards that are not finite",
    "reads_padding": "rewards that are not finite; it may read padding",
    "array": "returns ArrayImpl, where normalizers.Normalized is returned",
    "of_one": "fails: TypeError: of_one",
    "broken": "fails: KeyError: 'gold'",
}


@pytest.mark.parametrize("name", BAD)
def test_one_that_is_wrong_is_refused_before_there_is_a_rollout(tmp_path, name):
    section = small.section(tmp_path, rollouts__normalize={"name": f"{OWN}:{name}"})
    why = rf"rollouts\.normalize\.name: {name} .*{BAD[name]}"
    with pytest.raises(errors.ConfigError, match=why):
        build.check(section)


def test_one_that_turns_wrong_is_refused_then(experiment):
    with pytest.raises(errors.ConfigError, match=r"normalize\.name: .*not finite"):
        made(experiment, f"{OWN}:nan")


def small_weights(outcome):
    return advantages.rloo(outcome)._replace(weight=jnp.ones(3))


def not_there(outcome):
    return outcome.nothing


def scaled(outcome):
    return advantages.rloo(outcome)._replace(scale=jnp.ones((5, 4)))


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("small_weights", r"the shape \[3\] for weight, which has \[5, 4\]"),
        ("not_there", "fails: AttributeError"),
        ("scaled", r"a scale of shape \[5, 4\]; one number, or \[5, 1\]"),
    ],
)
def test_an_advantage_that_is_wrong_is_refused_too(tmp_path, name, why):
    section = small.section(tmp_path, rollouts__advantage={"name": f"{OWN}:{name}"})
    why = rf"rollouts\.advantage\.name: {name} .*{why}"
    with pytest.raises(errors.ConfigError, match=why):
        build.check(section)


@pytest.mark.parametrize(
    ("normalize", "advantage", "has_effect"),
    [
        ({"name": "running_scale"}, "rloo", True),
        ({"name": "running_scale"}, "reinforce", True),
        ({"name": "running_scale"}, "batch_std", False),
        ({"name": "running_scale"}, "reinforce_pp", False),
        ({"name": "moving_baseline"}, "reinforce", True),
        ({"name": "moving_baseline", "decay": 1.0}, "reinforce", False),
        ({"name": "moving_baseline"}, "rloo", False),
        ({"name": "moving_baseline"}, "dr_grpo", False),
        ({"name": "whitened_tokens"}, "reinforce_pp", True),
    ],
    ids=str,
)
def test_one_without_effect_is_refused(tmp_path, normalize, advantage, has_effect):
    section = small.section(
        tmp_path, rollouts__normalize=normalize, rollouts__advantage={"name": advantage}
    )
    if has_effect:
        assert build.check(section).config.rollouts.normalize == normalize
        return
    why = r"normalize\.name: '\w+' with these options has no effect on the advantage"
    with pytest.raises(errors.ConfigError, match=why):
        build.check(section)
