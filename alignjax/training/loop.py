# SPDX-License-Identifier: Apache-2.0
"""The loop over steps: batches in, metrics out, hooks in between.

It knows neither data nor models nor checkpoints: a batch source gives the batch of a
step, a jitted function is the step, and hooks do all that happens between two steps.
No device value is read in the step that made it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax

from alignjax import errors, types
from alignjax.data import loader
from alignjax.distributed import sharding
from alignjax.tracking import throughput
from alignjax.types import Frozen, TrainState

# The batch of a step, of which a source may also need the state, as rollouts do.
BatchSource = Callable[[int, TrainState], Any]


class Hook(NamedTuple):
    """What the loop calls after some steps, once they are done on the devices.

    Attributes:
      call: `(step, state, figures) -> {name: number} or None`. `step` counts the steps
        done, `figures` are those of the evaluations after this step.
      every: steps between calls; None is never.
      at_end: whether it is also called after the last step.
      at_stop: whether it is also called where the run was asked to stop.
    """

    call: Callable[[int, TrainState, Mapping[str, float]], Mapping[str, float] | None]
    every: int | None = None
    at_end: bool = False
    at_stop: bool = False

    def due(self, step: int, end: bool, stop: bool) -> bool:
        """Whether to call it after `step` steps, the last one or not."""
        every = self.every is not None and step % self.every == 0
        return every or (end and self.at_end) or (stop and self.at_stop)


def run(
    state: TrainState,
    frozen: Frozen,
    key: jax.Array,
    *,
    steps: int,
    batches: BatchSource,
    train_step: Callable,
    tokens: Callable[[int], int],
    tokens_before: int = 0,
    meter: throughput.Meter,
    before_step: Callable[[int], None],
    report: Callable[[int, dict[str, float]], None],
    stop_after: Callable[[int], bool],
    evaluations: Sequence[Hook] = (),
    hooks: Sequence[Hook] = (),
) -> tuple[TrainState, int]:
    """Steps from that of `state` until `steps` are done, or until asked to stop.

    Args:
      state: as of the first step; donated.
      frozen, key: arguments of every step.
      steps: of the whole run.
      batches: the batch source.
      train_step: `(state, frozen, batch, key) -> (state, metrics)`, jitted.
      tokens: `(i)`, of the batch of step i, for the metric `tokens` and for rates;
        called once for each step, in order.
      tokens_before: those of the steps before the first one.
      meter: measures rates, without the time of hooks.
      before_step: `(i)`, called before the batch of step `i` is read.
      report: `(i, numbers)`, called once for each step `i`, in order, with its metrics
        and the figures of `evaluations`; it may raise to end the run.
      stop_after: `(i)`, whether to end the run after step `i`.
      evaluations: hooks whose figures are reported with the step.
      hooks: called when the step has been reported.

    Returns:
      The state and the number of steps done.
    """

    def record(i: int, metrics, figures: Mapping[str, float]) -> None:
        for x in metrics.values():  # all are under way before the first is waited for
            x.copy_to_host_async()
        numbers = {name: float(x) for name, x in metrics.items()}
        nonlocal seen
        count = tokens(i)
        seen += count
        rates = meter.step(count)
        report(i, {**numbers, "tokens": seen, **rates, **figures})

    seen = tokens_before
    unread = None  # metrics of the step before: reading them any sooner would stall
    first = int(state.step)
    for i in range(first, steps):
        before_step(i)
        state, metrics = train_step(state, frozen, batches(i, state), key)
        if unread is not None:
            record(i - 1, unread, {})
        unread = metrics
        end = i + 1 == steps
        stop = stop_after(i) or end
        due_evaluations = [hook for hook in evaluations if hook.due(i + 1, end, stop)]
        due_hooks = [hook for hook in hooks if hook.due(i + 1, end, stop)]
        if not (stop or due_evaluations or due_hooks):
            continue
        jax.block_until_ready(unread)  # the step's own time ends here
        figures: dict[str, float] = {}
        with meter.pause():
            for hook in due_evaluations:
                figures.update(hook.call(i + 1, state, figures) or {})
        record(i, unread, figures)
        unread = None
        with meter.pause():
            for hook in due_hooks:
                hook.call(i + 1, state, figures)
        if stop:
            return state, i + 1
    return state, steps


def row_batches(rows: Callable, batch_size: int, mesh, rules) -> Callable[[int], Any]:
    """`(step) -> batch` of the rows of a dataset (`Dataset.rows`), from step 0 on.

    Each process reads the rows that its devices hold.
    """
    local = sharding.local_rows(batch_size, mesh, rules)

    def batch(i: int):
        rows_of_step = types.batch(rows(i * batch_size + local))
        return sharding.put_batch(rows_of_step, batch_size, mesh, rules)

    return batch


@contextlib.contextmanager
def prefetched(
    batch: Callable[[int], Any], *, start: int, steps: int, depth: int
) -> Iterator[BatchSource]:
    """A batch source of `batch`, `(step) -> batch`, from `start` on and in order.

    Threads read and copy `depth` batches ahead to the devices; with 0 nothing is ahead.
    """
    with contextlib.closing(loader.prefetch(batch, start, steps, depth)) as batches:
        yield lambda step, state: next(batches)


def describe_batch(describe_row: Callable, batch_size: int, i: int) -> str:
    """The first rows of the batch of step `i` in words; see `Dataset.describe`."""
    first, count = i * batch_size, min(batch_size, 4)
    rows = "; ".join(describe_row(first + k) for k in range(count))
    more = f" and {batch_size - 4} more rows" if batch_size > 4 else ""
    return f"the batch was {rows}{more}"


@dataclasses.dataclass
class NonFinitePolicy:
    """What becomes of a run whose step left out an update that was not finite.

    Attributes:
      action: `stop` ends the run, `skip` goes on.
      max_skipped: how many steps in a row may be skipped.
      describe: `(i)`, the rows of step `i` in words.
      log: called with a line about each step that is skipped.
    """

    action: str
    max_skipped: int
    describe: Callable[[int], str]
    log: Callable[[str], None]
    in_a_row: int = dataclasses.field(default=0, init=False)

    def check(self, i: int, metrics: Mapping[str, float]) -> None:
        """Looks at the metrics of step `i`. Raises NonFinite where the run must end."""
        self.in_a_row = self.in_a_row + 1 if metrics["skipped"] else 0
        if not self.in_a_row:
            return
        bad = [f"{k} = {x}" for k, x in metrics.items() if not math.isfinite(x)]
        line = f"step {i}: {', '.join(bad)}, not finite; {self.describe(i)}"
        if self.action == "skip" and self.in_a_row < self.max_skipped:
            self.log(f"{line}; the update was left out")
            return
        remedy = "lower optimizer.learning_rate, or say nonfinite='skip'"
        if self.action == "skip":
            remedy = f"that is {self.in_a_row} in a row (max_skipped)"
        raise errors.NonFinite(f"{line}; {remedy}. Checkpoints up to here are sound")
