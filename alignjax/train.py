# SPDX-License-Identifier: Apache-2.0
r"""Trains what a config describes: builds everything, then the loop.

    python -m alignjax.train --config=configs/pretrain/world.py --workdir=runs/world \
        --config.optimizer.learning_rate=1e-3

The same command again goes on where it stopped. Everything that can be refused is
refused before the first step; `alignjax.exit_codes` says how a run ended.
"""

from __future__ import annotations

import contextlib
import logging
import math
import pathlib
import re
import sys
from collections.abc import Mapping

import absl.logging
import jax
from absl import app, flags
from ml_collections import config_flags

from alignjax import (
    checkpoint,
    config,
    evaluate,
    exit_codes,
    experiment,
    interruption,
    optim,
    parameters,
    reference,
    registry,
    sampling,
    sections,
    sharding,
    state,
    step,
    throughput,
    trees,
    types,
    watchdog,
    writer,
)
from alignjax.data import loader, records
from alignjax.models import decoder

PROFILED = range(10, 15)  # steps after the start; by then nothing compiles any more


class NonFinite(RuntimeError):
    """The loss or its gradient was not finite, and the config says to stop."""


def train(section: Mapping, workdir, *, profile: bool = False) -> int:
    """Trains, or goes on training, in `workdir`; returns one of `exit_codes`.

    Args:
      section: the whole config; its fields are explained in `configs/base.py`.
      workdir: where checkpoints, metrics, logs and samples go.
      profile: whether to write an XLA trace of some early steps to `workdir/profile`.

    Raises:
      ConfigError, DataError: refused, before the first step.
      CheckpointError: a save or a restore failed.
      NonFinite: see the field `nonfinite` of the config.
    """
    run = experiment.build(section)
    workdir, c = pathlib.Path(workdir), run.config
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
        log.say(experiment.describe(run, resumed))
        for bad, reason in checkpoints.quarantined:
            log.say(f"the checkpoint of step {bad} is broken, moved aside: {reason}")
        trace = enter(_trace(workdir / "profile", resumed or 0, profile))
        if profile and c.steps - (resumed or 0) <= PROFILED.start:
            log.say(f"no trace: it would begin {PROFILED.start} steps after the start")
        if resumed is None and (text := parameters.describe(first)):
            log.say(text)
        frozen = first.frozen()
        run = reference.attach(run, log.say, dog.beat)
        loop = _Loop(run, abstract, frozen, log, checkpoints, interrupted, dog, trace)
        return loop(train_state)


class _Loop:
    """The loop over steps, with what it reports to."""

    def __init__(
        self, run, abstract, frozen, log, checkpoints, interrupted, dog, trace
    ):
        self.run, self.frozen = run, frozen
        self.log, self.checkpoints = log, checkpoints
        self.interrupted, self.dog, self.trace = interrupted, dog, trace
        train_step = step.make_train_step(
            run.objective, run.optimizer, microbatches=run.config.microbatches
        )
        self.train_step = jax.jit(
            optim.with_rate(train_step, run.schedule),
            donate_argnums=0,
            out_shardings=(state.shardings(abstract), None),
        )
        self.meter = throughput.Meter(
            flops_per_token=decoder.flops_per_token(run.model, run.config.length),
            device_kind=jax.devices()[0].device_kind,
            devices=jax.device_count(),
        )
        self.eval_step = jax.jit(step.make_eval_step(run.objective))
        self.tokens = run.config.batch_size * experiment.tokens_per_row(run.train)
        self.key = jax.random.key(run.config.seed + 1)
        self.skipped = 0  # in a row

    def __call__(self, train_state) -> int:
        """Steps until the last one, or until asked to stop."""
        c, start = self.run.config, int(train_state.step)
        unread = None  # metrics of the step before: reading them any sooner would stall
        with contextlib.closing(self._batches(start)) as batches:
            for i, batch in enumerate(batches, start):
                self.dog.beat(f"step {i}")
                self.trace(i)
                train_state, metrics = self.train_step(
                    train_state, self.frozen, batch, self.key
                )
                if unread is not None:
                    self._report(i - 1, unread)
                unread = metrics
                stop = self.interrupted.requested(i) or i + 1 == c.steps
                evaluates = _due(c.evaluation.every, i + 1) or i + 1 == c.steps
                saves = stop or (i + 1) % c.checkpoint.every == 0
                if not (stop or evaluates or saves or _due(c.sample.every, i + 1)):
                    # A save that failed in the background is reported here.
                    self.checkpoints.maybe_save(i + 1, train_state)
                    continue
                jax.block_until_ready(unread)  # the step's own time ends here
                with self.meter.pause():
                    found = self._evaluate(train_state) if evaluates else {}
                self._report(i, unread, found)
                unread = None
                with self.meter.pause():
                    if _due(c.sample.every, i + 1):
                        self._sample(i, train_state)
                    if saves:
                        # No step before a checkpoint may be missing from the metrics.
                        self.log.sync()
                        self.dog.beat(f"save {i + 1}")
                        self.checkpoints.maybe_save(
                            i + 1, train_state, metrics=found, force=stop
                        )
                if stop and i + 1 < c.steps:
                    self.checkpoints.wait()
                    self.log.say(f"asked to stop: saved step {i + 1} of {c.steps}")
                    return self.interrupted.exit_code
        self.checkpoints.wait()
        return exit_codes.DONE

    def _batches(self, start: int):
        """Batches from step `start` on, each a function of the seed and its step."""
        c, mesh, rules = self.run.config, self.run.mesh, self.run.rules
        mine = sharding.local_rows(c.batch_size, mesh, rules)
        fetch = lambda i: types.batch(self.run.train.rows(i * c.batch_size + mine))
        fetched = loader.prefetch(fetch, start, c.steps, c.prefetch)
        with contextlib.closing(fetched):
            for rows in fetched:
                yield sharding.put_batch(rows, c.batch_size, mesh, rules)

    def _report(self, i: int, metrics, found: Mapping[str, float] = {}) -> None:
        """Writes step i, which has ended. Raises NonFinite."""
        metrics = {name: float(x) for name, x in jax.device_get(metrics).items()}
        rates = self.meter.step(self.tokens)
        metrics["tokens"] = (i + 1) * self.tokens
        self.log.write(i, {**metrics, **rates, **found})
        if i == 0:
            reference.check_first_step(self.run, metrics)
        self.skipped = self.skipped + 1 if metrics["skipped"] else 0
        if self.skipped:
            self._refuse(i, metrics)

    def _refuse(self, i: int, metrics: Mapping[str, float]) -> None:
        """Says what was not finite, in which rows; raises unless it may be skipped."""
        c = self.run.config
        bad = [f"{k} = {v}" for k, v in metrics.items() if not math.isfinite(v)]
        first = i * c.batch_size
        rows = [self.run.train.describe(first + k) for k in range(min(c.batch_size, 4))]
        more = f" and {c.batch_size - 4} more rows" if c.batch_size > 4 else ""
        line = f"step {i}: {', '.join(bad)}, not finite; the batch was "
        line += f"{'; '.join(rows)}{more}"
        if c.nonfinite == "skip" and self.skipped < c.max_skipped:
            self.log.say(f"{line}; the update was left out")
            return
        remedy = "lower optimizer.learning_rate, or say nonfinite='skip'"
        if c.nonfinite == "skip":
            remedy = f"that is {self.skipped} in a row (max_skipped)"
        raise NonFinite(f"{line}; {remedy}. Checkpoints up to here are sound")

    def _evaluate(self, train_state) -> dict[str, float]:
        """The objective over the validation data, of the weights and their average."""
        if self.run.validation is None:
            return {}
        found = self._evaluate_params(train_state.params, "eval")
        average = optim.averaged_params(train_state.opt_state)
        if average is not None:
            found |= self._evaluate_params(average, "eval_average")
        best = self.run.config.checkpoint.keep_best
        if best and best[0] not in found:
            remedy = registry.closest(best[0], found)
            raise config.ConfigError(f"checkpoint.keep_best: no {best[0]!r}; {remedy}")
        return found

    def _evaluate_params(self, params, prefix: str) -> dict[str, float]:
        c, data = self.run.config, self.run.validation
        mesh, rules = self.run.mesh, self.run.rules
        mine = sharding.local_rows(c.batch_size, mesh, rules)
        count = -(-data.num_rows // c.batch_size)
        count = min(count, c.evaluation.batches or count)

        def batches():
            for i in range(count):
                self.dog.beat(f"{prefix} batch {i} of {count}")
                rows = types.batch(data.epoch_rows(i * c.batch_size + mine))
                yield sharding.put_batch(rows, c.batch_size, mesh, rules)

        means = evaluate.evaluate(self.eval_step, params, self.frozen, batches())
        mean = lambda m: m.total / m.weight if m.weight else 0.0
        found = {k: mean(m) for k, m in means.items()}
        if self.run.objective.derive is not None:
            found |= self.run.objective.derive(found)
        found = {f"{prefix}/{k}": x for k, x in found.items() if k[0] != "_"}
        if nats := found.get(f"{prefix}/nll"):
            bits = nats / math.log(2)
            found[f"{prefix}/bits_per_byte"] = bits / data.bytes_per_token
        return found

    def _sample(self, i: int, train_state) -> None:
        """Lets the model go on with the config's prompts."""
        c = self.run.config
        self.dog.beat(f"sample {i}")
        completions = sampling.generate(
            self.run.model,
            trees.merge(train_state.params, self.frozen.base),
            self.run.tokenizer,
            self.run.prompts,
            max_tokens=c.sample.max_tokens,
            temperature=c.sample.temperature,
            top_p=c.sample.top_p,
            stop_ids=self.run.stop,
        )
        pairs = zip(c.sample.prompts, completions, strict=True)
        for k, (prompt, completion) in enumerate(pairs):
            between = "\n" if c.data.chat else ""
            self.log.text(i, f"sample-{k}", prompt + between + completion.text)


def _due(every: int | None, step: int) -> bool:
    return every is not None and step % every == 0


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


_CODES = {
    config.ConfigError: exit_codes.CONFIG,
    records.DataError: exit_codes.DATA,
    checkpoint.CheckpointError: exit_codes.CHECKPOINT,
    checkpoint.NonFiniteError: exit_codes.NON_FINITE,
    NonFinite: exit_codes.NON_FINITE,
}

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
        _end(exit_codes.CONFIG, str(error))
    except (AttributeError, KeyError, TypeError) as error:
        # How an override of a field that the file has not comes out of the parser.
        text = str(error).replace("\\n", "; ").replace("\\", "").replace("'", "")
        words = set(re.findall(r"\w+", text))
        for flag in argv:
            root, *path = flag.lstrip("-").partition("=")[0].split(".")
            if root == "config" and words.intersection(path):
                _end(exit_codes.CONFIG, f"{flag}: the config has no such field: {text}")
        raise
    return rest


def main(argv) -> None:
    """Reads the flags, trains, and exits with one of `exit_codes`."""
    if len(argv) > 1:
        _end(exit_codes.CONFIG, f"no such argument: {argv[1:]}; flags are --name=value")
    # Of others only warnings; and none by Orbax, whose errors come out as exceptions.
    absl.logging.set_verbosity(absl.logging.WARNING)
    logging.getLogger("absl").setLevel(logging.CRITICAL)
    logging.getLogger("alignjax").setLevel(logging.INFO)
    section = FLAGS.config
    cache = section.get("cache_dir") or sections.CACHE_DIR
    cache = pathlib.Path(cache).expanduser()
    jax.config.update("jax_compilation_cache_dir", str(cache / "xla"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)
    if FLAGS.multihost:
        jax.distributed.initialize(FLAGS.coordinator, FLAGS.processes, FLAGS.process_id)
    try:
        code = train(section, FLAGS.workdir, profile=FLAGS.profile)
    except tuple(_CODES) as error:
        code = next(_CODES[kind] for kind in type(error).__mro__ if kind in _CODES)
        _end(code, f"{type(error).__name__}: {error}")
    except OSError as error:  # a disk that is full, a directory that is not ours
        where = f"{FLAGS.workdir} or {cache}"
        _end(exit_codes.CHECKPOINT, f"{error}; mend this and start again ({where})")
    except KeyboardInterrupt:
        _end(exit_codes.INTERRUPTED, "interrupted before the first step")
    sys.exit(code)


def _end(code: int, message: str):
    print(message, file=sys.stderr)
    sys.exit(code)


if __name__ == "__main__":
    _define_flags()
    app.run(main, flags_parser=parse)
