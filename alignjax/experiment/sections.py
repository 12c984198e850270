# SPDX-License-Identifier: Apache-2.0
"""A whole config as dataclasses; `configs/base.py` explains every field.

What one section can tell is wrong with itself is refused here.
"""

from __future__ import annotations

import dataclasses
import math
import re
from typing import Literal

from alignjax import errors
from alignjax.checkpoint import CheckpointConfig
from alignjax.data import loader
from alignjax.data.tokenizers import base as tokenizer

CACHE_DIR = "~/.cache/alignjax"
# Keys follow from the last 32 bits of a number; a run has those of seed and seed + 1.
SEEDS = 2**32 - 1


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
            raise errors.ConfigError(problems)


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
            raise errors.ConfigError(problems)


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
            raise errors.ConfigError(problems)


@dataclasses.dataclass(frozen=True)
class InitConfig:
    """The section `init`: the run whose parameters a run starts from.

    Attributes:
      run: its directory; None starts from random parameters.
      step: of its checkpoints; None is the newest.
    """

    run: str | None = None
    step: int | None = None

    def __post_init__(self):
        if self.step is not None and self.run is None:
            raise errors.ConfigError(f"step: {self.step} of no run; name the run too")


@dataclasses.dataclass(frozen=True)
class ReferenceConfig:
    """The section `reference`: the model that objectives compare the policy with.

    Attributes:
      run, step: as in `init`; None is where the policy starts from. It is computed as
        the policy is, in its dtype.
      store: whether to keep its log-probabilities of the data on disk, where every
        loss, option and seed over the same data finds them, instead of keeping a copy
        of its parameters on the devices.
      update_every: updates of the policy after which the reference moves to or towards
        it, see `moving.reference`; None keeps it as it is.
      update_share: by how much, 1 is all the way, which None stands for.
    """

    run: str | None = None
    step: int | None = None
    store: bool = False
    update_every: int | None = None
    update_share: float | None = None

    def __post_init__(self):
        problems = _too_small(self, update_every=1)
        if self.step is not None and self.run is None:
            problems.append(f"step: {self.step} of no run; name the run too")
        share = self.update_share
        if share is not None and not 0 < share <= 1:
            problems.append(f"update_share: {share} is not in (0, 1]; 1 is a copy")
        if share is not None and self.update_every is None:
            problems.append(f"update_share: {share} at no time; set update_every too")
        if self.store and self.update_every is not None:
            problems.append(
                "store: keeps what a reference that stays says, and with update_every "
                f"= {self.update_every} it moves; choose one of the two"
            )
        if problems:
            raise errors.ConfigError(problems)


@dataclasses.dataclass(frozen=True)
class Config:
    """A whole config; `configs/base.py` explains every field."""

    steps: int
    batch_size: int
    length: int
    model: dict
    data: loader.DataConfig
    objective: dict
    optimizer: dict
    schedule: dict
    checkpoint: CheckpointConfig
    evaluation: EvaluationConfig
    sample: SampleConfig
    log: LogConfig
    tokenizer: tokenizer.TokenizerConfig | None = None
    init: InitConfig = InitConfig()
    reference: ReferenceConfig = ReferenceConfig()
    trainable: str = ".*"
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
        if self.seed >= SEEDS:
            problems.append(f"seed: {self.seed} must be less than {SEEDS}")
        if not self.cache_dir.strip():
            problems.append("cache_dir: empty; name a folder, or leave it out")
        if self.watchdog is not None and not self.watchdog > 0:
            problems.append(f"watchdog: {self.watchdog} must be positive; None is off")
        rate = self.optimizer.get("learning_rate")
        if not isinstance(rate, (int, float)) or not 0 < rate < math.inf:
            problems.append(f"optimizer.learning_rate: {rate} is not a positive number")
        try:
            re.compile(self.trainable)
        except re.error as error:
            problems.append(f"trainable: {self.trainable!r} is no pattern: {error}")
        if self.batch_size % max(self.microbatches, 1):
            problems.append(
                f"microbatches: {self.microbatches} do not divide batch_size = "
                f"{self.batch_size}"
            )
        if problems:
            raise errors.ConfigError(problems)


SECTIONS = {
    "tokenizer": tokenizer.TokenizerConfig,
    "data": loader.DataConfig,
    "checkpoint": CheckpointConfig,
    "evaluation": EvaluationConfig,
    "sample": SampleConfig,
    "log": LogConfig,
    "init": InitConfig,
    "reference": ReferenceConfig,
}
