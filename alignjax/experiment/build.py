# SPDX-License-Identifier: Apache-2.0
"""A config made into everything that training needs, or refused with all that is wrong.

What can be checked from the config alone is checked first, in a moment; then the data
is read, then the devices are looked at. No step has been taken when this is done.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax

from alignjax import config, errors, models, objectives, rewards, types
from alignjax.analysis import Run
from alignjax.data import dataset, loader
from alignjax.data.chat import format, templates
from alignjax.data.tokenizers import base as tokenizer
from alignjax.distributed import sharding
from alignjax.experiment import critic as critics
from alignjax.experiment import (
    initial,
    long_texts,
    memory_limits,
    reference,
    rollout_checks,
    sections,
)
from alignjax.experiment import rollouts as online
from alignjax.models import attention, decoder, lora, memory, quantized
from alignjax.rollouts import rollout
from alignjax.sampling import request
from alignjax.storage import filenames
from alignjax.training import optim, schedules
from alignjax.types import Model, Objective, Sequences


class Experiment(NamedTuple):
    """What `train` needs, all of it checked; `check` makes it up to `rules`.

    Attributes:
      config: every field, those included that are as in the parent run.
      json: the same as plain JSON.
      parent: the run that it starts from; None starts from random parameters.
      reference: the run that the reference is of; None where the objective has none.
      objective, schedule, optimizer, copies: functions, see `types`, `optim`.
      rules, mesh: see `sharding`.
      model: functions, see `types`.
      identity: what the batches and the first parameters follow from.
      tokenizer: the parent's, or the config's own.
      prompts: the tokens that samples start with.
      stop: the tokens that end a sample; None are the tokenizer's.
      train: the data.
      validation: the held-out data; None where the config never evaluates.
      weights: the weights that it begins with.
      choice: how the model computes, as memory allows.
      store: of the reference's log-probabilities; None keeps its parameters.
      rewards: of responses that the policy draws.
      critic_run, critic: the run that a critic starts from, and the critic.
      rollouts, evaluations: how training and evaluations draw responses; None where
        the data are read, and where nothing is evaluated. Then there is no `train`.
      pretraining: the text that is learned beside rollouts.
    """

    config: sections.Config
    json: dict
    parent: Run | None
    reference: Run | None
    objective: Objective
    schedule: Callable
    optimizer: Any
    copies: dict[str, optim.MovingCopy]
    rules: dict
    mesh: jax.sharding.Mesh | None = None
    model: Model | None = None
    identity: dict | None = None
    tokenizer: tokenizer.Tokenizer | None = None
    prompts: list[list[int]] = ()
    stop: list[int] | None = None
    train: dataset.Dataset | None = None
    validation: dataset.Dataset | None = None
    weights: initial.InitialWeights | None = None
    choice: memory.Choice | None = None
    store: reference.LogProbStore | None = None
    rewards: tuple[rewards.Named, ...] = ()
    critic_run: Run | None = None
    critic: critics.Critic | None = None
    rollouts: rollout.Rollouts | None = None
    evaluations: rollout.Rollouts | None = None
    pretraining: dataset.Dataset | None = None


def build(section: Mapping, *, network: bool = False) -> Experiment:
    """Everything that the config describes; fetches runs with `network` alone.

    Raises:
      ConfigError: all problems of the config that can be seen together.
      DataError: data that cannot be read, or is not what it should be.
    """
    run = check(config.to_json(section), network=network)
    jax.devices()  # those that cannot start are known before the data are read
    c, cache_dir = run.config, filenames.expanded(run.config.cache_dir)
    tok = load_tokenizer(run)
    run = place(run, tok.vocab_size)
    model, weights = run.model, run.weights
    if run.critic_run is not None:
        initial.check_tokenizer("critic.run", run.critic_run, tok)
    if run.reference is not None:
        initial.check_tokenizer("reference.run", run.reference, tok)
        if not initial.same_parameters(run.parent, run.reference):
            initial.check_model(run.reference, model.config)
    memory_limits.check_batches(c)
    if c.rollouts is not None:
        return _online(run, tok)
    data = functools.partial(load_data, run, tok)
    train = data("train")
    identity = _identity(run, tok, train.identity)
    prompts, stop = _prompts(c, model, tok)
    memory_limits.check_model(weights.nbytes)
    row = types.batch(train.rows([0]))
    run = fit(run, getattr(row, "sequences", row), memory_limits.device_bytes())
    store = reference.LogProbStore(cache_dir / "reference", weights, c.batch_size)
    return run._replace(
        identity=identity,
        tokenizer=tok,
        prompts=prompts,
        stop=stop,
        train=train,
        validation=data("validation") if c.evaluation.every else None,
        store=store if c.reference.store else None,
    )


def _identity(run: Experiment, tok: tokenizer.Tokenizer, train: Mapping) -> dict:
    """What the batches and the first parameters of an experiment follow from."""
    others = {"init": run.parent, "reference": run.reference, "critic": run.critic_run}
    digests = {name: x.digest() for name, x in others.items() if x is not None}
    scored = {r.name: r.provenance for r in run.rewards if r.provenance}
    digests |= {"rewards": scored} if scored else {}
    return {"tokenizer": tok.identity, "train": train, **digests}


def _online(run: Experiment, tok: tokenizer.Tokenizer) -> Experiment:
    """An experiment that is placed, with the rollouts that it learns from.

    Raises:
      ConfigError, DataError: as `build`.
    """
    c = run.config
    stream, held_out = online.streams(c, tok)
    text = online.pretraining(c, tok)
    samples, stop = _prompts(c, run.model, tok)
    memory_limits.check_model(run.weights.nbytes)
    make = functools.partial(
        online.make,
        c,
        tok=tok,
        mesh=run.mesh,
        rules=run.rules,
        critic_model=run.critic.model if run.critic else None,
        named=run.rewards,
    )
    first = make(run.model, run.objective, stream=stream)
    longest = max(x.longest for x in (stream, held_out) if x is not None)
    long_texts.check(first, longest)
    run = fit(run, first.example().sequences, memory_limits.device_bytes())
    make = functools.partial(make, run.model, run.objective)
    return run._replace(
        identity=_identity(
            run, tok, stream.identity | ({"ptx": text.identity} if text else {})
        ),
        tokenizer=tok,
        prompts=samples,
        stop=stop,
        pretraining=text,
        rollouts=make(stream=stream),
        evaluations=make(stream=held_out, evaluation=True) if held_out else None,
    )


def load_data(run: Experiment, tok: tokenizer.Tokenizer, split: str) -> dataset.Dataset:
    """The data of an experiment that is checked at least, `train` or `validation`."""
    c, needs = run.config, run.objective.needs
    return loader.build(
        c.data,
        tok,
        length=c.length,
        seed=c.seed,
        cache_dir=filenames.expanded(c.cache_dir),
        split=split,
        data=needs.data,
        values=needs.values,
        mismatched=needs.mismatched,
    )


def place(run: Experiment, vocab_size: int, devices=None) -> Experiment:
    """The model, the objective, the mesh and the weights of an experiment.

    Args:
      run: checked.
      vocab_size: tokens of its tokenizer.
      devices: those of the mesh, which need not be here; all by default.

    Raises:
      ConfigError: fields that do not fit each other, or the devices.
    """
    c = run.config
    model = models.build(c.model, vocab_size)
    if c.length > model.config.max_length:
        raise errors.ConfigError(
            f"length: {c.length} is more than model.max_length = "
            f"{model.config.max_length}; lower it, or raise that"
        )
    mesh = sharding.make_mesh(c.mesh, devices)
    parts = sharding.batch_divisor(mesh, run.rules) * c.microbatches
    sizes = {"batch_size": c.batch_size}
    sizes |= {} if c.ptx is None else {"ptx.batch_size": c.ptx.batch_size}
    if bad := {name: size for name, size in sizes.items() if size % parts}:
        raise errors.ConfigError(
            f"{name}: {size} is not a multiple of {parts}, which is "
            f"{c.microbatches} microbatches on {parts // c.microbatches} devices of "
            f"the mesh {dict(mesh.shape)}; the next that is: "
            f"{-(-size // parts) * parts}"
            for name, size in bad.items()
        )
    platform = mesh.devices.flat[0].platform
    case = model.config.attention_case(platform, c.data.share_prompt)
    if problem := attention.problem(model.config.attention, case):
        raise errors.ConfigError(f"model.attention: {problem}")
    objective = online.objective(c, model)
    critic = None
    if run.critic_run is not None:
        critic = critics.of_run(c, run.critic_run, mesh, run.rules, vocab_size)
    elif critics.on_trunk(c):
        critic = critics.of_trunk(c, model, run.parent, mesh, run.rules)
    stored, moves = c.reference.store, c.reference.update_every is not None
    weights = initial.InitialWeights(
        model,
        run.optimizer,
        run.copies,
        trainable=c.trainable,
        seed=c.seed,
        mesh=mesh,
        rules=run.rules,
        parent=run.parent,
        reference=run.reference,
        keep_reference=objective.needs.reference and not stored and not moves,
        further=online.further(c, critic, mesh),
    )
    with sharding.use(mesh, run.rules):
        weights.check()
    placed = dict(model=model, objective=objective, weights=weights, critic=critic)
    return run._replace(mesh=mesh, **placed)


def fit(run: Experiment, sequences: Sequences, device_bytes: int) -> Experiment:
    """An experiment whose model computes as the memory of a device allows.

    Args:
      run: placed.
      sequences: of a batch of the train data, of any number of rows.
      device_bytes: memory of a device.
    """
    c, copies = run.config, math.prod(sequences.inputs.shape[1:-1])
    parts = sharding.batch_divisor(run.mesh, run.rules)
    with sharding.use(run.mesh, run.rules):
        choice = memory.choose(
            run.model.config,
            sequences,
            c.batch_size // (parts * c.microbatches) * copies,
            platform=sharding.platform(),
            free=max(0, device_bytes - run.weights.nbytes),
            parts=parts,
        )
    model = decoder.build(choice.config)
    objective = online.objective(c, model)
    return run._replace(model=model, objective=objective, choice=choice)


def check(section: dict, *, network: bool = False, absent: bool = False) -> Experiment:
    """What needs no data and no device.

    Args:
      section: the whole config, as JSON.
      network: whether runs may be fetched.
      absent: for plans: the runs that it names are not looked for, nor what judges
        read. They are taken to have the model that the section `model` describes.

    Raises:
      ConfigError: all problems.
    """
    problems = []

    def attempt(function, *arguments, **options):
        try:
            return function(*arguments, **options)
        except errors.ConfigError as error:
            problems.extend(error.problems)

    own_tokenizer = section.get("tokenizer")
    if isinstance(own_tokenizer, dict):
        is_open = all(value is None for value in own_tokenizer.values())
        own_tokenizer = None if is_open else own_tokenizer
    if problems := rollout_checks.filters(section):
        raise errors.ConfigError(problems)
    c = config.build(sections.Config, {**section, "tokenizer": own_tokenizer}, "")
    parent = None if absent else initial.find_run(c.init, "init", network)
    section = initial.inherit_data(initial.inherit_model(section, parent), parent)
    data = config.build(loader.DataConfig, section["data"], "data")
    c = dataclasses.replace(c, model=section["model"], data=data)
    if own_tokenizer is not None:
        attempt(tokenizer.check_used, own_tokenizer)
    elif parent is None and not absent:
        problems.append("tokenizer.kind: required, where init.run names no run")
    if c.trainable != ".*" and parent is None and not absent:
        problems.append(
            f"trainable: {c.trainable!r} keeps the other parameters as they start, "
            "which is random; name a run in init.run"
        )
    objective = None
    # The vocabulary is not known before the tokenizer is; nothing here depends on it.
    if (model := attempt(models.build, c.model, 1)) is not None:
        own = attempt(online.objective_section, c)
        if own is not None:
            objective = attempt(objectives.build, model, own)
        problems += quantized.problems(model.config, c.trainable)
        problems += lora.problems(model.config, c.trainable)
    reference_run = None
    loss = f"the loss {c.objective.get('loss') or c.objective.get('name')!r}"
    if objective is not None and objective.needs.reference:
        if not absent:
            reference_run = attempt(initial.find_run, c.reference, "reference", network)
        reference_run = reference_run or parent
        if reference_run is None and not absent:
            problems.append(f"reference.run: {loss} needs one; or name init.run")
        if c.reference.store and objective.needs.unstored:
            problems.append(
                f"reference.store: {loss} needs {', '.join(objective.needs.unstored)} "
                "of the reference, which cannot be stored; set it to False"
            )
    elif objective is not None:
        problems += [
            f"reference.{name}: {value!r}, where {loss} has no reference; leave it out"
            for name, value in vars(c.reference).items()
            if value != getattr(sections.ReferenceConfig, name)
        ]
    problems += rollout_checks.problems(
        c, objective, model, absent or parent is not None
    )
    if c.ptx is not None:
        attempt(online.data_of_ptx, c)
    critic_run = None if absent else attempt(critics.find_run, c, network)
    named = ()
    if c.rollouts is not None:
        of_rewards = c.rollouts.rewards
        of_rewards = _unread(of_rewards) if absent else of_rewards
        named = attempt(rewards.build, of_rewards, "rollouts.rewards") or ()
        attempt(rollout_checks.check_rivals, c.rollouts, named)
        attempt(rollout_checks.check_room, c.rollouts, named)
        attempt(rollout_checks.check_start, c, parent)
        if c.checkpoint.keep_best:
            figure = c.checkpoint.keep_best[0]
            attempt(rollout_checks.check_figure, figure, named, objective)
    schedule = attempt(
        schedules.build,
        c.schedule,
        peak=float(c.optimizer["learning_rate"]),
        steps=c.steps,
        # With rollouts batch_size counts prompts, and length is room, not tokens.
        tokens_per_step=None if c.rollouts is not None else c.batch_size * c.length,
    )
    optimizer = attempt(optim.build, c.optimizer, schedule)
    every, share = c.reference.update_every, c.reference.update_share
    copies = attempt(optim.moving_copies, c.optimizer.get("ema"), every, share)
    moves = reference_run is not None and every is not None
    if moves and not initial.same_parameters(parent, reference_run):
        problems.append(
            "reference.run: with reference.update_every the reference begins as "
            "the policy does, and this run is not that of init.run; leave it out"
        )
    rules = attempt(sharding.rules, c.sharding_rules)
    evaluates = c.evaluation.every
    if c.checkpoint.keep_best and (not evaluates or c.checkpoint.every % evaluates):
        problems.append(
            "checkpoint.keep_best: of steps that are evaluated; checkpoint.every = "
            f"{c.checkpoint.every} must be a multiple of evaluation.every = {evaluates}"
        )
    if problems:
        raise errors.ConfigError(problems)
    return Experiment(
        c,
        sections.with_defaults(section),
        parent,
        reference_run,
        objective,
        schedule,
        optimizer,
        copies,
        rules,
        rewards=named,
        critic_run=critic_run,
    )


def unread(sections: Mapping[str, Any]) -> list[str]:
    """The names of the rewards that begin by reading a run, or what a judge needs."""
    kinds = {n: s.get("kind") for n, s in sections.items() if hasattr(s, "items")}
    return [name for name, kind in kinds.items() if kind in ("judge", "run")]


def _unread(sections: Mapping[str, Any]) -> dict[str, Any]:
    """The same rewards with stand-ins for those of `unread`, for plans."""
    kind = f"{__name__}:{stand_in.__name__}"
    return dict(sections) | {
        name: {**sections[name], "kind": kind, "stands_for": sections[name]["kind"]}
        for name in unread(sections)
    }


def stand_in(stands_for: str, **options) -> rewards.Reward:
    """A reward that scores nothing; its options are checked, but none is opened.

    Raises:
      ConfigError: options that the kind `stands_for` does not take.
    """
    make = config.of_kind(rewards.KINDS, stands_for, "make", "reward")
    config.fill(config.fields(make), options, "")

    def reward(answers):
        raise AssertionError(f"a plan that scores {len(answers)} responses")

    reward.among = stands_for == "judge" and options.get("against") is None
    return reward


def load_tokenizer(run: Experiment) -> tokenizer.Tokenizer:
    """The parent's tokenizer, or a config's own, with the chat template of the data."""
    c, parent = run.config, run.parent
    if c.tokenizer is None or (parent and parent.full_tokenizer):
        return templates.with_template(initial.load_tokenizer(parent), c.data.chat)
    sources = loader.load_sources(c.data.sources, "data.sources").values()
    cache_dir = filenames.expanded(c.cache_dir)
    tok = tokenizer.build(c.tokenizer, sources, cache_dir, c.data.on_bad_row)
    return templates.with_template(tok, c.data.chat)


def _prompts(c: sections.Config, model: Model, tok: tokenizer.Tokenizer):
    """The prompts of the samples as tokens, and what ends a sample, None by default.

    In a chat they are what a user says. Raises ConfigError if they cannot be.
    """
    if not c.sample.every:
        return [], None
    s, stop = c.sample, None
    if not c.data.bos:  # then no document of the training began with it
        tok = tok._replace(bos_id=None)
    prompts = list(s.prompts)
    if c.data.chat:
        turns = [(("user", text),) for text in prompts]
        form = format.of(tok, c.data.chat)
        stop = list(form.stop_ids)
        try:
            prompts = [form.prompt_ids(t, c.data.bos) for t in turns]
        except errors.DataError as error:
            raise errors.ConfigError(f"sample.prompts: {error}") from error
    options = dict(max_tokens=s.max_tokens, temperature=s.temperature, top_p=s.top_p)
    options |= dict(stop=(), stop_ids=stop, seeds=None, batch_size=1)
    with config.errors_at("sample"):
        return request.make(model, tok, prompts, **options).prompts, stop
