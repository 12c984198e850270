# SPDX-License-Identifier: Apache-2.0
"""What the loop is fed: batches of a dataset or of rollouts, and words about them."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from alignjax.experiment import critic as critics
from alignjax.experiment import reference, rollouts, running
from alignjax.experiment.build import Experiment
from alignjax.rollouts import rollout, source
from alignjax.tracking import writer
from alignjax.training import loop
from alignjax.types import Frozen, TrainState


class Feed(NamedTuple):
    """What the loop takes batches from.

    Attributes:
      batches: a context that gives the batch source.
      first: `(state)` to the batch of the first step.
      loss: that step 0 must have, or None where it cannot be known.
      tokens: `(i)`, of the batch of step i: positions of rows of a dataset; of rollouts
        and the text beside them those that are no padding.
      tokens_before: those of the steps before `start` at most, where no record is left.
      numbers: `(i)`, further metrics of step i, called in order.
      describe: `(i)`, the batch of step i in words.
      evaluations: hooks.
      whole: steps between which the run may stop: whole rollouts.
    """

    batches: contextlib.AbstractContextManager
    first: Callable[[TrainState], Any]
    loss: float | None
    tokens: Callable[[int], int]
    tokens_before: int
    numbers: Callable[[int], Mapping[str, float]]
    describe: Callable[[int], str]
    evaluations: list[loop.Hook]
    whole: int = 1


def of(
    run: Experiment,
    state: TrainState,
    frozen: Frozen,
    *,
    start: int,
    resumed: bool,
    last: Mapping[str, float],
    log: writer.Writer,
    beat: Callable[[str], None],
) -> Feed:
    """The feed of an experiment that goes on at step `start`.

    Args:
      state, frozen: as of that step.
      resumed: whether it goes on from a checkpoint.
      last: the metrics of the step before.
      log: for lines.
      beat: called with what was done, for the watchdog.
    """
    if run.rollouts is not None:
        return _online(run, frozen, start, log=log, beat=beat)
    c, data = run.config, {"train": run.train, "validation": run.validation}
    if run.store is not None:
        data = reference.attach(run.store, data, log.say, beat)
    batch = loop.row_batches(data["train"].rows, c.batch_size, run.mesh, run.rules)
    first_loss = None
    if not resumed:
        first_loss = reference.first_loss(
            run.objective, run.weights, state.params, frozen.base, batch(0), log.say
        )
    positions = running.tokens_per_step(run)
    return Feed(
        loop.prefetched(batch, start=start, steps=c.steps, depth=c.prefetch),
        first=lambda state: batch(start),
        loss=first_loss,
        tokens=lambda i: positions,
        tokens_before=start * positions,
        numbers=running.seen(run, start, last),
        describe=functools.partial(
            loop.describe_batch, run.train.describe, c.batch_size
        ),
        evaluations=running.evaluations(run, data["validation"], frozen, state, beat),
    )


def _online(run: Experiment, frozen: Frozen, start: int, *, log, beat) -> Feed:
    c, s = run.config, run.config.rollouts
    batches = source.Source(
        run.rollouts,
        frozen,
        c.seed,
        rollouts.text_of(c, run.pretraining),
        critics.on_trunk(c),
        beat=beat,
        say=log.say,
    )

    def numbers(i: int) -> dict[str, float]:
        seen = (i // s.updates + 1) * run.rollouts.size * s.samples
        return {"responses": seen, **batches.figures(i)}

    def describe(i: int) -> str:
        count = run.rollouts.size * (1 + s.redraws)
        first = i // s.updates * count
        return f"the batch was of prompts {first} to {first + count - 1}"

    # As many as if all responses were as long as may be: `tokens` never runs backwards.
    most = c.batch_size * run.rollouts.example().sequences.inputs.size
    most += 0 if c.ptx is None else c.ptx.batch_size * c.length
    hooks = []
    if run.evaluations is not None:
        call = Evaluation(run.evaluations, batches, beat)
        hooks.append(loop.Hook(call, c.evaluation.every, at_end=True))
    return Feed(
        contextlib.nullcontext(batches),
        first=lambda state: batches(int(state.step), state),
        loss=None,
        tokens=batches.tokens,
        tokens_before=start * most,
        numbers=numbers,
        describe=describe,
        evaluations=hooks,
        whole=s.updates,
    )


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """Rewards of responses to held-out prompts; no step, and no loss."""

    rollouts: rollout.Rollouts
    source: source.Source
    beat: Callable[[str], None]

    def __call__(self, step: int, state: TrainState, figures) -> dict[str, float]:
        """Figures by name, from `eval/reward` on."""
        numbers, lines = self.rollouts.evaluate(self.source.models(state), self.beat)
        for line in lines:
            self.source.say(f"evaluation at step {step}: {line}")
        return {f"eval/{name}": value for name, value in numbers.items()}
