# SPDX-License-Identifier: Apache-2.0
"""Critics of rollouts: of which state they say a value, and what learns from it."""

import dataclasses
import types

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from alignjax import errors, rewards, trees
from alignjax.distributed import sharding
from alignjax.experiment import build, initial, rollouts
from alignjax.rollouts import source
from alignjax.training import step
from alignjax.types import Frozen, Mean, Objective, Sequences, TrainState
from tests.rollouts import small


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("critics")


def models(run, state, frozen):
    return source.Source(run.rollouts, frozen, 0).models(state)


def test_the_value_is_of_the_state_before_the_token(folder):
    """V(s_t) by prefixes: what the critic says of each, as its own sequence."""
    run, state, frozen = small.begun(small.ppo(folder))
    own = models(run, state, frozen)
    with sharding.use(run.mesh, run.rules):
        batch, _, _ = run.rollouts.make(0, own, 0.1)
    head, row = run.critic.model, batch.responses.sequences
    critic = jax.device_get(own.critic)
    prompt = int(row.weights[0, 0].argmax())
    for t in (0, int(batch.responses.lengths[0, 0, 0]) - 1):
        cut = jax.tree.map(lambda x, t=t: x[0, :1, : prompt + t + 1], row)
        value = float(head.score(critic, head.hidden(critic, cut))[0, -1, 0])
        assert float(batch.then.value[0, 0, t]) == pytest.approx(value, abs=1e-5)


def test_a_critic_has_no_dropout(folder):
    """Whatever the run that it starts from was trained with."""
    run = build.check(small.ppo(folder))
    run.critic_run.config["model"]["dropout"] = 0.1
    placed = build.place(run, run.critic_run.model.config.vocab_size)
    assert placed.critic.model.config.dropout == 0


@pytest.mark.parametrize(
    ("field", "value", "reason"),
    [("score_heads", 2, "2 heads"), ("max_length", 199, "context is 199")],
)
def test_a_critic_of_another_shape_is_refused(folder, field, value, reason):
    """As long as the rows are, with one value of each state."""
    run = build.check(small.ppo(folder))
    run.critic_run.config["model"][field] = value
    with pytest.raises(errors.ConfigError, match=rf"critic\.run: .*{reason}"):
        build.place(run, run.critic_run.model.config.vocab_size)


def test_a_critic_of_another_vocabulary_is_refused(folder):
    run = build.check(small.ppo(folder))
    with pytest.raises(errors.ConfigError, match=r"critic\.run: its vocabulary"):
        build.place(run, run.critic_run.model.config.vocab_size + 1)


def test_a_critic_of_another_tokenizer_is_refused(folder, monkeypatch):
    """However many tokens it has: the same ids would be other texts to it."""
    whole = initial.load_tokenizer

    def other(run, field="init.run"):
        tok = whole(run, field)
        more = {"merges.txt": b""} if field == "critic.run" else {}
        return tok._replace(files={**tok.files, **more})

    monkeypatch.setattr(initial, "load_tokenizer", other)
    with pytest.raises(errors.ConfigError, match=r"critic\.run: .*another tokenizer"):
        build.build(small.ppo(folder))


def test_the_critic_explains_what_is_learned_alone(folder):
    """Not of responses without a reward, whose returns would be 0."""
    run, state, frozen = small.begun(small.ppo(folder))
    nan = lambda responses: [None if i % 2 else 1.0 for i in range(len(responses))]
    rollouts = dataclasses.replace(
        run.rollouts,
        rewards=(rewards.Named("r", 1.0, nan),),
        settings=dataclasses.replace(run.rollouts.settings, truncated="terminal"),
    )
    with sharding.use(run.mesh, run.rules):
        batch, figures, _ = rollouts.make(0, models(run, state, frozen), 0.0)
    counts = batch.token > 0
    assert counts.sum() < 0.7 * batch.then.action.sum()
    returns, value = batch.then.returns[counts], batch.then.value[counts]
    expected = 1 - np.var(returns - value) / np.var(returns)
    assert figures["explained"] == pytest.approx(expected, rel=1e-5)


def test_what_comes_after_a_response_that_was_cut_off(folder):
    """`bootstrap`: the critic's value of the state after the last token, not of it."""
    run, state, frozen = small.begun(small.ppo(folder))
    own = models(run, state, frozen)
    nothing = rewards.Named("r", 1.0, lambda responses: [0.0] * len(responses))
    rollouts = dataclasses.replace(run.rollouts, rewards=(nothing,))
    with sharding.use(run.mesh, run.rules):
        batch, _, _ = rollouts.make(0, own, 0.0)
    head, critic = run.critic.model, jax.device_get(own.critic)
    stops = set(np.flatnonzero(run.rollouts.sampler.stops_V))
    rows, ends = batch.responses.sequences, set()
    for b, k in np.ndindex(3, 4):
        targets, counts = rows.targets[b, k], rows.weights[b, k] > 0
        last = int(np.flatnonzero(counts)[-1])
        ids = [int(rows.inputs[b, k, 0]), *(int(x) for x in targets[: last + 1])]
        row = Sequences.of([ids], last=True)
        score = head.score(critic, head.hidden(critic, row))[0, -1, 0]
        ended = ids[-1] in stops
        # Without a reward all that the last token returns is what comes after it.
        returned = batch.then.returns[b, k, int(counts.sum()) - 1]
        assert float(returned) == pytest.approx(0 if ended else float(score), abs=1e-5)
        ends.add(ended)
    assert ends == {False, True}
    # Whitened over all of the rollout, which is two minibatches.
    advantage, action = batch.then.advantage, batch.then.action
    assert abs(advantage[action].mean()) < 1e-5
    assert advantage[action].std() == pytest.approx(1, abs=1e-4)
    assert abs(advantage[:8][action[:8]].mean()) > 1e-3


def test_values_on_the_trunk_teach_it(folder):
    """The value loss is in the policy's, times its coefficient, and reaches the trunk.

    As a mean over actions, whatever the rollout's denominator.
    """
    critic = {"trunk": "policy", "coefficient": 0.7}
    mean = {"name": "sequence_mean"}
    section = small.ppo(folder, critic=critic, rollouts__denominator=mean)
    run, state, frozen = small.begun(section)

    def loss(params, frozen, batch):
        mean, means = run.objective.loss(params, frozen, batch, None, True)
        return mean.total / mean.weight, means["value/loss"]

    grad = jax.jit(jax.value_and_grad(loss, has_aux=True))
    losses, values, gradients = [], [], []
    with sharding.use(run.mesh, run.rules):
        batch = source.Source(run.rollouts, frozen, 0, trunk=True)(0, state)
        for like in (jnp.zeros_like, jnp.ones_like):  # the first teaches it nothing
            head = jax.tree.map(like, state.extra["critic"]["params"])
            base = trees.merge(frozen.base, head)
            (total, value), of_params = grad(
                state.params, frozen.replace(base=base), batch
            )
            losses.append(float(total))
            values.append(float(value.total / value.weight))
            gradients.append(of_params["embed"])
    gained = 0.7 * (values[1] - values[0])
    assert abs(gained) > 0.01
    assert losses[1] - losses[0] == pytest.approx(gained, rel=1e-3)
    assert jnp.abs(gradients[1] - gradients[0]).max() > 1e-4

    def stepped(parts):
        sgd = optax.sgd(1.0)
        train_step = step.make_train_step(run.objective, sgd, microbatches=parts)
        begun = TrainState(jnp.int32(0), state.params, sgd.init(state.params))
        with sharding.use(run.mesh, run.rules):
            after, _ = jax.jit(train_step)(
                begun, frozen.replace(base=base), batch, jax.random.key(0)
            )
        return after.params["embed"]

    np.testing.assert_allclose(stepped(2), stepped(1), rtol=0, atol=1e-5)


def test_a_critic_that_is_not_finite_stops_the_run_too(folder):
    c = build.check(small.ppo(folder)).config
    of_critic = lambda params, *_: (Mean(params["x"] * jnp.nan, jnp.float32(1)), {})
    own = types.SimpleNamespace(objective=Objective(of_critic), optimizer=optax.sgd(1))
    values = {"params": {"x": jnp.ones(())}, "opt_state": own.optimizer.init({})}
    extra = {"critic": values, "kl_coefficient": 0.1, "running": c.rollouts.running}
    state = TrainState(jnp.int32(0), {}, (), extra)
    figures = ["kl", *(f"running/{name}" for name in c.rollouts.running)]
    batch = types.SimpleNamespace(figures=dict.fromkeys(figures, jnp.zeros(1)))
    policy = lambda state, *_: (state.replace(step=state.step + 1), {"skipped": 0.0})
    both = rollouts.train_step(policy, own, c)
    _, metrics = both(state, Frozen(), batch, jax.random.key(0))
    assert metrics["skipped"] == 1 and np.isnan(metrics["critic/loss"])


@pytest.mark.parametrize(
    ("pattern", "decays"), [("layers/.*kernel", False), (".*kernel", True)]
)
def test_a_head_decays_where_the_pattern_of_the_policy_says_so(folder, pattern, decays):
    section = small.ppo(folder, critic={"trunk": "policy"}, optimizer__decay=pattern)
    run = build.check(section)
    placed = build.place(run, run.parent.model.config.vocab_size)
    assert list(trees.named_leaves(placed.critic.weights.abstract.params)) == [
        "score/kernel"
    ]
    head, own = {"score": {"kernel": jnp.ones((4, 1))}}, placed.critic.optimizer
    nothing = jax.tree.map(jnp.zeros_like, head)
    update, _ = own.update(nothing, own.init(head), head)
    assert bool((update["score"]["kernel"] < 0).all()) is decays
    assert bool((update["score"]["kernel"] == 0).all()) is not decays


def test_a_pattern_that_matches_nothing_of_the_policy_is_refused(folder):
    section = small.ppo(folder, critic={"trunk": "policy"}, optimizer__decay="kernels")
    run = build.check(section)
    with pytest.raises(errors.ConfigError, match=r"optimizer\.decay: 'kernels'"):
        build.place(run, run.parent.model.config.vocab_size)
