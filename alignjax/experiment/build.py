# SPDX-License-Identifier: Apache-2.0
"""A config made into everything that training needs, or refused with all that is wrong.

What can be checked from the config alone is checked first, in a moment; then the data
is read, then the devices are looked at. No step has been taken when this is done.
"""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax

from alignjax import config, errors, models, objectives, registry, trees
from alignjax.data import dataset, loader
from alignjax.data.chat import format, templates
from alignjax.data.tokenizers import base as tokenizer
from alignjax.distributed import sharding
from alignjax.experiment import initial, reference, sections
from alignjax.models import lora, quantized
from alignjax.sampling import request
from alignjax.training import optim, schedules
from alignjax.types import Model, Objective


class Experiment(NamedTuple):
    """What `train` needs, all of it checked.

    Attributes:
      config: every field, those included that are as in the parent run.
      json: the same as plain JSON.
      identity: what the batches and the first parameters follow from.
      parent: the run that it starts from; None starts from random parameters.
      reference: the run that the reference is of; None where the objective has none.
      tokenizer: the parent's, or the config's own.
      prompts: the tokens that samples start with.
      stop: the tokens that end a sample; None are the tokenizer's.
      train: the data.
      validation: the held-out data; None where the config never evaluates.
      model, objective, optimizer, copies, schedule: functions, see `types`, `optim`.
      mesh, rules: see `sharding`.
      weights: the weights that it begins with.
      store: of the reference's log-probabilities; None keeps its parameters.
    """

    config: sections.Config
    json: dict
    identity: dict
    parent: initial.RunAtStep | None
    reference: initial.RunAtStep | None
    tokenizer: tokenizer.Tokenizer
    prompts: list[list[int]]
    stop: list[int] | None
    train: dataset.Dataset
    validation: dataset.Dataset | None
    model: Model
    objective: Objective
    schedule: Callable
    optimizer: Any
    copies: dict[str, optim.MovingCopy]
    mesh: jax.sharding.Mesh
    rules: dict
    weights: initial.InitialWeights
    store: reference.Store | None


def build(section: Mapping, *, network: bool = False) -> Experiment:
    """Everything that the config describes; fetches runs with `network` alone.

    Raises:
      ConfigError: all problems of the config that can be seen together.
      DataError: data that cannot be read, or is not what it should be.
    """
    checked = check(config.to_json(section), network=network)
    jax.devices()  # those that cannot start are known before the data are read
    c, objective = checked.config, checked.objective
    cache_dir = pathlib.Path(c.cache_dir).expanduser()
    tok = _tokenizer(c, checked.parent, cache_dir)
    model = models.build(c.model, tok.vocab_size)
    if c.length > model.config.max_length:
        raise errors.ConfigError(
            f"length: {c.length} is more than model.max_length = "
            f"{model.config.max_length}; lower it, or raise that"
        )
    objective = objectives.build(model, c.objective)
    if checked.reference is not None:
        initial.check_tokenizer(checked.reference, tok)
        if checked.parent is None or checked.parent.digest != checked.reference.digest:
            initial.check_model(checked.reference, model.config)
    mesh, rules = sharding.make_mesh(c.mesh), checked.rules
    parts = sharding.batch_divisor(mesh, rules) * c.microbatches
    if c.batch_size % parts:
        raise errors.ConfigError(
            f"batch_size: {c.batch_size} is not a multiple of {parts}, which is "
            f"{c.microbatches} microbatches on {parts // c.microbatches} devices of "
            f"the mesh {dict(mesh.shape)}; the next that is: "
            f"{-(-c.batch_size // parts) * parts}"
        )
    data = lambda split: loader.build(
        c.data,
        tok,
        length=c.length,
        seed=c.seed,
        cache_dir=cache_dir,
        split=split,
        data=objective.needs.data,
        values=objective.needs.values,
        batch_size=c.batch_size if objective.needs.mismatched else None,
    )
    train = data("train")
    identity = {"tokenizer": tok.identity, "train": train.identity}
    for name, run in (("init", checked.parent), ("reference", checked.reference)):
        if run is not None:
            identity[name] = run.digest
    prompts, stop = _prompts(c, model, tok)
    with sharding.use(mesh, rules):
        weights = initial.weights(
            model,
            checked.optimizer,
            checked.copies,
            mesh,
            rules,
            trainable=c.trainable,
            seed=c.seed,
            parent=checked.parent,
            reference=checked.reference,
            keep_reference=checked.reference is not None
            and not c.reference.store
            and c.reference.update_every is None,
        )
    store = None
    if checked.reference is not None and c.reference.store:
        store = reference.Store(
            folder=cache_dir / "reference",
            reference=checked.reference,
            model=model,
            trainable=c.trainable,
            batch_size=c.batch_size,
            mesh=mesh,
            rules=rules,
        )
    return Experiment(
        **checked._replace(objective=objective)._asdict(),
        identity=identity,
        tokenizer=tok,
        prompts=prompts,
        stop=stop,
        train=train,
        validation=data("validation") if c.evaluation.every else None,
        model=model,
        mesh=mesh,
        weights=weights,
        store=store,
    )


def _tokenizer(c: sections.Config, parent: initial.RunAtStep | None, cache_dir):
    """The parent's tokenizer, or a config's own, with the chat template of the data."""
    if c.tokenizer is None:
        return templates.with_template(initial.load_tokenizer(parent), c.data.chat)
    sources = loader.load_sources(c.data.sources, "data.sources").values()
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
        prompts = [form.prompt_ids(t, c.data.bos) for t in turns]
    options = dict(max_tokens=s.max_tokens, temperature=s.temperature, top_p=s.top_p)
    options |= dict(stop=(), stop_ids=stop, seeds=None, batch_size=1)
    try:
        return request.make(model, tok, prompts, **options).prompts, stop
    except errors.ConfigError as error:
        problems = [f"sample.{problem}" for problem in error.problems]
        raise errors.ConfigError(problems) from error


def tokens_per_row(data: dataset.Dataset) -> int:
    """Positions of the model that a row of a batch takes."""
    return data.rows([0])["inputs"].size


def describe(run: Experiment, resumed: int | None) -> str:
    """What is about to happen, for the log."""
    c = run.config
    size = trees.count(jax.eval_shape(run.model.init, jax.random.key(0)))
    tokens = c.batch_size * tokens_per_row(run.train)
    devices = jax.devices()
    passes = c.steps * c.batch_size / run.train.num_rows
    train = run.train.report.splitlines()
    lines = [
        (
            f"model: {'/'.join(_names(c.model))}, {size:,} parameters, "
            f"vocabulary {run.model.config.vocab_size:,}, context {c.length}"
        ),
        (
            f"devices: {len(devices)} x {devices[0].device_kind}, mesh "
            f"{dict(run.mesh.shape)}, {jax.process_count()} process(es)"
        ),
        (
            f"data: {run.train.num_rows:,} rows a pass; {c.steps:,} steps of "
            f"{tokens:,} tokens are {passes:.2f} passes"
        ),
        *(f"  {line}" for line in train),
    ]
    if run.validation is not None:
        held_out = run.validation.report.splitlines()
        if not c.data.validation_sources:  # what is of both is not listed twice
            held_out = [line for line in held_out if line not in train]
        lines += [f"  held out: {line}" for line in held_out]
    for name, other in (("start", run.parent), ("reference", run.reference)):
        if other is not None:
            path, digest = other.run.path, other.digest[:12]
            lines.append(f"{name}: step {other.step} of {path}, parameters {digest}")
    if run.parent and (note := initial.length_note(run.parent, run.model.config)):
        lines.append(note)
    if note := format.start_note(run.tokenizer, c.data.chat, c.data.bos):
        lines.append(note)
    if (every := c.reference.update_every) is not None:
        share = c.reference.update_share
        moves = "becomes" if share in (None, 1) else f"goes {share} of the way to"
        lines.append(f"the reference {moves} the policy every {every} updates")
    lines.append(
        f"starting at step 0 of {c.steps}"
        if resumed is None
        else f"going on from the checkpoint of step {resumed}, of {c.steps}"
    )
    return "\n".join(lines)


def _names(section: Mapping) -> list[str]:
    """Family and size; one that was published elsewhere has no name for its size."""
    return [section[k] for k in ("family", "name") if section.get(k)]


class Checked(NamedTuple):
    """What follows from the config alone; see `Experiment`."""

    config: sections.Config
    json: dict
    parent: initial.RunAtStep | None
    reference: initial.RunAtStep | None
    objective: Objective
    schedule: Callable
    optimizer: Any
    copies: dict[str, optim.MovingCopy]
    rules: dict


def check(section: dict, *, network: bool = False) -> Checked:
    """What needs no data and no device. Raises ConfigError with all problems."""
    problems, filled = [], dict(section)

    def attempt(function, *arguments, **options):
        try:
            return function(*arguments, **options)
        except errors.ConfigError as error:
            problems.extend(error.problems)

    own_tokenizer = _has_own_tokenizer(section)
    for name, cls in sections.SECTIONS.items():
        if name == "tokenizer" and not own_tokenizer:
            filled[name] = None
        elif isinstance(section.get(name), dict):
            filled[name] = attempt(config.build, cls, section[name], name)
    if problems:  # a section that is missing would be reported as not given
        filled = {k: v for k, v in filled.items() if v is not None}
        known = {f.name for f in dataclasses.fields(sections.Config)}
        problems += [
            f"{name}: unknown field; {registry.closest(name, known)}"
            for name in section
            if name not in known
        ]
        raise errors.ConfigError(problems)
    parent = None
    if "init" in filled:
        parent = initial.find_run(filled["init"], "init", network)
    section = initial.inherit_model(section, parent)
    c = config.build(sections.Config, {**filled, "model": section.get("model")}, "")
    if own_tokenizer:
        attempt(tokenizer.check_used, section["tokenizer"])
    elif parent is None:
        problems.append("tokenizer.kind: required, where init.run names no run")
    if c.trainable != ".*" and parent is None:
        problems.append(
            f"trainable: {c.trainable!r} keeps the other parameters as they start, "
            "which is random; name a run in init.run"
        )
    objective = None
    # The vocabulary is not known before the tokenizer is; nothing here depends on it.
    if (model := attempt(models.build, c.model, 1)) is not None:
        objective = attempt(objectives.build, model, c.objective)
        problems += quantized.problems(model.config, c.trainable)
        problems += lora.problems(model.config, c.trainable)
    if objective is not None and objective.needs.mismatched and c.batch_size < 2:
        loss = c.objective.get("loss") or c.objective["name"]
        problems.append(
            f"batch_size: {c.batch_size}, where the loss {loss!r} measures a baseline "
            "by the responses of other rows of the batch; make it at least 2"
        )
    reference_run = None
    if objective is not None and objective.needs.reference:
        reference_run = attempt(initial.find_run, c.reference, "reference", network)
        reference_run = reference_run or parent
        if reference_run is None:
            problems.append("reference.run: the objective asks one; or name init.run")
        if c.reference.store and objective.needs.unstored:
            problems.append(
                f"reference.store: the loss needs {', '.join(objective.needs.unstored)}"
                " of the reference, which cannot be stored; set it to False"
            )
    elif objective is not None and c.reference != sections.ReferenceConfig():
        problems.append("reference: the objective asks none; leave it out")
    schedule = attempt(
        schedules.build,
        c.schedule,
        peak=float(c.optimizer["learning_rate"]),
        steps=c.steps,
        tokens_per_step=c.batch_size * c.length,
    )
    optimizer = attempt(optim.build, c.optimizer, schedule)
    copies = attempt(
        optim.moving_copies,
        c.optimizer.get("ema"),
        c.reference.update_every,
        c.reference.update_share,
    )
    moves = reference_run is not None and c.reference.update_every is not None
    if moves and (parent is None or parent.digest != reference_run.digest):
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
    section = sections.with_defaults(section)
    return Checked(
        c, section, parent, reference_run, objective, schedule, optimizer, copies, rules
    )


def _has_own_tokenizer(section: Mapping) -> bool:
    """Whether a config says what tokenizer it wants, or takes that of `init.run`."""
    given = section.get("tokenizer")
    return not isinstance(given, dict) or any(v is not None for v in given.values())
