# SPDX-License-Identifier: Apache-2.0
"""A config with a section `rollouts`, made into rollouts, a critic and a step."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec

from alignjax import config, errors, models, objectives, rewards, trees
from alignjax.analysis import Run
from alignjax.data import dataset, loader
from alignjax.data.chat import format
from alignjax.data.tokenizers import base
from alignjax.experiment import initial, sections
from alignjax.losses import kl
from alignjax.models import decoder
from alignjax.objectives import language_model, policy_gradient
from alignjax.rollouts import drawing, prompts, rollout, source
from alignjax.rollouts import settings as rollout_settings
from alignjax.storage import filenames
from alignjax.training import optim, schedules, step
from alignjax.training import state as training_state
from alignjax.types import Frozen, Model, Objective, TrainState

# What objectives learn from rollouts: the responses themselves, or pairs of them.
DATA = ("prompts", "pairs")
# Options of the objective that follow from another section.
OWN = {
    "temperature": "rollouts",
    "kl_estimator": "rollouts",
    "kl_coefficient": "rollouts",
    "value": "critic",
}
NAME = "policy_gradient"
VALUE_COEFFICIENT = 0.1  # arXiv:2403.17031
# Keys of evaluations are those of another seed.
EVALUATION = 1 << 31


def on_trunk(c: sections.Config) -> bool:
    """Whether the critic is a head on the policy's trunk."""
    return c.critic is not None and c.critic.trunk == "policy"


def objective(c: sections.Config, model: Model) -> Objective:
    """The objective of a config, with the loss of its text where it has some.

    Raises:
      ConfigError: see `objectives.build`.
    """
    if on_trunk(c):  # the head is among the parameters that the critic's step trains
        model = model._replace(score=_with_head(model).score)
    own = objectives.build(model, objective_section(c))
    if c.ptx is None:
        return own
    text = language_model.make(model, chunk=c.objective.get("chunk") or "auto")
    return policy_gradient.with_pretraining(own, text)


def _with_head(model: Model) -> Model:
    """The policy's model with one head for values."""
    return decoder.build(dataclasses.replace(model.config, score_heads=1))


class Critic(NamedTuple):
    """A critic: its model, what it learns, and how its parameters begin and change."""

    model: Model
    objective: Objective
    optimizer: Any
    weights: initial.InitialWeights


def objective_section(c: sections.Config) -> dict:
    """The section `objective`, with what follows from others.

    Raises:
      ConfigError: it has that too.
    """
    if c.objective.get("name") != NAME or c.rollouts is None:
        return c.objective
    if own := [name for name in OWN if c.objective.get(name) is not None]:
        raise errors.ConfigError(
            [f"objective.{n}: follows from {OWN[n]}; leave it out" for n in own]
        )
    penalty, further = c.rollouts.kl, {"temperature": c.rollouts.temperature}
    if penalty.place == "loss" and penalty.coefficient:
        further["kl_estimator"] = penalty.estimator
        further["kl_coefficient"] = penalty.coefficient
    if on_trunk(c):
        coefficient = {"coefficient": c.critic.coefficient or VALUE_COEFFICIENT}
        further["value"] = {**c.critic.loss, **coefficient}
    return {**c.objective, **further}


def problems(
    c: sections.Config, objective: Objective | None, model: Model | None, begins: bool
) -> list[str]:
    """What is wrong with a config as far as rollouts go, before data and devices.

    `begins` says whether the policy begins as that of a run.
    """
    s, faults = c.rollouts, []
    if s is None:
        if objective is not None and objective.needs.data == "prompts":
            faults.append(
                "rollouts: required, since the objective learns from responses that "
                "the policy draws; set rollouts.rewards"
            )
        faults += [
            f"{name}: of no effect without rollouts; leave it out"
            for name in ("critic", "ptx")
            if getattr(c, name) is not None
        ]
        return faults
    if objective is not None and objective.needs.data not in DATA:
        faults.append(
            f"rollouts: the objective {c.objective['name']!r} learns from "
            f"{objective.needs.data}, not from responses that are drawn; say "
            f'objective.name="{NAME}", or "preference" with a loss of pairs'
        )
    if not begins:
        faults.append("init.run: required; rollouts are drawn from a trained model")
    if s.max_tokens >= c.length:
        faults.append(
            f"rollouts.max_tokens: {s.max_tokens} leaves no room for prompts in "
            f"length = {c.length}"
        )
    if c.checkpoint.every is not None and c.checkpoint.every % s.updates:
        faults.append(
            f"checkpoint.every: {c.checkpoint.every} is no multiple of the "
            f"{s.updates} updates of a rollout (rollouts.epochs x minibatches), which "
            "is not saved"
        )
    if c.steps % s.updates:
        faults.append(
            f"steps: {c.steps} is no multiple of the {s.updates} updates of a rollout"
        )
    if c.evaluation.every is not None and c.evaluation.every % s.updates:
        faults.append(
            f"evaluation.every: {c.evaluation.every} is no multiple of the "
            f"{s.updates} updates of a rollout"
        )
    if c.reference.store:
        faults.append(
            "reference.store: there are no log-probs to store of responses that do "
            "not exist yet; set it to False"
        )
    plain = {"pack": "best_fit", "train_on": "all", "validation_by": "hash"}
    faults += [
        f"data.{name}: {getattr(c.data, name)!r} has no effect here; leave it out"
        for name, default in {**plain, "groups_per_row": None}.items()
        if getattr(c.data, name) not in (default, None)
    ]
    if model is not None:
        for name in ("dropout", "embedding_noise", "lora_dropout"):
            if getattr(model.config, name):
                faults.append(
                    f"model.{name}: {getattr(model.config, name)} makes the policy "
                    "another at every pass, so that its ratio to the one that drew is "
                    "noise; set it to 0"
                )
    uses_value = "value" in s.needs.fields
    if uses_value and c.critic is None:
        faults.append(
            f"critic.run: required by the advantage {s.name!r}; name a "
            'reward model\'s run, or say critic.trunk="policy"'
        )
    if c.critic is not None and not uses_value:
        faults.append(
            f"critic: the advantage {s.name!r} reads no values; leave it "
            'out, or say rollouts.advantage.name="gae"'
        )
    if s.truncated == "bootstrap" and not uses_value:
        faults.append(
            'rollouts.truncated: "bootstrap" is the value of a critic, and there is '
            'none; say "terminal" or "masked"'
        )
    if objective is not None and objective.needs.data == "pairs":
        default = rollout_settings.RolloutsConfig({})
        faults += [
            f"rollouts.{name}: has no effect on losses of pairs; leave it out"
            for name in ("advantage", "denominator", "kl", "truncated")
            if _given(getattr(s, name)) != _given(getattr(default, name))
        ]
        if c.ptx is not None:
            faults.append(
                "ptx: beside policy gradients only; for losses of pairs "
                "objective.loss has sums with a likelihood, such as rpo"
            )
        if s.samples < 2:
            faults.append(f"rollouts.samples: {s.samples}; a pair takes 2 at least")
        if s.temperature != 1:
            faults.append(
                f"rollouts.temperature: {s.temperature}; the losses of pairs are of "
                "the model's own distribution, so draw from it (1.0)"
            )
    return faults


def _given(value: Any) -> Any:
    """A field without what is None, to be compared with its default."""
    if isinstance(value, Mapping):
        return {k: x for k, x in value.items() if x is not None}
    return value


def find_critic(c: sections.Config, network: bool) -> Run | None:
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


def critic(c: sections.Config, run: Run, mesh, rules: dict, tok_size: int) -> Critic:
    """The critic of a config.

    Raises:
      ConfigError: its vocabulary is not the policy's, or its model cannot be one.
    """
    fields = {**run.config["model"], "attention": c.model.get("attention") or "auto"}
    model = models.build(fields, run.model.config.vocab_size)
    if run.model.config.vocab_size != tok_size:
        raise errors.ConfigError(
            f"critic.run: its vocabulary has {run.model.config.vocab_size:,} tokens, "
            f"the policy's {tok_size:,}; a critic reads the policy's tokens"
        )
    if c.length > model.config.max_length:
        raise errors.ConfigError(
            f"critic.run: its context is {model.config.max_length}, less than length "
            f"= {c.length}"
        )
    return _critic(c, model, mesh, rules, trainable=".*", parent=run)


def trunk_critic(c: sections.Config, model: Model, parent: Run, mesh, rules) -> Critic:
    """A head on the trunk of the policy, whose model this is."""
    head = "score/.*"
    return _critic(c, _with_head(model), mesh, rules, trainable=head, parent=parent)


def _critic(c: sections.Config, model: Model, mesh, rules, *, trainable, parent):
    loss = {k: v for k, v in c.critic.loss.items() if v is not None}
    objective = policy_gradient.critic(model, loss=loss.pop("name", "squared"), **loss)
    rate = c.critic.learning_rate
    schedule = schedules.build(
        {"name": "constant"},
        peak=rate,
        steps=c.steps,
        tokens_per_step=c.batch_size * c.length,
    )
    optimizer = optim.build(
        {**c.optimizer, "learning_rate": rate, "ema": None}, schedule
    )
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


def further(
    c: sections.Config, own: Critic | None, mesh
) -> Mapping[str, initial.Further]:
    """What else training changes: a critic and its optimizer, the KL coefficient."""
    entries = {}
    if own is not None:
        parts = lambda state: {"params": state.params, "opt_state": state.opt_state}
        begin = functools.partial(_zeros, own) if on_trunk(c) else own.weights.state
        entries["critic"] = initial.Further(
            lambda: parts(own.weights.abstract), lambda: parts(begin())
        )
    if c.rollouts is not None and c.rollouts.kl.target is not None:
        where = NamedSharding(mesh, PartitionSpec())
        entries["kl_coefficient"] = initial.Further(
            lambda: jax.ShapeDtypeStruct((), jnp.float32, sharding=where),
            lambda: jax.device_put(jnp.float32(c.rollouts.kl.coefficient), where),
        )
    return entries


def _zeros(own: Critic) -> TrainState:
    """A head that says 0 of every state."""
    abstract = own.weights.abstract
    zeros = lambda leaf: jnp.zeros(leaf.shape, leaf.dtype)
    begin = lambda: training_state.begin(
        jax.tree.map(zeros, abstract.params), own.optimizer
    )
    return jax.jit(begin, out_shardings=training_state.shardings(abstract))()


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
      ConfigError: sources that cannot be.
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
    stops = form.stop_ids if form else (*getattr(tok, "stop_ids", ()), tok.eos_id)
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
        chunk=c.objective.get("chunk") or "auto",
        critic=critic_model,
        pairs=objective.needs.data == "pairs",
    )


def train_step(
    policy_step: Callable, own: Critic | None, c: sections.Config
) -> Callable:
    """`policy_step`, and beside it a step of the critic and of the KL coefficient."""
    s, penalty, shared = c.rollouts, c.rollouts.kl, on_trunk(c)
    critic_step = None
    if own is not None:
        critic_step = step.make_train_step(
            own.objective, own.optimizer, microbatches=c.microbatches
        )
    sequences = c.batch_size * s.minibatches * s.samples

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
                sequences,
                target=penalty.target,
                horizon=penalty.horizon,
            )
            first = state.step % s.updates == 0  # once a rollout
            further["kl_coefficient"] = jnp.where(first, new, old)
        state, metrics = policy_step(state, frozen, batch, key)
        if critic_step is not None:
            metrics |= {f"critic/{name}": x for name, x in of_critic.items()}
            if c.critic.warmup_rollouts:
                warm = before.step < c.critic.warmup_rollouts * s.updates
                hold = lambda new, old: jnp.where(warm, old, new)
                state = jax.tree.map(hold, state, before).replace(step=state.step)
        return state.replace(extra={**state.extra, **further}), metrics

    return train_step


def check_figure(name: str, named: tuple[rewards.Named, ...]) -> None:
    """Raises ConfigError where evaluations have no figure of this name."""
    figures = {"reward", "length", "finished", "kl/reference"}
    figures = {f"eval/{x}" for x in figures | {f"reward/{r.name}" for r in named}}
    if name not in figures:
        raise errors.ConfigError(
            f"checkpoint.keep_best: no {name!r}; evaluations of rollouts have "
            f"{', '.join(sorted(figures))}"
        )
