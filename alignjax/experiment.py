# SPDX-License-Identifier: Apache-2.0
"""A config made into everything that training needs, or refused with all that is wrong.

What can be checked from the config alone is checked first, in a moment; then the data
is read, then the devices are looked at. No step has been taken when this is done.
"""

from __future__ import annotations

import dataclasses
import math
import pathlib
from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple

import jax

from alignjax import (
    config,
    models,
    objectives,
    optim,
    registry,
    schedules,
    sharding,
    trees,
)
from alignjax.checkpoint import CheckpointConfig
from alignjax.data import dataset, loader, tokenizer
from alignjax.sampling import request
from alignjax.types import Model, Objective

CACHE_DIR = "~/.cache/alignjax"


def _too_small(section, **least: int) -> list[str]:
    """What is wrong with the fields that are numbers from `least` up, or None."""
    return [
        f"{name}: {value} must be at least {smallest}"
        for name, smallest in least.items()
        if (value := getattr(section, name)) is not None and value < smallest
    ]


@dataclasses.dataclass(frozen=True)
class EvaluationConfig:
    """The section `evaluation`: the objective over the validation data.

    Attributes:
      every: steps between evaluations; None is never.
      batches: how many batches of `batch_size` rows at most; None is all of them.
    """

    every: int | None = None
    batches: int | None = None

    def __post_init__(self):
        if problems := _too_small(self, every=1, batches=1):
            raise config.ConfigError(problems)


@dataclasses.dataclass(frozen=True)
class SampleConfig:
    """The section `sample`: text that the model writes while it trains.

    Attributes:
      every: steps between samples; None is never.
      prompts: what each of them starts with.
      max_tokens, temperature, top_p: see `sampling.generate`.
    """

    every: int | None = None
    prompts: tuple[str, ...] = ("",)
    max_tokens: int = 64
    temperature: float = 0.8
    top_p: float | None = None

    def __post_init__(self):
        if problems := _too_small(self, every=1):
            raise config.ConfigError(problems)


@dataclasses.dataclass(frozen=True)
class LogConfig:
    """The section `log`: see `writer.Writer`.

    Attributes:
      every: steps between lines in the log.
      tensorboard: whether to write event files.
      wandb: a project to log to; None is off.
    """

    every: int = 10
    tensorboard: bool = True
    wandb: str | None = None

    def __post_init__(self):
        if problems := _too_small(self, every=1):
            raise config.ConfigError(problems)


@dataclasses.dataclass(frozen=True)
class Config:
    """A whole config; `configs/base.py` explains every field."""

    steps: int
    batch_size: int
    length: int
    model: dict
    tokenizer: tokenizer.TokenizerConfig
    data: loader.DataConfig
    objective: dict
    optimizer: dict
    schedule: dict
    checkpoint: CheckpointConfig
    evaluation: EvaluationConfig
    sample: SampleConfig
    log: LogConfig
    seed: int = 0
    microbatches: int = 1
    nonfinite: Literal["stop", "skip"] = "stop"
    max_skipped: int = 10
    mesh: dict = dataclasses.field(default_factory=dict)
    sharding_rules: dict = dataclasses.field(default_factory=dict)
    prefetch: int = 4
    watchdog: float | None = 1800.0
    cache_dir: str = CACHE_DIR

    def __post_init__(self):
        problems = _too_small(self, steps=1, batch_size=1, length=1, microbatches=1)
        problems += _too_small(self, max_skipped=1, prefetch=0, seed=0)
        if self.watchdog is not None and not self.watchdog > 0:
            problems.append(f"watchdog: {self.watchdog} must be positive; None is off")
        rate = self.optimizer.get("learning_rate")
        if not isinstance(rate, (int, float)) or not 0 < rate < math.inf:
            problems.append(f"optimizer.learning_rate: {rate} is not a positive number")
        if self.batch_size % max(self.microbatches, 1):
            problems.append(
                f"microbatches: {self.microbatches} do not divide batch_size = "
                f"{self.batch_size}"
            )
        if problems:
            raise config.ConfigError(problems)


SECTIONS = {
    "tokenizer": tokenizer.TokenizerConfig,
    "data": loader.DataConfig,
    "checkpoint": CheckpointConfig,
    "evaluation": EvaluationConfig,
    "sample": SampleConfig,
    "log": LogConfig,
}


class Experiment(NamedTuple):
    """What `train` needs, all of it checked.

    `json` is the resolved config, `identity` what the batches follow from, `prompts`
    the tokens that samples start with; `validation` is None where the config never
    evaluates.
    """

    config: Config
    json: dict
    identity: dict
    tokenizer: tokenizer.Tokenizer
    prompts: list[list[int]]
    train: dataset.Dataset
    validation: dataset.Dataset | None
    model: Model
    objective: Objective
    schedule: Callable
    optimizer: Any
    mesh: jax.sharding.Mesh
    rules: dict


def build(section: Mapping) -> Experiment:
    """Everything that the config describes.

    Raises:
      ConfigError: all problems of the config that can be seen together.
      DataError: data that cannot be read, or is not what it should be.
    """
    section = config.to_json(section)
    c, schedule, optimizer, rules = check(section)
    cache_dir = pathlib.Path(c.cache_dir).expanduser()
    tok = tokenizer.build(
        c.tokenizer,
        loader.load_sources(c.data.sources, "data.sources").values(),
        cache_dir,
        c.data.on_bad_row,
    )
    model = models.build(c.model, tok.vocab_size)
    if c.length > model.config.max_length:
        raise config.ConfigError(
            f"length: {c.length} is more than model.max_length = "
            f"{model.config.max_length}; lower it, or raise that"
        )
    mesh = sharding.make_mesh(c.mesh)
    parts = sharding.batch_divisor(mesh, rules) * c.microbatches
    if c.batch_size % parts:
        raise config.ConfigError(
            f"batch_size: {c.batch_size} is not a multiple of {parts}, which is "
            f"{c.microbatches} microbatches on {parts // c.microbatches} devices of "
            f"the mesh {dict(mesh.shape)}; the next that is: "
            f"{-(-c.batch_size // parts) * parts}"
        )
    data = lambda split: loader.build(
        c.data, tok, length=c.length, seed=c.seed, cache_dir=cache_dir, split=split
    )
    train = data("train")
    return Experiment(
        config=c,
        json=section,
        identity={"tokenizer": tok.identity, "train": train.identity},
        tokenizer=tok,
        prompts=_prompts(c, model, tok),
        train=train,
        validation=data("validation") if c.evaluation.every else None,
        model=model,
        objective=objectives.build(model, c.objective),
        schedule=schedule,
        optimizer=optimizer,
        mesh=mesh,
        rules=rules,
    )


def _prompts(c: Config, model: Model, tok: tokenizer.Tokenizer) -> list[list[int]]:
    """The prompts of the samples as tokens. Raises ConfigError if they cannot be."""
    if not c.sample.every:
        return []
    if not c.data.bos:  # then no document of the training began with it
        tok = tok._replace(bos_id=None)
    s = c.sample
    asked = dict(max_tokens=s.max_tokens, temperature=s.temperature, top_p=s.top_p)
    asked |= dict(stop=(), stop_ids=None, seeds=None, batch_size=1)
    try:
        return request.make(model, tok, list(s.prompts), **asked).prompts
    except config.ConfigError as error:
        problems = [f"sample.{problem}" for problem in error.problems]
        raise config.ConfigError(problems) from error


def describe(run: Experiment, resumed: int | None) -> str:
    """What is about to happen, for the log."""
    c = run.config
    size = trees.count(jax.eval_shape(run.model.init, jax.random.key(0)))
    tokens = c.batch_size * c.length
    devices = jax.devices()
    passes = c.steps * c.batch_size / run.train.num_rows
    lines = [
        (
            f"model: {c.model['family']}/{c.model['name']}, {size:,} parameters, "
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
        *(f"  {line}" for line in run.train.report.splitlines()),
    ]
    if run.validation is not None:
        lines += [f"  held out: {x}" for x in run.validation.report.splitlines()]
    lines.append(
        f"starting at step 0 of {c.steps}"
        if resumed is None
        else f"going on from the checkpoint of step {resumed}, of {c.steps}"
    )
    return "\n".join(lines)


def check(section: dict):
    """What needs no data and no device. Raises ConfigError with all problems."""
    problems, filled = [], dict(section)

    def attempt(function, *arguments, **options):
        try:
            return function(*arguments, **options)
        except config.ConfigError as error:
            problems.extend(error.problems)

    for name, cls in SECTIONS.items():
        if isinstance(section.get(name), dict):
            filled[name] = attempt(config.build, cls, section[name], name)
    if problems:  # a section that is missing would be reported as not given
        filled = {k: v for k, v in filled.items() if v is not None}
        known = {f.name for f in dataclasses.fields(Config)}
        problems += [
            f"{name}: unknown field; {registry.closest(name, known)}"
            for name in section
            if name not in known
        ]
        raise config.ConfigError(problems)
    c = config.build(Config, filled, "")
    attempt(tokenizer.check_used, section["tokenizer"])
    model = attempt(models.build, c.model, 1)
    if model is not None:
        attempt(objectives.build, model, c.objective)
    schedule = attempt(
        schedules.build,
        c.schedule,
        peak=float(c.optimizer["learning_rate"]),
        steps=c.steps,
        tokens_per_step=c.batch_size * c.length,
    )
    optimizer = attempt(optim.build, c.optimizer, schedule)
    rules = attempt(sharding.rules, c.sharding_rules)
    evaluates = c.evaluation.every
    if c.checkpoint.keep_best and (not evaluates or c.checkpoint.every % evaluates):
        problems.append(
            "checkpoint.keep_best: of steps that are evaluated; checkpoint.every = "
            f"{c.checkpoint.every} must be a multiple of evaluation.every = {evaluates}"
        )
    if problems:
        raise config.ConfigError(problems)
    return c, schedule, optimizer, rules
