# SPDX-License-Identifier: Apache-2.0
"""One rollout: what is drawn, what it is rewarded for, and what counts."""

import dataclasses
import functools
import gc
import types

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from alignjax import errors, rewards
from alignjax.distributed import sharding
from alignjax.experiment import build
from alignjax.experiment import rollouts as online
from alignjax.losses import denominators
from alignjax.objectives import policy_gradient
from alignjax.rollouts import drawing, layout, rollout, source
from alignjax.training import step
from alignjax.types import Sequences, TrainState
from tests.rollouts import small


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("rollouts")


@pytest.fixture(scope="module")
def experiment(folder):
    return small.begun(small.section(folder))


def models(run, state, frozen):
    return source.Source(run.rollouts, frozen, 0).models(state)


@pytest.fixture(scope="module")
def made(experiment):
    run, *_ = experiment
    with sharding.use(run.mesh, run.rules):
        return run.rollouts.make(5, models(*experiment), 0.1)


def make(experiment, rollouts, number=5):
    run, *_ = experiment
    with sharding.use(run.mesh, run.rules):
        return rollouts.make(number, models(*experiment), 0.1)


def same(a, b):
    equal = lambda x, y: np.array_equal(np.asarray(x), np.asarray(y))
    return all(jax.tree.leaves(jax.tree.map(equal, a, b)))


def test_a_rollout_is_a_function_of_its_number(experiment, made):
    rollouts = experiment[0].rollouts
    again, _, _ = make(experiment, rollouts)
    assert same(again, made[0])
    other, _, _ = make(experiment, rollouts, 6)
    assert not same(
        other.responses.sequences.inputs, made[0].responses.sequences.inputs
    )


def test_tokens_do_not_depend_on_the_rows_drawn_at_one_time(experiment, made):
    rollouts = experiment[0].rollouts
    few = dataclasses.replace(rollouts, sampler=rollouts.sampler._replace(rows=8))
    batch, _, _ = make(experiment, few)
    inputs = lambda batch: batch.responses.sequences.inputs
    assert np.array_equal(inputs(batch), inputs(made[0]))


def test_what_counts_are_the_tokens_that_were_drawn(made):
    """Terminators do, prompts and padding do not, whatever their ids are."""
    batch, figures, _ = made
    lengths_BK = batch.responses.lengths[:, 0]
    assert np.array_equal(batch.then.action.sum(-1), lengths_BK)
    learned = batch.responses.sequences.weights.sum(-1)  # padded: a row a response
    assert np.array_equal(learned, lengths_BK)
    assert figures["length"] == pytest.approx(lengths_BK.mean())
    assert (batch.then.advantage[~batch.then.action] == 0).all()
    assert (batch.token[~batch.then.action] == 0).all()


def test_shared_rows_are_as_long_as_their_groups(experiment, made, monkeypatch):
    """The same responses, one after the other, with no room between them."""
    monkeypatch.setattr(layout, "STEP", 4)
    rollouts = dataclasses.replace(experiment[0].rollouts, shared=True)
    batch, _, _ = make(experiment, rollouts)
    padded, *_ = made
    used = (batch.responses.sequences.segment_ids > 0).sum(-1)
    length = batch.responses.sequences.inputs.shape[-1]
    assert used.max() <= length < used.max() + 4
    assert np.array_equal(batch.then.action, padded.then.action)
    for name in ("old", "reference", "advantage"):
        a, b = (getattr(x.then, name) for x in (batch, padded))
        np.testing.assert_allclose(a, b, atol=1e-5)


def test_a_group_is_the_responses_to_one_prompt(made):
    """Each response is compared with those to the same prompt, and with no other."""
    batch, *_ = made
    first = batch.then.advantage[..., 0]
    # RLOO: within a group the advantages add to 0.
    np.testing.assert_allclose(first.sum(1), 0, atol=1e-5)
    prompts = batch.responses.sequences.inputs[:, :, 0]
    assert (prompts == prompts[:, :1]).all()


@pytest.mark.parametrize("temperature", [0.7, 1.3])
def test_log_probs_are_those_of_the_sampler(experiment, temperature):
    """Both sides divide by the temperature; where one does not, the run stops."""
    rollouts = experiment[0].rollouts
    settings = dataclasses.replace(rollouts.settings, temperature=temperature)
    sampler = rollouts.sampler._replace(temperature=temperature)
    both = dataclasses.replace(rollouts, settings=settings, sampler=sampler)
    _, figures, _ = make(experiment, both)
    assert figures["gate/max"] < 1e-4
    one = dataclasses.replace(rollouts, sampler=sampler)
    with pytest.raises(errors.ConfigError, match=r"rollouts\.gate"):
        make(experiment, one)


def test_the_loss_follows_the_section_of_rollouts(folder):
    """Temperature and KL are named once, where responses are drawn."""
    kl = {"place": "loss", "estimator": "k2", "coefficient": 0.3}
    fields = dict(rollouts__temperature=1.3, rollouts__kl=kl)
    c = build.check(small.section(folder, **fields)).config
    options = dict(temperature=1.3, kl_estimator="k2", kl_coefficient=0.3)
    assert online.objective_section(c) == {**c.objective, **options}
    plain = build.check(small.section(folder)).config  # whose KL is in the rewards
    section = {**plain.objective, "temperature": 1.0}
    assert online.objective_section(plain) == section


def test_prompts_have_the_room_that_responses_leave(experiment):
    """And not a token more."""
    run = experiment[0]
    longest = run.rollouts.prompts.longest
    for room in (longest, longest - 1):
        c = dataclasses.replace(run.config, length=room + 12)
        kept = online.streams(c, run.tokenizer)[0].longest
        assert kept <= room and (kept == longest) == (room == longest)


@pytest.mark.parametrize("pairs", [False, True])
def test_a_sampler_with_other_weights_is_noticed(experiment, pairs):
    run, state, frozen = experiment
    own = models(run, state, frozen)
    stale = jax.tree.map(lambda x: x * 1.1, own.policy)

    class Stale(type(run.rollouts.sampler)):
        def __call__(self, params, *arguments, **options):
            return super().__call__(stale, *arguments, **options)

    sampler = Stale(*run.rollouts.sampler)
    with pytest.raises(errors.ConfigError, match=r"rollouts\.gate"):
        rollouts = dataclasses.replace(run.rollouts, sampler=sampler, pairs=pairs)
        make(experiment, rollouts)


def test_one_token_that_is_off_is_noticed(experiment):
    """However small its part of the mean is."""
    gate = experiment[0].rollouts.gate
    old, action = np.zeros((1, 1, 1000), np.float32), np.ones((1, 1, 1000), bool)
    off = old.copy()
    off[..., 7] = 0.05
    with pytest.raises(errors.ConfigError, match=r"rollouts\.gate: .* at one of them"):
        gate(old, off, action)
    off[..., 7] = np.nan
    with pytest.raises(errors.ConfigError, match=r"rollouts\.gate"):
        gate(old, off, action)
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


def with_many_stops(experiment):
    """The sampler, with which more than half of all responses end by themselves."""
    sampler = experiment[0].rollouts.sampler
    return sampler._replace(stops_V=np.arange(len(sampler.stops_V)) % 3 == 0)


def with_rewards(experiment, *functions):
    named = [rewards.Named(f"r{i}", 1.0, f) for i, f in enumerate(functions)]
    return dataclasses.replace(experiment[0].rollouts, rewards=tuple(named))


def test_a_reward_is_given_each_response_with_its_own_prompt(experiment):
    seen = []

    def score(answers):
        seen.extend(answers)
        return [0.0] * len(answers)

    rollouts = dataclasses.replace(
        with_rewards(experiment, score), sampler=with_many_stops(experiment)
    )
    batch, *_ = make(experiment, rollouts)
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

    def some(answers):
        return [None if i % 4 == 0 else float(i % 3) for i in range(len(answers))]

    def one(answers):
        return [float(i) if i % 4 == 0 else float("nan") for i in range(len(answers))]

    batch, figures, _ = make(experiment, with_rewards(experiment, some))
    assert figures["unscored"] == 0.25
    assert (batch.share[:, 0] == 0).all() and (batch.share[:, 1:] == 1).all()
    assert (batch.then.advantage[:, 0] == 0).all()
    batch, figures, _ = make(experiment, with_rewards(experiment, one))
    assert figures["unscored"] == 0.75 and figures["without_signal"] == 1
    assert (batch.share == 0).all() and (batch.token == 0).all()


def test_numbers_beyond_float32_are_no_rewards(experiment):
    """They would be infinite, and count 0 in the rewards of tokens."""
    scores = lambda answers: [1e39 if i % 4 == 0 else i for i in range(len(answers))]
    batch, figures, _ = make(experiment, with_rewards(experiment, scores))
    assert figures["unscored"] == 0.25 and (batch.share[:, 0] == 0).all()
    assert np.isfinite(batch.then.advantage).all()


def test_a_greedy_response_without_a_reward_is_no_baseline_of_0(experiment):
    settings = dataclasses.replace(
        experiment[0].rollouts.settings, advantage={"name": "remax"}
    )

    def drawn_alone(answers):  # those of greedy responses, of which half fail
        alone = len(answers) == 8
        return [None if alone and i % 2 else float(i) for i in range(len(answers))]

    rollouts = with_rewards(experiment, drawn_alone)
    batch, *_ = make(experiment, dataclasses.replace(rollouts, settings=settings))
    assert batch.share.sum(1).tolist() == [4, 0] * 4


@pytest.mark.parametrize("scores", [lambda a: [1.0], lambda a: ["good"] * len(a)])
def test_rewards_that_are_none_of_these_answers_are_refused(experiment, scores):
    with pytest.raises(errors.DataError, match=r"rewards\.r0"):
        make(experiment, with_rewards(experiment, scores))


@pytest.mark.parametrize(("place", "share"), [("reward", 0.1), ("loss", 0.0)])
def test_the_kl_in_the_rewards_is_a_penalty(experiment, place, share):
    """On what the policy says more often than its reference; else they have none."""
    equal = with_rewards(experiment, lambda answers: [0.0] * len(answers))
    kl = dataclasses.replace(equal.settings.kl, place=place, estimator=None)
    fields = dict(advantage={"name": "reinforce"}, kl=kl)
    changed = dataclasses.replace(equal.settings, **fields)
    run, own = experiment[0], models(*experiment)
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


def test_equal_rewards_teach_nothing_but_the_kl(experiment):
    equal = with_rewards(experiment, lambda answers: [1 / 3] * len(answers))
    batch, *_ = make(experiment, equal)
    # The policy is its reference, so that the penalty is 0 too, to rounding.
    assert np.abs(batch.then.advantage).max() < 1e-5


def test_ties_are_no_pairs(experiment):
    def score(answers):  # of the first two groups all are equal
        return [0.0 if i < 8 else float(i % 4) for i in range(len(answers))]

    rollouts = dataclasses.replace(with_rewards(experiment, score), pairs=True)
    batch, figures, _ = make(experiment, rollouts)
    assert batch.weights[:, 0].tolist() == [0, 0, 1, 1, 1, 1, 1, 1]
    assert figures["tied"] == 0.25 and figures["gap"] == 3.0
    assert batch.lengths.shape == (8, 1, 2)
    rounding = lambda answers: [7e6 + i % 4 for i in range(len(answers))]
    batch, *_ = make(
        experiment, dataclasses.replace(with_rewards(experiment, rounding), pairs=True)
    )
    assert not batch.weights.any()


def drawn_again(experiment, scores, **fields):
    settings = dataclasses.replace(experiment[0].rollouts.settings, **fields)
    rollouts = dataclasses.replace(with_rewards(experiment, scores), settings=settings)
    with sharding.use(experiment[0].mesh, experiment[0].rules):
        return rollouts.make(5, models(*experiment), 0.1)


def test_prompts_without_a_signal_are_drawn_again(experiment):
    """Each rollout draws from prompts of its own, so none depends on another."""

    def half(answers):  # the responses to the first four prompts are equal
        return [0.5 if i < 16 else float(i % 4) for i in range(len(answers))]

    batch, figures, lines = drawn_again(experiment, half, redraws=2)
    first = 5 * 3 * 8
    expected = [*range(first + 4, first + 8), *range(first + 12, first + 16)]
    assert batch.responses.index[:, 0].tolist() == expected
    assert figures["prompts"] == 16 and lines == [] and (batch.share == 1).all()
    assert figures["without_signal"] == 0


def test_drawing_again_has_a_bound(experiment):
    """All rewards are equal for ever: rounds end, and what is left weighs nothing."""
    equal = lambda answers: [1.0] * len(answers)
    batch, figures, lines = drawn_again(experiment, equal, redraws=2)
    assert figures["prompts"] == 24 and "8 of 8 prompts weigh nothing" in lines[0]
    assert (batch.share == 0).all() and (batch.token == 0).all()


def test_a_signal_is_of_the_outcome_and_not_of_its_shape(experiment):
    """Of a prompt whose responses all failed none is better for being shorter."""
    run = experiment[0]

    def failed(answers):
        return [float(i % 4 == 1 and i > 8) for i in range(len(answers))]

    shape = lambda answers: [
        answer.length / 100 + i for i, answer in enumerate(answers)
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
        batch, *_ = make(experiment, rollouts)
        assert (batch.share.min(1) == expected).all(), outcome


def test_tokens_are_never_made_of_text_again(experiment, made):
    """However little of a response its text has."""
    lossy = dataclasses.replace(experiment[0].rollouts, text=lambda ids: "")
    batch, *_ = make(experiment, lossy)
    inputs = lambda batch: batch.responses.sequences.inputs
    assert np.array_equal(inputs(batch), inputs(made[0]))


def test_equal_prompts_are_groups_of_their_own(experiment):
    rollouts = with_rewards(experiment, lambda a: [float(i) for i in range(len(a))])
    (one,) = rollouts.prompts.take(0, 1)

    class Same(type(rollouts.prompts)):
        def take(self, first, count):
            return [one] * count

    stream = Same(*rollouts.prompts)
    batch, *_ = make(experiment, dataclasses.replace(rollouts, prompts=stream))
    first = batch.then.advantage[..., 0]
    np.testing.assert_allclose(
        first, np.tile([-2, -2 / 3, 2 / 3, 2], (8, 1)), atol=1e-4
    )
    # Each with noise of its own, in this rollout and in another one.
    other, *_ = make(experiment, dataclasses.replace(rollouts, prompts=stream), 6)
    rows = np.concatenate([b.responses.sequences.targets for b in (batch, other)])
    assert len(np.unique(rows.reshape(64, -1), axis=0)) > 60


def test_each_stop_token_ends_a_response(experiment):
    """All of several do, and the one drawn is an action that counts."""
    sampler = with_many_stops(experiment)
    rollouts = dataclasses.replace(experiment[0].rollouts, sampler=sampler)
    batch, figures, _ = make(experiment, rollouts)
    last = batch.responses.lengths[:, 0] - 1
    rows = batch.responses.sequences
    begin = (rows.weights > 0).argmax(-1)
    tokens = np.take_along_axis(rows.targets, (begin + last)[..., None], -1)[..., 0]
    stopped = sampler.stops_V[tokens]
    assert figures["finished"] == stopped.mean() > 0.5
    assert len(np.unique(tokens[stopped])) > 1


def test_the_gradient_does_not_depend_on_microbatches(experiment, made):
    """Of responses of other lengths, under a denominator that differs between parts."""
    run, state, frozen = experiment
    counts = np.ones((8, 4), np.float32)
    counts[:3, 1:] = 0
    weights = denominators.token_mean(made[0].then.action, counts)
    host = functools.partial(np.asarray, dtype=np.float32)
    batch = made[0].replace(token=host(weights.token), share=host(weights.share))
    grads = []
    for parts in (1, 2, 4):
        train_step = step.make_train_step(
            run.objective, optax.sgd(1.0), microbatches=parts
        )
        begun = TrainState(
            jnp.int32(0), state.params, optax.sgd(1.0).init(state.params)
        )
        with sharding.use(run.mesh, run.rules):
            after, _ = jax.jit(train_step)(begun, frozen, batch, jax.random.key(0))
        moved = jax.tree.map(lambda a, b: np.asarray(a - b), after.params, state.params)
        grads.append(jax.tree.leaves(moved))
    for other in grads[1:]:
        for a, b in zip(other, grads[0], strict=True):
            np.testing.assert_allclose(a, b, rtol=0, atol=1e-5)
    assert max(np.abs(x).max() for x in grads[0]) > 1e-3


def test_rollouts_leave_no_programs_and_no_arrays_behind(experiment):
    counts = []
    for number in range(20, 24):
        make(experiment, experiment[0].rollouts, number)
        gc.collect()
        counts.append((len(jax.live_arrays()), rollout._measure._cache_size()))
    assert counts[1] == counts[2] == counts[3]


@pytest.mark.parametrize("shared", [False, True])
def test_responses_of_any_length_make_batches_of_few_shapes(experiment, shared):
    """For each of which programs are compiled."""
    run = experiment[0].rollouts
    longer = run.sampler._replace(room=100)
    rollouts = dataclasses.replace(run, sampler=longer, shared=shared)
    prompts, shapes = run.prompts.take(0, 8), set()
    for longest in range(1, 101):
        ids = [[1] * (1 + i % longest) for i in range(32)]
        batch, room = rollouts._responses(prompts, ids, 4)
        assert max(map(len, ids)) <= room <= 100
        shapes.add((batch.sequences.inputs.shape, room))
    assert len(shapes) <= 7


def test_figures_are_of_the_responses_that_have_them():
    """A mean over some is of these; of none there is no figure, and never NaN."""
    drawn = drawing.Drawn([[1], [1, 2], [3]], [], np.array([True, False, True]))
    parts = {"a": [1.0, None, 3.0], "b": [None] * 3}
    some = rewards.Scored([1.0, None, 3.0], parts, [])
    assert rollout.reward_figures(some, drawn) == {
        "length": pytest.approx(4 / 3),
        "finished": pytest.approx(2 / 3),
        "unscored": pytest.approx(1 / 3),
        "reward": 2.0,
        "reward/a": 2.0,
        "reward/std": 1.0,
    }
    none = rollout.reward_figures(rewards.Scored([None] * 3, {}, []), drawn)
    assert none["unscored"] == 1 and not any(x.startswith("reward") for x in none)


def test_text_is_learned_beside_responses_that_teach_nothing(experiment):
    """The division is by the responses that count, of which there are none."""
    run, state, frozen = experiment
    equal = with_rewards(experiment, lambda answers: [1.0] * len(answers))
    settings = dataclasses.replace(equal.settings, redraws=1)
    rollouts = dataclasses.replace(equal, settings=settings)
    row = dataclasses.asdict(Sequences.of([[1, 2, 3]] * 8, length=4))
    ptx = source.Pretraining(lambda rows: row, batch_size=8, coefficient=0.5)
    batches = source.Source(rollouts, frozen, 0, ptx)
    with sharding.use(run.mesh, run.rules):
        batch = batches(0, State(state))
    assert not np.asarray(batch.token).any()
    assert float(batch.share.sum()) == pytest.approx(1)
    assert float(batch.pretraining.weights.sum()) == pytest.approx(0.5)


class State:
    """As much of a state as a source of batches reads."""

    def __init__(self, state):
        self.params, self.extra = state.params, {}


def test_each_prompt_is_learned_once_an_epoch(experiment):
    run, state, frozen = experiment
    settings = dataclasses.replace(run.rollouts.settings, minibatches=3, epochs=2)
    rollouts = dataclasses.replace(run.rollouts, settings=settings)
    batches = source.Source(rollouts, frozen, seed=7)
    with sharding.use(run.mesh, run.rules):
        seen = [
            np.asarray(batches(step, State(state)).responses.index[:, 0])
            for step in range(6, 12)
        ]
    for epoch in (seen[:3], seen[3:]):
        assert sorted(np.concatenate(epoch)) == list(range(24, 48))
    assert not np.array_equal(seen[0], seen[3])
    assert batches.figures(6)["rollout/length"] > 0 and batches.figures(7) == {}
    again = source.Source(rollouts, frozen, seed=7)
    with pytest.raises(errors.CheckpointError, match="within rollout"):
        again(8, State(state))


def test_masked_responses_leave_loss_and_denominator(experiment):
    ended = []

    def score(answers):
        ended.extend(answer.finished for answer in answers)
        return [float(i) for i in range(len(answers))]

    settings = dataclasses.replace(experiment[0].rollouts.settings, truncated="masked")
    fields = dict(settings=settings, sampler=with_many_stops(experiment))
    rollouts = dataclasses.replace(with_rewards(experiment, score), **fields)
    batch, *_ = make(experiment, rollouts)
    assert 0 < np.mean(ended) < 1
    assert batch.share.ravel().tolist() == ended
    assert batch.token.any(-1).ravel().tolist() == ended


def test_corrections_weigh_the_loss_and_not_the_entropy(experiment, made):
    """As on a sampler whose log-probs are others; the denominator stays."""
    run, state, frozen = experiment
    cut = {"name": "token", "most": 1.5}
    objective = policy_gradient.make(run.model, entropy=0.5, correction=cut)
    batch, rng = made[0], np.random.default_rng(0)
    gap = rng.normal(size=batch.token.shape).astype(np.float32)
    then = batch.then.replace(behaviour=batch.then.old - gap)
    with sharding.use(run.mesh, run.rules):
        loss, means = objective.loss(
            state.params, frozen, batch.replace(then=then), None, True
        )
    weight = np.minimum(np.exp(gap), 1.5)
    expected = -(batch.token * weight * batch.then.advantage).sum()
    expected -= 0.5 * float(means["entropy"].total)
    assert float(loss.total) == pytest.approx(expected, rel=1e-3)
    assert float(loss.weight) == batch.share.sum()
    mean = weight[batch.then.action].mean()
    assert float(means["correction"].value()) == pytest.approx(mean, rel=1e-5)


def test_the_loss_is_the_sum_of_weighted_tokens_over_the_shares(experiment, made):
    run, state, frozen = experiment
    with sharding.use(run.mesh, run.rules):

        def loss(**changes):
            batch = made[0].replace(**changes)
            return run.objective.loss(state.params, frozen, batch, None, True)[0]

        batch = made[0]
        token = batch.token * (1 + (batch.then.advantage > 0))
        plain = loss(token=token, share=3 * batch.share)
    # The policy is the one that drew: each token's loss is minus its advantage.
    expected = -float((token * batch.then.advantage).sum())
    assert abs(expected) > 1
    assert float(plain.total) == pytest.approx(expected, rel=1e-3)
    assert float(plain.weight) == 3 * batch.share.sum()
