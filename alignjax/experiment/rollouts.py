# SPDX-License-Identifier: Apache-2.0
"""A config with a section `rollouts`, made into rollouts and a step."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec

from alignjax import config, errors, objectives, rewards, trees
from alignjax.data import dataset, loader
from alignjax.data.chat import format
from alignjax.data.tokenizers import base
from alignjax.experiment import critic as critics
from alignjax.experiment import initial, sections
from alignjax.losses import kl
from alignjax.objectives import language_model, policy_gradient
from alignjax.rollouts import drawing, prompts, rollout, source
from alignjax.storage import filenames
from alignjax.training import step
from alignjax.types import Frozen, Model, Objective, TrainState

# Options of the objective that follow from another section.
FOLLOWS = {
    "temperature": "rollouts",
    "kl_estimator": "rollouts",
    "kl_coefficient": "rollouts",
    "value": "critic",
}
NAME = "policy_gradient"
VALUE_COEFFICIENT = 0.1  # arXiv:2403.17031
# Keys of evaluations are those of another seed.
EVALUATION = 1 << 31


def objective(c: sections.Config, model: Model) -> Objective:
    """The objective of a config, with the loss of the section `ptx` added if set.

    Raises:
      ConfigError: see `objectives.build`.
    """
    if critics.on_trunk(c):
        # The head is among the parameters that the critic's step trains.
        model = model._replace(score=critics.with_head(model).score)
    policy_objective = objectives.build(model, objective_section(c))
    if c.ptx is None:
        return policy_objective
    text = language_model.make(model, chunk=c.objective.get("chunk") or "auto")
    return policy_gradient.with_pretraining(policy_objective, text)


def objective_section(c: sections.Config) -> dict:
    """The section `objective`, with what follows from others.

    Raises:
      ConfigError: it sets an option that follows from another section, or the critic
        has a loss that it cannot have.
    """
    if c.objective.get("name") != NAME or c.rollouts is None:
        return c.objective
    if repeated := [n for n in FOLLOWS if c.objective.get(n) is not None]:
        raise errors.ConfigError(
            [
                f"objective.{n}: follows from {FOLLOWS[n]}; leave it out"
                for n in repeated
            ]
        )
    if c.critic is not None:
        policy_gradient.bound_value_loss(c.critic.loss)  # refused by its own name
    penalty, further = c.rollouts.kl, {"temperature": c.rollouts.temperature}
    if penalty.place == "loss" and penalty.coefficient:
        further["kl_estimator"] = penalty.estimator
        further["kl_coefficient"] = penalty.coefficient
    if critics.on_trunk(c):
        coefficient = {"coefficient": c.critic.coefficient or VALUE_COEFFICIENT}
        further["value"] = {**c.critic.loss, **coefficient}
    return {**c.objective, **further}


def further(
    c: sections.Config, own: critics.Critic | None, mesh
) -> Mapping[str, initial.Further]:
    """What else training changes: a critic and its optimizer, the KL coefficient.

    And what the normalizer of rewards keeps.
    """
    entries = {}
    if own is not None:
        parts = lambda state: {"params": state.params, "opt_state": state.opt_state}
        entries["critic"] = initial.Further(
            lambda: parts(own.weights.abstract), lambda: parts(critics.begin(own, c))
        )
    numbers = {}
    if c.rollouts is not None and c.rollouts.kl.target is not None:
        numbers["kl_coefficient"] = c.rollouts.kl.coefficient
    if c.rollouts is not None and c.rollouts.running:
        numbers["running"] = c.rollouts.running
    where = NamedSharding(mesh, PartitionSpec())
    number = jax.ShapeDtypeStruct((), jnp.float32, sharding=where)
    put = lambda x: jax.device_put(jnp.float32(x), where)
    for name, start in numbers.items():
        entries[name] = initial.Further(
            functools.partial(jax.tree.map, lambda x: number, start),
            functools.partial(jax.tree.map, put, start),
        )
    return entries


def streams(
    c: sections.Config, tok: base.Tokenizer
) -> tuple[prompts.Prompts, prompts.Prompts | None]:
    """The prompts to train on, and those held out; None where nothing is evaluated.

    Raises:
      DataError: bad rows, or prompts that are too long.
    """
    room = c.length - c.rollouts.max_tokens
    build = functools.partial(prompts.build, c.data, tok, room=room, seed=c.seed)
    return build(), build(split="validation") if c.evaluation.every else None


def data_of_ptx(c: sections.Config) -> loader.DataConfig:
    """The section `ptx` as a section `data`, all of whose tokens are learned.

    Raises:
      ConfigError: its sources are not valid.
    """
    with config.errors_at("ptx"):
        return loader.DataConfig(
            sources=c.ptx.sources,
            validation_fraction=0.0,
            on_bad_row=c.data.on_bad_row,
            chat=c.data.chat,
            train_on="everything",
            bos=c.data.bos,
            workers=c.data.workers,
        )


def pretraining(c: sections.Config, tok: base.Tokenizer) -> dataset.Dataset | None:
    """The text of the section `ptx`, or None.

    Raises:
      DataError: bad rows.
    """
    if c.ptx is None:
        return None
    cache_dir = filenames.expanded(c.cache_dir)
    fields = dict(length=c.length, seed=c.seed, cache_dir=cache_dir)
    try:
        return loader.build(data_of_ptx(c), tok, **fields)
    except errors.DataError as error:  # it names the section `data`
        raise errors.DataError(f"ptx: {error}") from error


def text_of(c: sections.Config, data: dataset.Dataset | None):
    """`source.Pretraining` of the section `ptx`, or None."""
    if data is None:
        return None
    return source.Pretraining(data.rows, c.ptx.batch_size, c.ptx.coefficient)


def make(
    c: sections.Config,
    model: Model,
    objective: Objective,
    tok: base.Tokenizer,
    stream: prompts.Prompts,
    *,
    mesh,
    rules: dict,
    critic_model: Model | None,
    named: tuple[rewards.Named, ...],
    evaluation: bool = False,
) -> rollout.Rollouts:
    """How the rollouts of a config are made, or its evaluations."""
    s, vocabulary = c.rollouts, jnp.arange(model.config.vocab_size)
    form = format.of(tok, c.data.chat) if c.data.chat is not None else None
    stops = form.stop_ids if form else (*tok.stop_ids, tok.eos_id)
    stops = sorted({i for i in stops if i is not None})

    def text(ids) -> str:
        ids = [int(i) for i in ids if i < tok.vocab_size]
        if form is not None:
            return form.text(ids)
        end = next((n for n, i in enumerate(ids) if i in stops), len(ids))
        return tok.decode(ids[:end])

    sampler = drawing.Sampler(
        model,
        # All of the vocabulary: else what is drawn is not of the policy.
        allowed_V=jnp.ones(len(vocabulary), bool),
        stops_V=jnp.isin(vocabulary, jnp.array(stops, jnp.int32)),
        prompt_room=stream.longest,
        room=s.max_tokens,
        seed=c.seed ^ EVALUATION if evaluation else c.seed,
        temperature=s.temperature,
        mesh=mesh,
        rules=rules,
        rows=s.rows,
    )
    return rollout.Rollouts(
        settings=s,
        prompts=stream,
        rewards=named,
        sampler=sampler,
        text=text,
        batch_size=c.batch_size,
        shared=c.data.share_prompt,
        microbatches=c.microbatches,
        groups_per_row=c.data.groups_per_row,
        chunk=c.objective.get("chunk") or "auto",
        critic=critic_model,
        pairs=objective.needs.data == "pairs",
    )


def train_step(
    policy_step: Callable, own: critics.Critic | None, c: sections.Config
) -> Callable:
    """`policy_step`, and beside it a step of all else that `further` has."""
    s, penalty, shared = c.rollouts, c.rollouts.kl, critics.on_trunk(c)
    critic_step = None
    if own is not None:
        critic_step = step.make_train_step(
            own.objective, own.optimizer, microbatches=c.microbatches
        )
    responses, running = c.batch_size * s.minibatches * s.samples, s.running
    warm_updates = 0 if c.critic is None else c.critic.warmup_rollouts * s.updates

    def train_step(state: TrainState, frozen: Frozen, batch, key):
        before, further = state, {}
        if critic_step is not None:
            values = TrainState(state.step, **state.extra["critic"])
            trunk = Frozen(trees.merge(state.params, frozen.base) if shared else {})
            if shared:
                head = trees.merge(frozen.base, values.params)
                frozen = frozen.replace(base=head)
            values, of_critic = critic_step(values, trunk, batch, key)
            further["critic"] = {"params": values.params, "opt_state": values.opt_state}
        if penalty.target is not None:
            old = state.extra["kl_coefficient"]
            new = kl.adapted(
                old,
                batch.figures["kl"][0],
                responses,
                target=penalty.target,
                horizon=penalty.horizon,
            )
            first = state.step % s.updates == 0  # once a rollout
            moves = first & (before.step >= warm_updates)  # a held policy has no KL
            further["kl_coefficient"] = jnp.where(moves, new, old)
        if running:  # as they are after the rollout, with each of its updates
            figures = {name: batch.figures[f"running/{name}"][0] for name in running}
            further["running"] = figures
        state, metrics = policy_step(state, frozen, batch, key)
        if critic_step is not None:
            metrics |= {f"critic/{name}": x for name, x in of_critic.items()}
            # Of either: the loop stops at both.
            skipped = jnp.maximum(metrics["skipped"], of_critic["skipped"])
            metrics["skipped"] = skipped
            if warm_updates:
                warm = before.step < warm_updates
                hold = lambda new, old: jnp.where(warm, old, new)
                state = jax.tree.map(hold, state, before).replace(step=state.step)
        return state.replace(extra={**state.extra, **further}), metrics

    return train_step
