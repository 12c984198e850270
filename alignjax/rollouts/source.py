# SPDX-License-Identifier: Apache-2.0
"""Rollouts as the loop's source of batches.

Step i is update i mod U of rollout i div U, so the step says everything about where a
run is. A rollout is drawn at its first update and thrown away after its last; runs
stop and are saved between rollouts only.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from typing import NamedTuple

import jax
import numpy as np

from alignjax import errors, trees, types
from alignjax.data import shuffle
from alignjax.distributed import sharding
from alignjax.rollouts import rollout
from alignjax.training import optim
from alignjax.types import Frozen, Sequences, TrainState


class Pretraining(NamedTuple):
    """Text that is learned beside the rollouts: batch i is a function of the seed.

    Attributes:
      rows: indices to fields of `types.Sequences`, of a dataset.
      batch_size: rows of an update.
      coefficient: of the mean over tokens.
    """

    rows: Callable[[np.ndarray], dict]
    batch_size: int
    coefficient: float

    def batch(self, step: int, share: float, mesh, rules) -> tuple[Sequences, int]:
        """The rows of a step, in the units of the rollout's `share`, and their tokens.

        Divided by it their loss is `coefficient` times the mean over their tokens.

        Args:
          share: what the loss of the step's rollout is divided by.
        """
        size = self.batch_size
        # All rows in each process, for the sum of their weights.
        text = types.batch(self.rows(step * size + np.arange(size)))
        scale = self.coefficient * share / max(float(text.weights.sum()), 1.0)
        text = text.replace(weights=(scale * text.weights).astype(np.float32))
        local = sharding.local_rows(size, mesh, rules)
        rows = jax.tree.map(lambda x: x[local], text)
        tokens = int((text.segment_ids != 0).sum())
        return sharding.put_batch(rows, size, mesh, rules), tokens


@dataclasses.dataclass
class Source:
    """`(step, state) -> batch`, on the devices.

    Its time is part of a step's: rates count the rollouts in.

    Attributes:
      rollouts: how they are made.
      frozen: of the step; its reference may move with the state.
      seed: of the order of minibatches.
      pretraining: text that is learned beside the rollouts, or None.
      trunk: whether the critic is a head on the policy's trunk.
      beat: called with what it does, for the watchdog.
      say: called with lines for the log.
    """

    rollouts: rollout.Rollouts
    frozen: Frozen
    seed: int
    pretraining: Pretraining | None = None
    trunk: bool = False
    beat: Callable[[str], None] = lambda name: None
    say: Callable[[str], None] = lambda line: None
    _first_gate: float | None = dataclasses.field(default=None, init=False)
    _number: int = dataclasses.field(default=-1, init=False)
    _batch: object = dataclasses.field(default=None, init=False)
    _parts: list[np.ndarray] = dataclasses.field(default_factory=list, init=False)
    _rows: tuple[list[np.ndarray], int] = dataclasses.field(default=None, init=False)
    _figures: dict = dataclasses.field(default_factory=dict, init=False)
    _tokens: dict = dataclasses.field(default_factory=dict, init=False)

    def __call__(self, step: int, state: TrainState):
        """The minibatch of a step.

        Raises:
          CheckpointError: the run goes on within a rollout, which cannot be drawn any
            more.
          ConfigError: see `Rollouts.gate` and `check_rise`.
        """
        settings = self.rollouts.settings
        number, update = divmod(step, settings.updates)
        if number != self._number:
            if update:
                raise errors.CheckpointError(
                    f"step {step} is within rollout {number}, of {settings.updates} "
                    "updates; go on from a checkpoint between two rollouts"
                )
            self._draw(number, state)
        chosen = self._parts[update]
        order_BP, T = self._rows[0][update], self._rows[1]
        batch = self.rollouts.in_rows(self._batch, order_BP, T)
        share = 0.0
        if self.trunk or self.pretraining is not None:
            share = float(self._batch.share[chosen].sum())
        if self.pretraining is not None and not share:
            # No response of these weighs anything; the text is divided all the same.
            share, each = 1.0, np.float32(1 / self._batch.share[chosen].size)
            batch = batch.replace(share=np.full_like(batch.share, each))
        if self.trunk:
            actions = self._batch.then.action & (self._batch.token > 0)
            scale = share / max(int(actions[chosen].sum()), 1)
            figures = {"value_scale": np.full(len(batch.share), scale, np.float32)}
            batch = batch.replace(figures=batch.figures | figures)
        mesh, rules = self.rollouts.sampler.mesh, self.rollouts.sampler.rules
        count = int((batch.sequences.segment_ids != 0).sum())
        local = sharding.local_rows(len(order_BP), mesh, rules)
        batch = jax.tree.map(lambda x: x[local], batch)
        batch = sharding.put_batch(batch, len(order_BP), mesh, rules)
        if self.pretraining is not None:
            text, more = self.pretraining.batch(step, share, mesh, rules)
            batch, count = batch.replace(pretraining=text), count + more
        self._tokens = {step - 1: self._tokens.get(step - 1), step: count}
        return batch

    def figures(self, step: int) -> dict[str, float]:
        """Those of the rollout, with its first update; else none."""
        number, update = divmod(step, self.rollouts.settings.updates)
        return {} if update else self._figures.get(number, {})

    def tokens(self, step: int) -> int:
        """Positions of a step's batch without padding; of the last two batches."""
        return self._tokens[step]

    def models(self, state: TrainState) -> rollout.Models:
        """The parameters that the next rollout is drawn and measured with."""
        frozen = optim.with_moving_reference(self.frozen, state.extra)
        policy = trees.merge(state.params, frozen.base)
        critic = state.extra.get("critic")
        critic = None if critic is None else critic["params"]
        if self.trunk:
            critic = trees.merge(policy, critic)
        return rollout.Models(policy, frozen.reference, critic)

    def _draw(self, number: int, state: TrainState) -> None:
        jax.block_until_ready(state.params)  # the update before is not in its seconds
        start = time.perf_counter()
        coefficient = self.rollouts.settings.kl.coefficient
        if "kl_coefficient" in state.extra:
            coefficient = float(state.extra["kl_coefficient"])
        batch, figures, lines = self.rollouts.make(
            number,
            self.models(state),
            coefficient,
            self.beat,
            # As numbers, so that nothing is compiled for the devices of the mesh.
            {name: np.float32(x) for name, x in state.extra.get("running", {}).items()},
        )
        for line in lines:
            self.say(f"rollout {number}: {line}")
        if self._first_gate is None:
            self._first_gate = figures["gate/mean"]
        self.rollouts.check_rise(self._first_gate, figures["gate/mean"])
        if not self.rollouts.pairs:  # their losses have no penalty
            figures["kl/coefficient"] = coefficient
        figures["seconds"] = time.perf_counter() - start
        # The step before is reported when the next rollout is there already.
        self._figures = {
            number - 1: self._figures.get(number - 1, {}),
            number: {f"rollout/{name}": x for name, x in figures.items()},
        }
        self._number, self._batch, self._parts = number, batch, self._order(number)
        mesh, rules = self.rollouts.sampler.mesh, self.rollouts.sampler.rules
        multiple = sharding.batch_divisor(mesh, rules) * self.rollouts.microbatches
        # Of all updates together, so that they are of one shape.
        self._rows = self.rollouts.rows(batch, self._parts, multiple)

    def _order(self, number: int) -> list[np.ndarray]:
        """The groups of each update of a rollout."""
        count, parts = self.rollouts.size, []
        for epoch in range(self.rollouts.settings.epochs):
            key = shuffle.key(self.seed, "minibatches", number, epoch)
            order = shuffle.permute(np.arange(count), count, key)
            parts += list(order.reshape(-1, self.rollouts.batch_size))
        return parts
