# SPDX-License-Identifier: Apache-2.0
"""The sections of a config as dataclasses: fields, defaults, bounds and meaning.

Each section validates its own fields. What takes two sections is in `build.check`, and
the options of a named part (an objective, an optimizer) are those of its function.
"""

from __future__ import annotations

import dataclasses
import re
from typing import Annotated, Literal

from alignjax import cli, config, errors
from alignjax.bounds import (
    Between,
    Bound,
    Count,
    CountOrZero,
    Positive,
    PositiveShare,
    Size,
)
from alignjax.checkpoint import CheckpointConfig
from alignjax.data import loader
from alignjax.data.tokenizers import base as tokenizer
from alignjax.rollouts.settings import RolloutsConfig

# Checkpoints are named by at most nine digits.
Steps = Annotated[Count, Bound(lambda x: x < 10**9, "at most 999,999,999")]
# Keys follow from the low 32 bits of a number; a run uses those of seed and seed + 1.
Seed = Annotated[int, Bound(lambda x: 0 <= x < 2**32 - 1, "in [0, 2^32 - 1)")]


@dataclasses.dataclass(frozen=True)
class EvaluationConfig:
    """The section `evaluation`: the objective over the validation data.

    Attributes:
      every: steps between evaluations; None is never.
      batches: batches of an evaluation at most, of `batch_size` rows; None is all.
    """

    every: Count | None = None
    batches: Count | None = None


@dataclasses.dataclass(frozen=True)
class SampleConfig:
    """The section `sample`: text that the model writes while it trains.

    Attributes:
      every: steps between samples; None is never.
      prompts: beginnings that it continues; in a chat, what the user says.
      max_tokens: tokens of a sample at most.
      temperature: of the softmax that tokens are drawn from; 0 takes the likeliest.
      top_p: draws from the likeliest tokens that have this probability together; None
        is all tokens.
    """

    every: Count | None = None
    prompts: tuple[str, ...] = ("",)
    max_tokens: int = 64
    temperature: float = 0.8
    top_p: float | None = None


@dataclasses.dataclass(frozen=True)
class LogConfig:
    """The section `log`: see `tracking.writer`.

    Attributes:
      every: steps between lines of the log; metrics.jsonl has every step.
      tensorboard: whether to write event files.
      wandb: a Weights & Biases project to log to, with the extra; None is off.
    """

    every: Count = 10
    tensorboard: bool = True
    wandb: str | None = None


@dataclasses.dataclass(frozen=True)
class InitConfig:
    """The section `init`: the run that this one starts from.

    Attributes:
      run: its directory, a Hugging Face folder, or `hf:` and a repository; None starts
        from random parameters.
      step: which of its checkpoints; None is the newest.
    """

    run: str | None = None
    step: int | None = None

    def __post_init__(self):
        if problems := _without_run(self):
            raise errors.ConfigError(problems)


def _without_run(section) -> list[str]:
    """What is wrong with a section that names a step and no run."""
    if section.step is None or section.run is not None:
        return []
    return [f"step: {section.step} of no run; name the run too"]


@dataclasses.dataclass(frozen=True)
class ReferenceConfig:
    """The section `reference`: the model that objectives compare the policy with.

    Attributes:
      run: as in `init`; None is the model that the policy starts from. It computes in
        the dtype of the policy.
      step: which of its checkpoints; None is the newest.
      store: whether to keep its log-probs of the data on disk, where every loss, option
        and seed over the same data finds them, instead of its parameters in memory.
      update_every: updates of the policy between moves of the reference towards it
        (TR-DPO); None keeps the reference fixed.
      update_share: the share of the way that it moves; None is 1, a copy.
    """

    run: str | None = None
    step: int | None = None
    store: bool = False
    update_every: Count | None = None
    update_share: PositiveShare | None = None

    def __post_init__(self):
        problems = _without_run(self)
        if self.update_share is not None and self.update_every is None:
            problems.append(
                f"update_share: {self.update_share} at no time; set update_every too"
            )
        if self.store and self.update_every is not None:
            problems.append(
                "store: has the log-probs of a fixed reference, and with update_every "
                f"= {self.update_every} it moves; choose one of the two"
            )
        if problems:
            raise errors.ConfigError(problems)


@dataclasses.dataclass(frozen=True)
class CriticConfig:
    """The section `critic`: what says how well a response will turn out, for PPO.

    Attributes:
      trunk: "own" is a model beside the policy; "policy" is a head on the policy's last
        hidden states, which starts at 0 and is no part of the policy that is saved.
      run: with a trunk of its own, a reward model's run, with one head, from which the
        critic starts.
      step: which of its checkpoints; None is the newest.
      coefficient: of the value loss in that of the policy, with whose trunk it is
        learned; None is 0.1.
      learning_rate: of the critic, or of its head; constant, of the policy's optimizer,
        whose `decay` it follows where that matches any of what it learns.
      loss: `{"name": ..., option: value}`, of values: "squared" or "clipped".
      warmup_rollouts: rollouts in which the critic, or its head, alone learns.
    """

    trunk: Literal["own", "policy"] = "own"
    run: str | None = None
    step: int | None = None
    coefficient: Positive | None = None
    learning_rate: Positive = 1e-4
    loss: dict = dataclasses.field(default_factory=lambda: {"name": "squared"})
    warmup_rollouts: CountOrZero = 0

    def __post_init__(self):
        problems = _without_run(self)
        if self.trunk == "own":
            if self.run is None:
                remedy = 'name a reward model\'s run, or say trunk="policy"'
                problems.append(f"run: required; {remedy}")
            if self.coefficient is not None:
                problems.append(
                    f"coefficient: {self.coefficient} of a loss of its own parameters; "
                    "set learning_rate instead"
                )
        elif self.run is not None:
            problems.append(
                f'run: {self.run!r} beside trunk = "policy", which is the policy\'s; '
                "clear it (none), or the trunk"
            )
        if problems:
            raise errors.ConfigError(problems)


@dataclasses.dataclass(frozen=True)
class PtxConfig:
    """The section `ptx`: text as in pretraining, learned beside rollouts (PPO-ptx).

    Attributes:
      sources: as `data.sources`; every token is learned.
      coefficient: gamma, of the mean nats a token that are added to the loss of an
        update (arXiv:2203.02155 Eq. 2, where the means are of other things).
      batch_size: rows of `length` tokens of an update.
    """

    sources: dict
    coefficient: Positive = 1.0
    batch_size: Size = 16


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """What the section `model` has besides the fields of `DecoderConfig`.

    Attributes:
      family: a family of `alignjax.models.families`; with `init.run`, that of the run.
      name: a size of the family, which gives the fields that are None their values.
    """

    family: str | None = None
    name: str | None = None


@dataclasses.dataclass(frozen=True)
class ObjectiveConfig:
    """What the section `objective` has besides the options of the objective and loss.

    Attributes:
      name: "language_model", "reward_model", "preference", "policy_gradient", or
        module:function.
      router_scope: rows that the balance of experts is over, of a model that has a
        router_loss: those of a microbatch, which None is too, or of the whole batch.
    """

    name: str
    router_scope: Literal["microbatch", "batch"] | None = None


@dataclasses.dataclass(frozen=True)
class OptimizerConfig:
    """What the section `optimizer` has besides the options of the optimizer.

    Attributes:
      name: "adamw", "adafactor", "lion", "muon", "sgd", or module:function.
      learning_rate: the peak of the schedule.
      clip_norm: the largest norm of the whole gradient; None is off.
      decay: a pattern of the paths of parameters that weight decay applies to.
      ema: the decay of a moving average of the weights; None is off.
    """

    name: str
    learning_rate: Positive
    clip_norm: Positive | None = None
    decay: str = ".*"
    ema: Between | None = None


@dataclasses.dataclass(frozen=True)
class ScheduleConfig:
    """What the section `schedule` has besides the options of the schedule.

    Attributes:
      name: "cosine", "constant", "linear", "wsd", "rsqrt", or module:function.
      warmup_steps: steps in which the rate rises to its peak; None is none.
      warmup_tokens: the same in tokens, instead; not with rollouts.
    """

    name: str
    warmup_steps: CountOrZero | None = None
    warmup_tokens: CountOrZero | None = None


@dataclasses.dataclass(frozen=True)
class MeshConfig:
    """The section `mesh`: devices along each axis; -1 is all that remain.

    Attributes:
      data: copies of the parameters, which read different rows.
      fsdp: devices that parameters and rows are split over.
      tensor: devices that heads and MLPs are split over.
    """

    data: int = 1
    fsdp: int = 1
    tensor: int = 1


@dataclasses.dataclass(frozen=True)
class SourceConfig:
    """What each of `data.sources` has besides the options of its kind.

    Attributes:
      kind: "text", "jsonl", "parquet", "tfds", "huggingface", "world", or
        module:function.
      weight: its share of the rows, relative to other sources.
    """

    kind: str
    weight: Positive = 1.0


@dataclasses.dataclass(frozen=True)
class Config:
    """A whole config.

    Attributes:
      steps: updates; schedules are stretched over them.
      batch_size: rows of a step, on all devices together; with `rollouts` its prompts,
        each of which has `rollouts.samples` responses.
      length: T, tokens of a row.
      trainable: a pattern of the paths of parameters that are trained.
      seed: of the parameters, of dropout and of the order of the data.
      microbatches: parts of a batch that go through the model one after another, with
        the same update.
      nonfinite: what a loss or gradient that is not finite does: "stop" the run, or
        "skip" the update.
      max_skipped: skipped updates in a row after which the run stops too.
      sharding_rules: axes of the mesh for axes of arrays, instead of the usual ones.
      prefetch: batches fetched ahead.
      watchdog: seconds without progress after which the run is ended; None is never.
      cache_dir: the folder of tokens, tokenizers and compiled programs.
    """

    steps: Steps
    batch_size: Size
    length: Size
    model: dict
    data: loader.DataConfig
    objective: dict
    optimizer: dict
    schedule: dict
    checkpoint: CheckpointConfig
    evaluation: EvaluationConfig = EvaluationConfig()
    sample: SampleConfig = SampleConfig()
    log: LogConfig = LogConfig()
    tokenizer: tokenizer.TokenizerConfig | None = None
    rollouts: RolloutsConfig | None = None
    critic: CriticConfig | None = None
    ptx: PtxConfig | None = None
    init: InitConfig = InitConfig()
    reference: ReferenceConfig = ReferenceConfig()
    trainable: str = ".*"
    seed: Seed = 0
    microbatches: Count = 1
    nonfinite: Literal["stop", "skip"] = "stop"
    max_skipped: Count = 10
    mesh: dict = dataclasses.field(default_factory=dict)
    sharding_rules: dict = dataclasses.field(default_factory=dict)
    prefetch: CountOrZero = 4
    watchdog: Positive | None = 1800.0
    cache_dir: str = cli.CACHE_DIR

    def __post_init__(self):
        problems = []
        for name, cls in PARTS.items():
            own = {k: f._replace(required=False) for k, f in config.fields(cls).items()}
            part = {k: v for k, v in getattr(self, name).items() if k in own}
            try:
                config.fill(own, part, name)
            except errors.ConfigError as error:
                problems += error.problems
        if not self.cache_dir.strip():
            problems.append("cache_dir: empty; name a folder, or leave it out")
        rate = self.optimizer.get("learning_rate")
        if not isinstance(rate, (int, float)) or not 0 < rate < float("inf"):
            problems.append(f"optimizer.learning_rate: {rate} is not a positive number")
        try:
            re.compile(self.trainable)
        except re.error as error:
            problems.append(f"trainable: {self.trainable!r} is no pattern: {error}")
        if self.batch_size % self.microbatches:
            problems.append(
                f"microbatches: {self.microbatches} do not divide batch_size = "
                f"{self.batch_size}"
            )
        if problems:
            raise errors.ConfigError(problems)


# The fields of `Config` that are plain dicts, since the function that each names has
# options too.
PARTS = {
    "model": ModelConfig,
    "objective": ObjectiveConfig,
    "optimizer": OptimizerConfig,
    "schedule": ScheduleConfig,
    "mesh": MeshConfig,
}
# The fields of `Config` that are dataclasses themselves.
SECTIONS = {
    name: cls
    for name, field in config.fields(Config).items()
    for cls in config.members(field.type)
    if dataclasses.is_dataclass(cls)
}
# Of these, what is absent is not there: it has no defaults.
OPTIONAL = ("tokenizer", "rollouts", "critic", "ptx")


def with_defaults(section: dict) -> dict:
    """A config as JSON with the defaults of `Config` and `SECTIONS` written out.

    So the record of a run stays true when a default changes later.
    """

    def complete(cls: type, section: dict) -> dict:
        defaults = {
            name: config.to_json(field.default)
            for name, field in config.fields(cls).items()
            if not dataclasses.is_dataclass(field.default)
        }
        fields = {name: x for name, x in section.items() if x is not None}
        return {**section, **defaults, **fields}

    parts = {}
    for name, cls in SECTIONS.items():
        part = section.get(name) or {}
        if name not in OPTIONAL or any(value is not None for value in part.values()):
            parts[name] = complete(cls, part)
    return {**complete(Config, section), **parts}
