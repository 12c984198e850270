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
import functools
import logging
import pathlib
import sys
from collections.abc import Mapping, Sequence

import absl.logging
import jax

from alignjax import checkpoint, cli, errors
from alignjax.distributed import lifecycle, sharding
from alignjax.experiment import build, config_file, reference, schema, sections
from alignjax.models import decoder
from alignjax.tracking import throughput, writer
from alignjax.training import hooks as training_hooks
from alignjax.training import loop, optim, step
from alignjax.training import state as training_state

PROFILED = range(10, 15)  # steps after the start; by then nothing compiles any more


def train(
    section: Mapping, workdir, *, profile: bool = False, network: bool = False
) -> int:
    """Trains, or goes on training, in `workdir`; returns its exit code.

    Args:
      section: the whole config, whose fields `--print` explains.
      workdir: where checkpoints, metrics, logs and samples go.
      network: whether the runs that it starts from may be fetched.
      profile: whether to write an XLA trace of some early steps to `workdir/profile`.

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
        enter(log)
        log.say(build.describe(run, resumed))
        for bad, reason in checkpoints.quarantined:
            log.say(f"the checkpoint of step {bad} is broken, moved aside: {reason}")
        if resumed is None and (text := weights.describe()):
            log.say(text)
        trace = enter(_trace(workdir / "profile", start, profile))
        if profile and c.steps - start <= PROFILED.start:
            log.say(f"no trace: it would begin {PROFILED.start} steps after the start")

        data = {"train": run.train, "validation": run.validation}
        if run.store is not None:
            read, beat = weights.reference_params, watchdog.beat
            data = reference.attach(run.store, data, read, log.say, beat)
        frozen = weights.frozen()

        evaluations, hooks = _hooks(
            run, data["validation"], frozen, state, log, watchdog
        )
        batch = loop.row_batches(data["train"].rows, c.batch_size, run.mesh, run.rules)
        first_loss = None
        if resumed is None:
            first_loss = reference.first_loss(
                run.objective, weights, state.params, frozen.base, batch(0), log.say
            )
        batches = loop.prefetched(batch, start=start, steps=c.steps, depth=c.prefetch)
        rows = functools.partial(loop.describe_batch, run.train.describe, c.batch_size)
        policy = loop.NonFinitePolicy(c.nonfinite, c.max_skipped, rows, log.say)

        def before_step(i: int) -> None:
            watchdog.beat(f"step {i}")
            trace(i)

        def report(i: int, metrics: dict[str, float]) -> None:
            check = i == 0 and first_loss is not None
            log.write(
                i, {**metrics, "loss/at_reference": first_loss} if check else metrics
            )
            if check:
                reference.check_first_step(first_loss, metrics["loss"])
            policy.check(i, metrics)
            checkpoints.check()

        def save(steps: int, state, figures: Mapping[str, float]) -> None:
            log.sync()  # no step before a checkpoint may be missing from the metrics
            watchdog.beat(f"save {steps}")
            checkpoints.maybe_save(steps, state, metrics=figures, force=True)

        hooks.append(loop.Hook(save, c.checkpoint.every, at_end=True, at_stop=True))
        state, steps = loop.run(
            state,
            frozen,
            jax.random.key(c.seed + 1),
            steps=c.steps,
            batches=enter(batches),
            train_step=_train_step(run),
            tokens=c.batch_size * build.tokens_per_row(run.train),
            meter=_meter(run),
            before_step=before_step,
            report=report,
            stop_after=interruption.requested,
            evaluations=evaluations,
            hooks=hooks,
        )
        checkpoints.wait()
        if steps == c.steps:
            return errors.DONE
        log.say(f"asked to stop: saved step {steps} of {c.steps}")
        return interruption.exit_code


def _train_step(run: build.Experiment):
    """The jitted step, whose metrics have the learning rate too."""
    train_step = step.make_train_step(
        run.objective,
        run.optimizer,
        microbatches=run.config.microbatches,
        copies=run.copies,
    )
    return jax.jit(
        optim.with_rate(train_step, run.schedule),
        donate_argnums=0,
        out_shardings=(training_state.shardings(run.weights.abstract), None),
    )


def _meter(run: build.Experiment) -> throughput.Meter:
    c = run.config
    flops = decoder.flops_per_token(
        run.model,
        c.length,
        trainable=c.trainable,
        unembeds=not run.objective.needs.scores,
    )
    device, devices = jax.devices()[0], jax.device_count()
    return throughput.Meter(
        flops_per_token=flops, device_kind=device.device_kind, devices=devices
    )


def _hooks(run: build.Experiment, validation, frozen, state, log, watchdog):
    """The evaluations, and the samples, that the config asks for.

    Raises:
      ConfigError: no evaluation has the figure that `keep_best` names.
    """
    c, evaluations, hooks = run.config, [], []
    if validation is not None:
        evaluation = training_hooks.Evaluation(
            jax.jit(step.make_eval_step(run.objective)),
            frozen,
            validation,
            batch_size=c.batch_size,
            max_batches=c.evaluation.batches,
            mesh=run.mesh,
            rules=run.rules,
            beat=watchdog.beat,
        )
        if c.checkpoint.keep_best:
            evaluation.check_name(c.checkpoint.keep_best[0], state)
        evaluations.append(loop.Hook(evaluation, c.evaluation.every, at_end=True))
    if c.sample.every is not None:
        samples = training_hooks.Samples(
            run.model,
            frozen.base,
            run.tokenizer,
            run.prompts,
            shown=[text + ("\n" if c.data.chat else "") for text in c.sample.prompts],
            write=log.text,
            beat=watchdog.beat,
            options={
                "stop_ids": run.stop,
                "max_tokens": c.sample.max_tokens,
                "temperature": c.sample.temperature,
                "top_p": c.sample.top_p,
            },
        )
        hooks.append(loop.Hook(samples, c.sample.every))
    return evaluations, hooks


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
    parser, cache = _parser(), sections.CACHE_DIR
    try:
        options, loaded = config_file.parse(parser, arguments)
        if options.print:
            print(schema.page(*loaded, network=options.network))
            return errors.DONE
        if options.workdir is None:
            parser.error("the following arguments are required: --workdir")
        cache = loaded.section.get("cache_dir") or cache
        cli.keep_programs(cache)
        alone = ("coordinator", "processes", "process_id")
        problems = [
            f"{name}: {value} has no effect without --multihost; give that too"
            for name in alone
            if (value := getattr(options, name)) is not None and not options.multihost
        ]
        if problems:  # each process would train alone, in one workdir
            raise errors.ConfigError(problems)
        if options.multihost:
            jax.distributed.initialize(
                options.coordinator, options.processes, options.process_id
            )
        flags = dict(profile=options.profile, network=options.network)
        return train(loaded.section, options.workdir, **flags)
    except errors.AlignError as error:
        return _refuse(error.exit_code, f"{type(error).__name__}: {error}")
    except BrokenPipeError:
        raise
    except (RuntimeError, AssertionError) as error:
        return _refuse(errors.CONFIG, cli.backend_refusal(error))
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
