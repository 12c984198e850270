# SPDX-License-Identifier: Apache-2.0
"""What responses are rewarded for, and which of them teach something."""

import dataclasses

import jax
import numpy as np
import pytest

from alignjax import errors, rewards
from alignjax.distributed import sharding
from alignjax.rollouts import drawing, scoring
from tests.rollouts import small


def test_a_reward_is_given_each_response_with_its_own_prompt(experiment):
    seen = []

    def score(responses):
        seen.extend(responses)
        return [0.0] * len(responses)

    rollouts = dataclasses.replace(
        small.with_rewards(experiment, score), sampler=small.with_many_stops(experiment)
    )
    batch, *_ = small.make(experiment, rollouts)
    prompts, rows = rollouts.prompts.take(5 * 8, 8), batch.responses.sequences
    for i, answer in enumerate(seen):
        g, k = divmod(i, 4)
        prompt, start = prompts[g], len(prompts[g].ids)
        assert answer.turns == prompt.turns and answer.record is prompt.record
        assert rows.inputs[g, k, :start].tolist() == list(prompt.ids)
        ids = rows.targets[g, k, start - 1 :][: answer.length]
        assert answer.length == batch.responses.lengths[g, 0, k]
        assert answer.text == rollouts.text(ids) and answer.room == 12
        assert answer.finished == rollouts.sampler.stops_V[ids[-1]]
    assert len({answer.finished for answer in seen}) == 2


def test_unscored_responses_count_nothing(experiment):
    """And their siblings are compared without them; a group of one teaches nothing."""

    def some(responses):
        return [None if i % 4 == 0 else float(i % 3) for i in range(len(responses))]

    def one(responses):
        return [float(i) if i % 4 == 0 else float("nan") for i in range(len(responses))]

    batch, figures, _ = small.make(experiment, small.with_rewards(experiment, some))
    assert figures["unscored"] == 0.25
    assert (batch.share[:, 0] == 0).all() and (batch.share[:, 1:] == 1).all()
    assert (batch.then.advantage[:, 0] == 0).all()
    batch, figures, _ = small.make(experiment, small.with_rewards(experiment, one))
    assert figures["unscored"] == 0.75 and figures["tied"] == 1
    assert (batch.share == 0).all() and (batch.token == 0).all()


def test_a_reward_that_gives_none_at_the_beginning_ends_the_run(experiment):
    """Such as one of a misspelled column; later it is no more than a line."""
    rollouts = small.with_rewards(experiment, lambda responses: [None] * len(responses))
    with pytest.raises(errors.DataError, match=r"rollouts\.rewards: no response"):
        small.make(experiment, rollouts, number=0)
    batch, _, lines = small.make(experiment, rollouts, number=1)
    assert "nothing is learned" in lines[-1] and not batch.share.any()


def test_responses_that_are_all_cut_off_and_masked_are_told_of(experiment):
    run = experiment[0].rollouts
    settings = dataclasses.replace(run.settings, truncated="masked")
    endless = run.sampler._replace(stops_V=np.zeros_like(run.sampler.stops_V))
    rollouts = dataclasses.replace(run, settings=settings, sampler=endless)
    batch, _, lines = small.make(experiment, rollouts)
    assert not batch.share.any()
    assert lines == ["no response weighs anything, and so nothing is learned"]


def test_faults_of_evaluations_are_told_of(experiment):
    odd = lambda responses: [
        rewards.Score(None, "it broke") if i % 2 else 1.0 for i in range(len(responses))
    ]
    run, rollouts = experiment[0], small.with_rewards(experiment, odd)
    with sharding.use(run.mesh, run.rules):
        models = small.models(*experiment)
        figures, lines = rollouts.evaluate(models, lambda name: None)
    assert 0 < figures["unscored"] < 1 and "it broke" in lines[0]


def test_numbers_beyond_float32_are_no_rewards(experiment):
    """They would be infinite, and count 0 in the rewards of tokens."""
    scores = lambda responses: [
        1e39 if i % 4 == 0 else i for i in range(len(responses))
    ]
    batch, figures, _ = small.make(experiment, small.with_rewards(experiment, scores))
    assert figures["unscored"] == 0.25 and (batch.share[:, 0] == 0).all()
    assert np.isfinite(batch.then.advantage).all()


def test_a_greedy_response_without_a_reward_is_no_baseline_of_0(experiment):
    settings = dataclasses.replace(
        experiment[0].rollouts.settings, advantage={"name": "remax"}
    )

    def drawn_alone(responses):  # those of greedy responses, of which half fail
        alone = len(responses) == 8
        return [None if alone and i % 2 else float(i) for i in range(len(responses))]

    rollouts = small.with_rewards(experiment, drawn_alone)
    rollouts = dataclasses.replace(rollouts, settings=settings)
    batch, _, lines = small.make(experiment, rollouts)
    assert batch.share.sum(1).tolist() == [4, 0] * 4
    assert "4 of 8 greedy responses have no reward" in lines[-1]


@pytest.mark.parametrize("scores", [lambda a: [1.0], lambda a: ["good"] * len(a)])
def test_rewards_that_are_none_of_these_answers_are_refused(experiment, scores):
    with pytest.raises(errors.DataError, match=r"rewards\.r0"):
        small.make(experiment, small.with_rewards(experiment, scores))


@pytest.mark.parametrize(("place", "share"), [("reward", 0.1), ("loss", 0.0)])
def test_the_kl_in_the_rewards_is_a_penalty(experiment, place, share):
    """On what the policy says more often than its reference; else they have none."""
    equal = small.with_rewards(experiment, lambda responses: [0.0] * len(responses))
    kl = dataclasses.replace(equal.settings.kl, place=place, estimator=None)
    fields = dict(advantage={"name": "reinforce"}, kl=kl)
    changed = dataclasses.replace(equal.settings, **fields)
    run, own = experiment[0], small.models(*experiment)
    other = own._replace(reference=jax.tree.map(lambda x: 1.05 * x, own.reference))
    with sharding.use(run.mesh, run.rules):
        rollouts = dataclasses.replace(equal, settings=changed)
        batch, figures, _ = rollouts.make(5, other, 0.1)
    then = batch.then
    k1 = np.where(then.action, then.old - then.reference, 0).sum(-1)
    assert np.abs(k1).max() > 0.1
    np.testing.assert_allclose(then.advantage[..., 0], -share * k1, atol=1e-5)
    assert figures["kl/k1"] == pytest.approx(k1.mean(), abs=1e-4)
    assert figures["kl/reference"] > 0


@pytest.mark.parametrize(
    ("advantage", "deviation"),
    [("rloo", 1.0), ("grpo", 2.0), ("batch_std", (24 * 3 / 31) ** 0.5)],
)
def test_the_penalty_that_a_spread_of_rewards_makes_of_the_coefficient(
    experiment, advantage, deviation
):
    """A tied prompt has no spread, but does not count in what is reported."""

    def score(responses):  # those to the first two prompts are equal
        return [0.0 if i < 8 else 3.0**0.5 * (-1) ** i for i in range(len(responses))]

    rollouts = small.with_rewards(experiment, score)
    kl = dataclasses.replace(rollouts.settings.kl, place="loss", estimator=None)
    fields = dict(advantage={"name": advantage}, kl=kl)
    settings = dataclasses.replace(rollouts.settings, **fields)
    run, models = experiment[0], small.models(*experiment)
    with sharding.use(run.mesh, run.rules):
        rollouts = dataclasses.replace(rollouts, settings=settings)
        _, figures, _ = rollouts.make(5, models, 0.1)
    assert figures["kl/effective"] == pytest.approx(0.1 * deviation, rel=1e-3)
    assert figures["tied"] == 0.25


def test_equal_rewards_teach_nothing_but_the_kl(experiment):
    equal = small.with_rewards(experiment, lambda responses: [1 / 3] * len(responses))
    batch, *_ = small.make(experiment, equal)
    # The policy is its reference, so that the penalty is 0 too, to rounding.
    assert np.abs(batch.then.advantage).max() < 1e-5


def test_ties_are_no_pairs(experiment):
    def score(responses):  # of the first two groups all are equal
        return [0.0 if i < 8 else float(i % 4) for i in range(len(responses))]

    rollouts = dataclasses.replace(small.with_rewards(experiment, score), pairs=True)
    batch, figures, _ = small.make(experiment, rollouts)
    assert batch.weights[:, 0].tolist() == [0, 0, 1, 1, 1, 1, 1, 1]
    assert figures["tied"] == 0.25 and figures["gap"] == 3.0
    assert batch.values["gap"][:, 0].tolist() == [1, 1, 3, 3, 3, 3, 3, 3]
    assert batch.lengths.shape == (8, 1, 2)
    rounding = lambda responses: [7e6 + i % 4 for i in range(len(responses))]
    batch, *_ = small.make(
        experiment,
        dataclasses.replace(small.with_rewards(experiment, rounding), pairs=True),
    )
    assert not batch.weights.any()


def drawn_again(experiment, scores, **fields):
    settings = dataclasses.replace(experiment[0].rollouts.settings, **fields)
    rollouts = dataclasses.replace(
        small.with_rewards(experiment, scores), settings=settings
    )
    return small.make(experiment, rollouts)


def test_prompts_without_a_signal_are_drawn_again(experiment):
    """Each rollout draws from prompts of its own, so none depends on another."""

    def half(responses):  # the responses to the first four prompts are equal
        return [0.5 if i < 16 else float(i % 4) for i in range(len(responses))]

    batch, figures, lines = drawn_again(experiment, half, redraws=2)
    first = 5 * 3 * 8
    expected = [*range(first + 4, first + 8), *range(first + 12, first + 16)]
    assert batch.responses.index[:, 0].tolist() == expected
    assert figures["prompts"] == 16 and lines == [] and (batch.share == 1).all()
    assert figures["tied"] == 0


def test_drawing_again_has_a_bound(experiment):
    """All rewards are equal for ever: rounds end, and what is left weighs nothing."""
    equal = lambda responses: [1.0] * len(responses)
    batch, figures, lines = drawn_again(experiment, equal, redraws=2)
    assert figures["prompts"] == 24 and "8 of 8 prompts weigh nothing" in lines[0]
    assert (batch.share == 0).all() and (batch.token == 0).all()


def test_a_signal_is_of_the_outcome_and_not_of_its_shape(experiment):
    """Of a prompt whose responses all failed none is better for being shorter."""
    run = experiment[0]

    def failed(responses):
        return [float(i % 4 == 1 and i > 8) for i in range(len(responses))]

    shape = lambda responses: [
        answer.length / 100 + i for i, answer in enumerate(responses)
    ]
    named = [rewards.Named("right", 1.0, failed), rewards.Named("shape", 1.0, shape)]
    for outcome, expected in ((None, [1] * 8), ("right", [0, 0, *[1] * 6])):
        settings = dataclasses.replace(
            run.rollouts.settings,
            rewards={"right": {}, "shape": {}},
            redraws=0 if outcome else 1,
            outcome=outcome,
        )
        rollouts = dataclasses.replace(
            run.rollouts, rewards=tuple(named), settings=settings
        )
        batch, *_ = small.make(experiment, rollouts)
        assert (batch.share.min(1) == expected).all(), outcome


def test_figures_are_of_the_responses_that_have_them():
    """A mean over some is of these; of none there is no figure, and never NaN."""
    drawn = drawing.Drawn([[1], [1, 2], [3]], [], np.array([True, False, True]))
    parts = {"a": [1.0, None, 3.0], "b": [None] * 3}
    some = rewards.Scored([1.0, None, 3.0], parts, [])
    assert scoring.figures(some, drawn) == {
        "length": pytest.approx(4 / 3),
        "finished": pytest.approx(2 / 3),
        "unscored": pytest.approx(1 / 3),
        "reward": 2.0,
        "reward/a": 2.0,
        "reward/std": 1.0,
    }
    none = scoring.figures(rewards.Scored([None] * 3, {}, []), drawn)
    assert none["unscored"] == 1 and not any(x.startswith("reward") for x in none)


def test_masked_responses_leave_loss_and_denominator(experiment):
    ended = []

    def score(responses):
        ended.extend(answer.finished for answer in responses)
        return [float(i) for i in range(len(responses))]

    settings = dataclasses.replace(experiment[0].rollouts.settings, truncated="masked")
    fields = dict(settings=settings, sampler=small.with_many_stops(experiment))
    rollouts = dataclasses.replace(small.with_rewards(experiment, score), **fields)
    batch, *_ = small.make(experiment, rollouts)
    assert 0 < np.mean(ended) < 1
    assert batch.share.ravel().tolist() == ended
    assert batch.token.any(-1).ravel().tolist() == ended
