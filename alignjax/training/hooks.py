# SPDX-License-Identifier: Apache-2.0
"""What the loop does between steps: evaluation, samples, checkpoints."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence

import jax

from alignjax import errors, registry, sampling, trees, types
from alignjax.data import dataset
from alignjax.distributed import sharding
from alignjax.training import evaluate, optim
from alignjax.types import Frozen, TrainState


class Evaluation:
    """The objective over held-out data: a hook's `call`.

    Args:
      eval_step: `(params, frozen, batch) -> {name: Mean}`, jitted.
      frozen: as in training; a moving reference is that of the state.
      data: the held-out data.
      max_batches: how many batches at most, equally far apart; None is all of them.
      beat: called with the name of each batch, for the watchdog.
    """

    def __init__(
        self,
        eval_step: Callable,
        frozen: Frozen,
        data: dataset.Dataset,
        *,
        batch_size: int,
        max_batches: int | None,
        mesh,
        rules: Mapping,
        beat: Callable[[str], None],
    ):
        self._eval_step, self._frozen, self._data = eval_step, frozen, data
        self._batch_size, self._max_batches = batch_size, max_batches
        self._mesh, self._rules, self._beat = mesh, rules, beat

    def __call__(self, step: int, state: TrainState, figures) -> dict[str, float]:
        """Figures of the weights (`eval/`), and of their average (`eval_average/`)."""
        frozen = optim.with_moving_reference(self._frozen, state.extra)
        numbers = {}
        for prefix, params in _weights(state).items():
            batches = self._batches(prefix)
            means = evaluate.evaluate(self._eval_step, params, frozen, batches)
            numbers |= self._figures(means, prefix)
        return numbers

    def check_name(self, name: str, state: TrainState) -> None:
        """Raises ConfigError where evaluations have no figure of this name."""
        frozen = optim.with_moving_reference(self._frozen, state.extra)
        batch = next(self._batches("eval"))
        names = jax.eval_shape(self._eval_step, state.params, frozen, batch)
        means = {name: types.Mean(1.0, 1.0) for name in names}
        figures = {}
        for prefix in _weights(state):
            figures |= self._figures(means, prefix)
        if name not in figures:
            remedy = registry.closest(name, figures)
            raise errors.ConfigError(f"checkpoint.keep_best: no {name!r}; {remedy}")

    def _batches(self, prefix: str) -> Iterator:
        """One pass over the data, or over rows from all of it."""
        size, rows = self._batch_size, self._data.num_rows
        local = sharding.local_rows(size, self._mesh, self._rules)
        count = -(-rows // size)
        if some := self._max_batches is not None and self._max_batches < count:
            count = self._max_batches
        for i in range(count):
            self._beat(f"{prefix} batch {i} of {count}")
            indices = i * size + local
            if some:  # equally far apart, so that each source has its share
                indices = indices * rows // (count * size)
            batch = types.batch(self._data.epoch_rows(indices))
            yield sharding.put_batch(batch, size, self._mesh, self._rules)

    def _figures(self, means: Mapping[str, types.Mean], prefix: str):
        figures = evaluate.figures(means)
        figures = {f"{prefix}/{name}": x for name, x in figures.items()}
        if nats := figures.get(f"{prefix}/nll"):
            bits = nats / math.log(2)
            bytes_per_token = self._data.bytes_per_token
            figures[f"{prefix}/bits_per_byte"] = bits / bytes_per_token
        return figures


def _weights(state: TrainState) -> dict[str, types.Params]:
    weights = {"eval": state.params}
    if "average" in state.extra:
        weights["eval_average"] = state.extra["average"]
    return weights


class Samples:
    """Text that the model writes while it trains: a hook's `call`.

    Args:
      base: the parameters that are not trained.
      prompts: as tokens.
      shown: the prompts as they are written before their completions.
      write: `(i, name, text)`, given each text that follows step `i`.
      beat: called with what begins, for the watchdog.
      options: of `sampling.generate`.
    """

    def __init__(
        self,
        model: types.Model,
        base: types.Params,
        tokenizer,
        prompts: Sequence[list[int]],
        *,
        shown: Sequence[str],
        write: Callable[[int, str, str], None],
        beat: Callable[[str], None],
        **options,
    ):
        self._model, self._base, self._tokenizer = model, base, tokenizer
        self._prompts, self._shown, self._options = prompts, shown, options
        self._write, self._beat = write, beat

    def __call__(self, step: int, state: TrainState, figures) -> None:
        self._beat(f"sample {step - 1}")
        params = trees.merge(state.params, self._base)
        completions = sampling.generate(
            self._model, params, self._tokenizer, self._prompts, **self._options
        )
        pairs = zip(self._shown, completions, strict=True)
        for k, (prompt, completion) in enumerate(pairs):
            self._write(step - 1, f"sample-{k}", prompt + completion.text)
