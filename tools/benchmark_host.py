# SPDX-License-Identifier: Apache-2.0
r"""Times what the host does between two steps of training, beside dispatching them.

    python tools/benchmark_host.py --config=configs/pretrain/world.py

Trains a config as `alignjax train` does, with its batches, prefetch, metrics, log and
watchdog, but each step is a program that computes nothing, with the arguments and the
metrics of the real one, and a pause after it, as of a device at work, in which the
prefetch goes on. `host` is from the end of a pause to the next call and `dispatch` the
call: medians, on the wall and of the processor's time, which neighbours on a busy
machine change less. On a device both are hidden behind the step that is running, as
long as they are shorter than it. Nothing is evaluated, sampled or saved, and the first
steps do not count.
"""

from __future__ import annotations

import pathlib
import sys
import tempfile
import time
from collections.abc import Callable

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

import jax
import jax.numpy as jnp
import numpy as np

from alignjax import cli, errors, train
from alignjax.experiment import config_file, running
from tools import timing

WARM = 50  # steps that do not count
NEVER = ("evaluation.every", "sample.every")


class IdleStep:
    """A train step that computes nothing and waits; keeps when it was called.

    Attributes:
      times: of each call, at its begin, its end, and the end of the pause, `_now()`.
    """

    def __init__(self, real: Callable, pause: float):
        self.pause, self.times = pause, []

        def nothing(state, frozen, batch, key):
            _, metrics = jax.eval_shape(real, state, frozen, batch, key)
            zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), metrics)
            return state.replace(step=state.step + 1), zeros

        self._step = jax.jit(nothing, donate_argnums=0)

    def __call__(self, *arguments):
        begin = _now()
        result = self._step(*arguments)
        end = _now()
        time.sleep(self.pause)
        self.times.append((begin, end, _now()))
        return result


def _now() -> tuple[float, float]:
    """Seconds on the wall, and of the processor for this thread."""
    return time.perf_counter(), time.thread_time()


def measure(section: dict, steps: int, pause: float) -> dict[str, dict[str, float]]:
    """Medians over `steps` steps, by what they are of: milliseconds on the wall and of
    the processor."""
    total = str(WARM + steps)
    flags = [("steps", total), ("checkpoint.every", total)]
    flags += [(name, "none") for name in NEVER]
    section = config_file.override(section, flags).section
    real_step, idle_steps = running.train_step, []

    def train_step(run):
        idle_steps.append(IdleStep(real_step(run), pause))
        return idle_steps[0]

    running.train_step = train_step
    try:
        with tempfile.TemporaryDirectory() as folder:
            train.train(section, folder)
    finally:
        running.train_step = real_step
    begin, end, done = np.array(idle_steps[0].times)[WARM - 1 :].swapaxes(0, 1)
    spans = {"host": begin[1:] - done[:-1], "dispatch": (end - begin)[1:]}
    medians = {name: 1e3 * np.median(span, axis=0) for name, span in spans.items()}
    return {
        name: {"wall_ms": float(wall), "processor_ms": float(processor)}
        for name, (wall, processor) in medians.items()
    }


def main() -> int:
    parser = cli.parser("benchmark_host", __doc__)
    config_file.add_option(parser)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--pause-ms", type=float, default=50.0, help="(%(default)s)")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options, loaded = config_file.parse(parser, sys.argv[1:])
    if options.steps < 1 or options.pause_ms < 0:
        parser.error("--steps must be at least 1, and --pause-ms at least 0")
    report = measure(loaded.section, options.steps, options.pause_ms / 1e3)
    timing.show(report, options.json)
    return errors.DONE


if __name__ == "__main__":
    sys.exit(cli.exit_code(main))
