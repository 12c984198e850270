# SPDX-License-Identifier: Apache-2.0
r"""Trains what a config describes: builds everything, then the loop.

    alignjax train --config=configs/pretrain/world.py --workdir=runs/world \
        --config.optimizer.learning_rate=1e-3

`--config.FIELD=VALUE` sets any field of the config, or clears it with `none`; `--print`
explains all of them. The same command again goes on where it stopped. Everything that
can be refused is refused before the first step; `alignjax.errors` has the exit codes.
"""

from __future__ import annotations

import contextlib
import logging
import sys
from collections.abc import Mapping, Sequence

import absl.logging
import jax

from alignjax import checkpoint, cli, errors
from alignjax.distributed import lifecycle, sharding
from alignjax.experiment import (
    build,
    config_file,
    feed,
    reference,
    running,
    schema,
    sections,
)
from alignjax.plan import program
from alignjax.tracking import journal, writer
from alignjax.training import loop


def train(
    section: Mapping,
    workdir,
    *,
    profile: bool = False,
    network: bool = False,
    notes: Sequence[str] = (),
) -> int:
    """Trains, or goes on training, in `workdir`; returns its exit code.

    Args:
      section: the whole config, whose fields `--print` explains.
      workdir: where checkpoints, metrics, logs and samples go.
      network: whether the runs that it starts from may be fetched.
      profile: whether to write an XLA trace of some early steps to `workdir/profile`.
      notes: lines for the log, which were printed before.

    Raises:
      ConfigError, DataError: refused, before the first step.
      CheckpointError: a save or a restore failed.
      NonFinite: see the field `nonfinite` of the config.
    """
    workdir = cli.path(workdir, "workdir")
    run = build.build(section, network=network)
    c, weights, process = run.config, run.weights, jax.process_index()
    with contextlib.ExitStack() as stack:
        enter = stack.enter_context
        enter(sharding.use(run.mesh, run.rules))
        interruption = enter(lifecycle.Interruption())
        watchdog = lifecycle.Watchdog(
            c.watchdog, name=f"process {process}", path=workdir / "stacks.txt"
        )
        enter(watchdog)
        checkpoints = checkpoint.Checkpoints(
            workdir,
            config=run.json,
            data_identity=run.identity,
            complete=sections.with_defaults,
            **vars(c.checkpoint),
        )
        enter(checkpoints)
        state, resumed = checkpoints.restore_or_init(weights.abstract, weights.state)
        start = resumed or 0
        if process == 0:  # not before the workdir is known to be of this run
            run.tokenizer.save(workdir / "tokenizer")
        log = writer.Writer(
            workdir,
            total_steps=c.steps,
            start_step=start,
            active=process == 0,
            settings=run.json,
            **vars(c.log),
        )
        enter(log)  # which drops broken lines of the metrics
        last = journal.record_of(workdir / "metrics.jsonl", start - 1)
        for note in [*notes, *checkpoints.notes]:
            log.note(note)
        log.say(running.describe(run, resumed))
        for bad, reason in checkpoints.quarantined:
            log.say(f"the checkpoint of step {bad} is broken, moved aside: {reason}")
        if resumed is None and (text := weights.describe()):
            log.say(text)
        if note := running.rate_note(run, state, last):
            log.say(note)
        trace = enter(running.profiler(workdir / "profile", start, profile))
        if profile and c.steps - start <= (first := running.PROFILED.start):
            log.say(f"no trace: it would begin {first} steps after the start")

        frozen, meter = weights.frozen(), running.meter(run)
        own = feed.of(
            run,
            state,
            frozen,
            start=start,
            resumed=resumed is not None,
            last=last,
            log=log,
            beat=watchdog.beat,
        )
        hooks = running.samples(run, frozen.base, log, watchdog.beat)
        policy = loop.NonFinitePolicy(c.nonfinite, c.max_skipped, own.describe, log.say)

        train_step, key = running.train_step(run), jax.random.key(c.seed + 1)
        if profile:
            batch = own.first(state)
            compiled = train_step.lower(state, frozen, batch, key).compile()
            if process == 0:  # what `alignjax profile` reads the trace by
                kind = jax.devices()[0].device_kind
                path = workdir / "profile" / program.FILE
                path.parent.mkdir(exist_ok=True)
                program.write(path, compiled.as_text(), kind)

        def before_step(i: int) -> None:
            watchdog.beat(f"step {i}")
            trace(i)

        def report(i: int, metrics: dict[str, float]) -> None:
            metrics = {**metrics, **own.numbers(i)}
            if i == 0 and own.loss is not None:
                metrics["loss/at_reference"] = own.loss
            log.write(i, metrics)
            if "loss/at_reference" in metrics:
                reference.check_first_step(own.loss, metrics["loss"])
            policy.check(i, metrics)
            checkpoints.check()

        def may_stop(i: int) -> bool:  # asked at every step, by all processes
            return interruption.requested(i) and (i + 1) % own.whole == 0

        def save(steps: int, state, figures: Mapping[str, float]) -> None:
            log.sync()  # no step before a checkpoint may be missing from the metrics
            watchdog.beat(f"save {steps}")
            checkpoints.maybe_save(steps, state, metrics=figures, force=True)

        hooks.append(loop.Hook(save, c.checkpoint.every, at_end=True, at_stop=True))
        state, steps = loop.run(
            state,
            frozen,
            key,
            steps=c.steps,
            batches=enter(own.batches),
            train_step=train_step,
            tokens=own.tokens,
            tokens_before=int(last.get("tokens", own.tokens_before)),
            meter=meter,
            before_step=before_step,
            report=report,
            stop_after=may_stop,
            evaluations=own.evaluations,
            hooks=hooks,
        )
        checkpoints.wait()
        if steps == c.steps:
            return errors.DONE
        log.say(f"asked to stop: saved step {steps} of {c.steps}")
        return interruption.exit_code


def _run(arguments: Sequence[str] | None) -> int:
    """Does what the flags say; returns the exit code."""
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
    options, loaded = config_file.parse(parser, arguments)
    if options.print:
        print(schema.page(loaded.section, loaded.origins, network=options.network))
        return errors.DONE
    if options.workdir is None:
        parser.error("the following arguments are required: --workdir")
    problems = [
        f"{name}: {value} has no effect without --multihost; give that too"
        for name in ("coordinator", "processes", "process_id")
        if (value := getattr(options, name)) is not None and not options.multihost
    ]
    if problems:  # each process would train alone, in one workdir
        raise errors.ConfigError(problems)
    cache = loaded.section.get("cache_dir") or cli.CACHE_DIR
    try:
        cli.keep_programs(cache)
        if options.multihost:
            jax.distributed.initialize(
                options.coordinator, options.processes, options.process_id
            )
        flags = dict(profile=options.profile, network=options.network)
        return train(loaded.section, options.workdir, notes=loaded.notes, **flags)
    except BrokenPipeError:
        raise
    except OSError as error:  # a disk that is full, a directory that is not ours
        raise errors.CheckpointError(
            f"{error}; mend this and start again ({options.workdir} or {cache})"
        ) from error


def main(arguments: Sequence[str] | None = None) -> int:
    """Reads the flags and trains; returns the exit code."""
    # Of others only warnings; and none by Orbax, whose errors come out as exceptions.
    absl.logging.set_verbosity(absl.logging.WARNING)
    logging.getLogger("absl").setLevel(logging.CRITICAL)
    logging.getLogger("alignjax").setLevel(logging.INFO)
    return cli.exit_code(lambda: _run(arguments))


if __name__ == "__main__":
    sys.exit(main())
