# SPDX-License-Identifier: Apache-2.0
"""The critic of a config: a model of its own, or a head on the policy's trunk."""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from alignjax import errors, models
from alignjax.analysis import Run
from alignjax.experiment import initial, sections
from alignjax.models import decoder
from alignjax.objectives import policy_gradient
from alignjax.training import optim, schedules
from alignjax.training import state as training_state
from alignjax.types import Model, Objective, TrainState

# Fields of a model that make its outputs random at every pass.
NOISE = ("dropout", "embedding_noise", "lora_dropout")


class Critic(NamedTuple):
    """A critic: its model, what it learns, and how its parameters begin and change."""

    model: Model
    objective: Objective
    optimizer: Any
    weights: initial.InitialWeights


def on_trunk(c: sections.Config) -> bool:
    """Whether the critic is a head on the policy's trunk."""
    return c.critic is not None and c.critic.trunk == "policy"


def with_head(model: Model) -> Model:
    """The policy's model with one head for values."""
    return decoder.build(dataclasses.replace(model.config, score_heads=1))


def find_run(c: sections.Config, network: bool) -> Run | None:
    """The run that the critic starts from, or None.

    Raises:
      ConfigError: there is no such run, or it is no reward model.
    """
    if c.critic is None or on_trunk(c):
        return None
    run = initial.find_run(c.critic, "critic", network)
    if not run.config["model"].get("score_heads"):
        raise errors.ConfigError(
            f"critic.run: {c.critic.run} is no reward model, and a critic has a head "
            "for its values; name one's run"
        )
    return run


def of_run(c: sections.Config, run: Run, mesh, rules: dict, tok_size: int) -> Critic:
    """The critic of a config, without the dropout of the run that it starts from.

    Raises:
      ConfigError: its vocabulary is not the policy's, or its model cannot be one.
    """
    fields = {**run.config["model"], "attention": c.model.get("attention") or "auto"}
    fields |= dict.fromkeys(NOISE, 0.0)
    model = models.build(fields, run.model.config.vocab_size)
    if run.model.config.vocab_size != tok_size:
        raise errors.ConfigError(
            f"critic.run: its vocabulary has {run.model.config.vocab_size:,} tokens, "
            f"the policy's {tok_size:,}; a critic reads the policy's tokens, so "
            "name a run of the same tokenizer"
        )
    if c.length > model.config.max_length:
        raise errors.ConfigError(
            f"critic.run: its context is {model.config.max_length}, less than length "
            f"= {c.length}; lower that, or name a run with a longer one"
        )
    return _build(c, model, mesh, rules, trainable=".*", parent=run)


def of_trunk(c: sections.Config, model: Model, parent: Run, mesh, rules) -> Critic:
    """A head on the trunk of the policy, whose model this is.

    Weight decay applies to it where `optimizer.decay`, a pattern of the policy's
    parameters, matches its path too.
    """
    head = "score/.*"
    return _build(c, with_head(model), mesh, rules, trainable=head, parent=parent)


def _build(c: sections.Config, model: Model, mesh, rules, *, trainable, parent):
    loss = {k: v for k, v in c.critic.loss.items() if v is not None}
    objective = policy_gradient.critic(model, loss=loss.pop("name", "squared"), **loss)
    rate = c.critic.learning_rate
    schedule = schedules.build(
        {"name": "constant"}, peak=rate, steps=c.steps, tokens_per_step=None
    )
    section = {**c.optimizer, "learning_rate": rate, "ema": None}
    # The pattern is of the policy, whose own optimizer refuses a misspelled one.
    optimizer = optim.build(section, schedule, decays=False)
    weights = initial.InitialWeights(
        model,
        optimizer,
        {},
        trainable=trainable,
        seed=c.seed,
        mesh=mesh,
        rules=rules,
        parent=parent,
        reference=None,
        keep_reference=False,
    )
    return Critic(model, objective, optimizer, weights)


def begin(own: Critic, c: sections.Config) -> TrainState:
    """The first state of a critic: a head on the trunk begins at 0."""
    if not on_trunk(c):
        return own.weights.state()
    abstract = own.weights.abstract
    zeros = lambda leaf: jnp.zeros(leaf.shape, leaf.dtype)
    first = lambda: training_state.begin(
        jax.tree.map(zeros, abstract.params), own.optimizer
    )
    return jax.jit(first, out_shardings=training_state.shardings(abstract))()
