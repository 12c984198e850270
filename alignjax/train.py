# SPDX-License-Identifier: Apache-2.0
r"""Trains what a config describes: builds everything, then the loop.

    python -m alignjax.train --config=configs/pretrain/world.py --workdir=runs/world \
        --config.optimizer.learning_rate=1e-3

The same command again goes on where it stopped. Everything that can be refused is
refused before the first step; `alignjax.errors` says how a run ended.
"""

from __future__ import annotations

import contextlib
import logging
import pathlib
import re
import sys
from collections.abc import Mapping

import absl.logging
import jax
from absl import app, flags
from ml_collections import config_flags

from alignjax import checkpoint, cli, errors
from alignjax.distributed import interruption, sharding, watchdog
from alignjax.experiment import build, parameters, reference, sections
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


FLAGS = flags.FLAGS


def define_config_flag() -> None:
    """Defines `--config` and with it a flag for every field of the file."""
    config_flags.DEFINE_config_file(
        "config", None, "a file of configs/", lock_config=True
    )
    flags.mark_flag_as_required("config")


def _define_flags() -> None:
    define_config_flag()
    flags.DEFINE_string("workdir", None, "where checkpoints, metrics and logs go")
    flags.DEFINE_bool("profile", False, "write an XLA trace of some early steps")
    flags.DEFINE_bool("multihost", False, "one of several processes, started alike")
    flags.DEFINE_string("coordinator", None, "host:port of process 0; found on a pod")
    flags.DEFINE_integer("processes", None, "how many there are; found on a pod")
    flags.DEFINE_integer("process_id", None, "which one this is; found on a pod")
    flags.mark_flag_as_required("workdir")


def parse(argv: list[str]) -> list[str]:
    """Sets `FLAGS`; what is no flag is left. Exits with CONFIG where one cannot be."""
    try:
        rest = FLAGS(argv)
        FLAGS.config.keys()  # a file that is not there is told of at its first use
    except (flags.Error, OSError) as error:
        early = "before a value for --config was specified" in str(error)
        remedy = "; give --config before the fields that change it" if early else ""
        _end(errors.CONFIG, f"{error}{remedy}")
    except (AttributeError, KeyError, TypeError) as error:
        # How an override of a field that the file has not comes out of the parser.
        text = str(error).replace("\\n", "; ").replace("\\", "").replace("'", "")
        words = set(re.findall(r"\w+", text))
        for flag in argv:
            root, *path = flag.lstrip("-").partition("=")[0].split(".")
            if root == "config" and words.intersection(path):
                _end(errors.CONFIG, f"{flag}: the config has no such field: {text}")
        raise
    return rest


def main(argv) -> None:
    """Reads the flags, trains, and exits with its exit code."""
    if len(argv) > 1:
        _end(errors.CONFIG, f"no such argument: {argv[1:]}; flags are --name=value")
    # Of others only warnings; and none by Orbax, whose errors come out as exceptions.
    absl.logging.set_verbosity(absl.logging.WARNING)
    logging.getLogger("absl").setLevel(logging.CRITICAL)
    logging.getLogger("alignjax").setLevel(logging.INFO)
    section = FLAGS.config
    cache = section.get("cache_dir") or sections.CACHE_DIR
    cache = pathlib.Path(cache).expanduser()
    cli.keep_programs(cache)
    if FLAGS.multihost:
        jax.distributed.initialize(FLAGS.coordinator, FLAGS.processes, FLAGS.process_id)
    try:
        code = train(section, FLAGS.workdir, profile=FLAGS.profile)
    except errors.AlignError as error:
        _end(error.exit_code, f"{type(error).__name__}: {error}")
    except OSError as error:  # a disk that is full, a directory that is not ours
        where = f"{FLAGS.workdir} or {cache}"
        _end(errors.CHECKPOINT, f"{error}; mend this and start again ({where})")
    except KeyboardInterrupt:
        _end(errors.INTERRUPTED, "interrupted before the first step")
    sys.exit(code)


def _end(code: int, message: str):
    print(message, file=sys.stderr)
    sys.exit(code)


if __name__ == "__main__":
    _define_flags()
    app.run(main, flags_parser=parse)
