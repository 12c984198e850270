# SPDX-License-Identifier: Apache-2.0
"""What the loop does between steps: evaluations and samples."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

import jax

from alignjax import errors, registry, sampling, trees, types
from alignjax.data import dataset
from alignjax.distributed import sharding
from alignjax.objectives import metrics
from alignjax.training import optim
from alignjax.types import Frozen, Mean, TrainState


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """The objective over held-out data, summed exactly and divided once.

    Attributes:
      eval_step: `(params, frozen, batch) -> {name: Mean}`, jitted.
      frozen: as in training; a moving reference is that of the state.
      data: the held-out data.
      batch_size: rows of a batch.
      max_batches: how many batches at most, equally far apart; None is all of them.
      mesh, rules: see `sharding`.
      beat: called with the name of each batch, for the watchdog.
    """

    eval_step: Callable
    frozen: Frozen
    data: dataset.Dataset
    batch_size: int
    max_batches: int | None
    mesh: jax.sharding.Mesh
    rules: Mapping
    beat: Callable[[str], None]

    def __call__(self, step: int, state: TrainState, figures) -> dict[str, float]:
        """Figures of the weights (`eval/`), and of their average (`eval_average/`)."""
        frozen = optim.with_moving_reference(self.frozen, state.extra)
        numbers = {}
        for prefix, params in _weights(state).items():
            batches = self._batches(prefix)
            sums = evaluate(self.eval_step, params, frozen, batches)
            numbers |= self._figures(sums, prefix)
        return numbers

    def check_name(self, name: str, state: TrainState) -> None:
        """Raises ConfigError where evaluations have no figure of this name."""
        frozen = optim.with_moving_reference(self.frozen, state.extra)
        batch = next(self._batches("eval"))
        names = jax.eval_shape(self.eval_step, state.params, frozen, batch)
        sums = {name: Mean(1.0, 1.0) for name in names}
        figures = set()
        for prefix in _weights(state):
            figures |= self._figures(sums, prefix).keys()
        if name not in figures:
            remedy = registry.closest(name, figures)
            raise errors.ConfigError(f"checkpoint.keep_best: no {name!r}; {remedy}")

    def _batches(self, prefix: str) -> Iterator:
        """One pass over the data, or over rows from all of it."""
        size, rows = self.batch_size, self.data.num_rows
        local = sharding.local_rows(size, self.mesh, self.rules)
        count = -(-rows // size)
        if some := self.max_batches is not None and self.max_batches < count:
            count = self.max_batches
        for i in range(count):
            self.beat(f"{prefix} batch {i} of {count}")
            indices = i * size + local
            if some:  # equally far apart, so that each source has its share
                indices = indices * rows // (count * size)
            batch = types.batch(self.data.epoch_rows(indices))
            yield sharding.put_batch(batch, size, self.mesh, self.rules)

    def _figures(self, sums: Mapping[str, Mean], prefix: str) -> dict[str, float]:
        numbers = {f"{prefix}/{name}": x for name, x in figures(sums).items()}
        if nats := numbers.get(f"{prefix}/nll"):
            bits = nats / math.log(2)
            numbers[f"{prefix}/bits_per_byte"] = bits / self.data.bytes_per_token
        return numbers


def _weights(state: TrainState) -> dict[str, types.Params]:
    weights = {"eval": state.params}
    if "average" in state.extra:
        weights["eval_average"] = state.extra["average"]
    return weights


def evaluate(eval_step: Callable, params, frozen, batches: Iterable) -> dict[str, Mean]:
    """The sums of `eval_step`'s means over all `batches`, as float64 Python numbers.

    Batches are dispatched without waiting for the results of earlier ones; sums are
    formed on the host, where float64 keeps them exact for any size of dataset.
    """
    sums: dict[str, Mean] = {}
    unread: dict[str, Mean] = {}
    for batch in batches:
        means = eval_step(params, frozen, batch)
        _add(sums, unread)
        unread = means
    _add(sums, unread)
    return sums


def _add(sums: dict[str, Mean], means: Mapping[str, Mean]) -> None:
    for name, mean in jax.device_get(means).items():
        mean = Mean(float(mean.total), float(mean.weight))
        sums[name] = sums[name] + mean if name in sums else mean


def figures(sums: Mapping[str, Mean]) -> dict[str, float]:
    """The means themselves, and the figures that follow from them (`metrics.derive`).

    Means of nothing are left out, and so are moments, whose names begin with `_`.
    `loss_weight` is the weight of the mean loss: tokens of text, groups of responses.
    """
    means = {k: m.total / m.weight for k, m in sums.items() if m.weight}
    named = {k: x for k, x in means.items() if not k.startswith("_")}
    if "loss" in sums:
        named["loss_weight"] = sums["loss"].weight
    return named | metrics.derive(means)


@dataclasses.dataclass(frozen=True)
class Samples:
    """Text that the model writes while it trains.

    Attributes:
      model: of the policy.
      base: the parameters that are not trained.
      tokenizer: of the completions.
      prompts: as tokens.
      shown: the prompts as they are written before their completions.
      write: `(i, name, text)`, called with each text that follows step `i`.
      beat: called with what begins, for the watchdog.
      options: of `sampling.generate`.
    """

    model: types.Model
    base: types.Params
    tokenizer: object
    prompts: Sequence[list[int]]
    shown: Sequence[str]
    write: Callable[[int, str, str], None]
    beat: Callable[[str], None]
    options: Mapping

    def __call__(self, step: int, state: TrainState, figures) -> None:
        self.beat(f"sample {step - 1}")
        params = trees.merge(state.params, self.base)
        completions = sampling.generate(
            self.model, params, self.tokenizer, self.prompts, **self.options
        )
        for k, completion in enumerate(completions):
            text = self.shown[k] + completion.text
            self.write(step - 1, f"sample-{k}", text)
