# SPDX-License-Identifier: Apache-2.0
r"""Trains what a config describes: builds everything, then the loop.

    python -m alignjax.train --config=configs/pretrain/world.py --workdir=runs/world \
        --config.optimizer.learning_rate=1e-3

`--config.FIELD=VALUE` sets any field of the config, or clears it with `none`; `--print`
explains all of them. The same command again goes on where it stopped. Everything that
can be refused is refused before the first step; `alignjax.errors` has the exit codes.
"""

from __future__ import annotations

import contextlib
import logging
import pathlib
import sys
from collections.abc import Mapping, Sequence

import absl.logging
import jax

from alignjax import checkpoint, cli, errors
from alignjax.distributed import interruption, sharding, watchdog
from alignjax.experiment import (
    build,
    config_file,
    parameters,
    reference,
    schema,
    sections,
)
from alignjax.tracking import writer
from alignjax.training import loop

PROFILED = range(10, 15)  # steps after the start; by then nothing compiles any more


def train(section: Mapping, workdir, *, profile: bool = False) -> int:
    """Trains, or goes on training, in `workdir`; returns its exit code.

    Args:
      section: the whole config; its fields are explained in `configs/base.py`.
      workdir: where checkpoints, metrics, logs and samples go.
      profile: whether to write an XLA trace of some early steps to `workdir/profile`.

    Raises:
      ConfigError, DataError: refused, before the first step.
      CheckpointError: a save or a restore failed.
      NonFinite: see the field `nonfinite` of the config.
    """
    workdir = cli.path(workdir, "workdir")
    run = build.build(section)
    c = run.config
    primary = jax.process_index() == 0
    with contextlib.ExitStack() as stack:
        enter = stack.enter_context
        enter(sharding.use(run.mesh, run.rules))
        interrupted = enter(interruption.Interruption())
        dog = enter(
            watchdog.Watchdog(
                c.watchdog,
                name=f"process {jax.process_index()}",
                path=workdir / "stacks.txt",
            )
        )
        checkpoints = enter(
            checkpoint.Checkpoints(
                workdir,
                config=run.json,
                data_identity=run.identity,
                **vars(c.checkpoint),
            )
        )
        first = parameters.prepare(run)
        abstract = first.abstract
        train_state, resumed = checkpoints.restore_or_init(abstract, first.init)
        if primary:  # not before it is known to be the one that the run began with
            run.tokenizer.save(workdir / "tokenizer")
        log = enter(
            writer.Writer(
                workdir,
                total_steps=c.steps,
                start_step=resumed or 0,
                active=primary,
                settings=run.json,
                **vars(c.log),
            )
        )
        log.say(build.describe(run, resumed))
        for bad, reason in checkpoints.quarantined:
            log.say(f"the checkpoint of step {bad} is broken, moved aside: {reason}")
        trace = enter(_trace(workdir / "profile", resumed or 0, profile))
        if profile and c.steps - (resumed or 0) <= PROFILED.start:
            log.say(f"no trace: it would begin {PROFILED.start} steps after the start")
        if resumed is None and (text := parameters.describe(first)):
            log.say(text)
        frozen = first.frozen()
        run = reference.attach(run, log.say, dog.beat)
        steps = loop.Loop(
            run, abstract, frozen, log, checkpoints, interrupted, dog, trace
        )
        return steps(train_state)


@contextlib.contextmanager
def _trace(directory: pathlib.Path, start: int, wanted: bool):
    """Yields a function of the step that starts and stops a trace at the right ones."""
    running = False

    def at(i: int) -> None:
        nonlocal running
        if wanted and i - start == PROFILED.start:
            jax.profiler.start_trace(str(directory))
            running = True
        elif running and i - start == PROFILED.stop:
            jax.profiler.stop_trace()
            running = False

    yield at
    if running:
        jax.profiler.stop_trace()


def _parser() -> cli.Parser:
    parser = cli.parser("train", __doc__)
    add = parser.add_argument
    config_file.add_option(parser)
    add("--workdir", metavar="DIR", help="where checkpoints, metrics and logs go")
    add("--print", action="store_true", help="explain the config, and do nothing else")
    add("--profile", action="store_true", help="write an XLA trace of some early steps")
    add("--multihost", action="store_true", help="one of several processes")
    add("--coordinator", metavar="HOST:PORT", help="of process 0; found on a pod")
    add("--processes", type=int, metavar="N", help="how many; found on a pod")
    add("--process_id", type=int, metavar="I", help="of this one; found on a pod")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Reads the flags and trains; returns the exit code."""
    # Of others only warnings; and none by Orbax, whose errors come out as exceptions.
    absl.logging.set_verbosity(absl.logging.WARNING)
    logging.getLogger("absl").setLevel(logging.CRITICAL)
    logging.getLogger("alignjax").setLevel(logging.INFO)
    parser = _parser()
    try:
        options, loaded = config_file.parse(parser, arguments)
        if options.print:
            print(schema.page(*loaded))
            return errors.DONE
        if options.workdir is None:
            parser.error("the following arguments are required: --workdir")
        cache = pathlib.Path(loaded.section.get("cache_dir") or sections.CACHE_DIR)
        cli.keep_programs(cache)
        if options.multihost:
            jax.distributed.initialize(
                options.coordinator, options.processes, options.process_id
            )
        return train(loaded.section, options.workdir, profile=options.profile)
    except errors.AlignError as error:
        return _refuse(error.exit_code, f"{type(error).__name__}: {error}")
    except OSError as error:  # a disk that is full, a directory that is not ours
        where = f"{options.workdir} or {cache}"
        message = f"{error}; mend this and start again ({where})"
        return _refuse(errors.CHECKPOINT, message)
    except KeyboardInterrupt:
        return _refuse(errors.INTERRUPTED, "interrupted before the first step")


def _refuse(code: int, message: str) -> int:
    print(message, file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main())
