# SPDX-License-Identifier: Apache-2.0
"""The checkpoints of a run: save while training goes on, resume from what is sound."""

from __future__ import annotations

import concurrent.futures
import contextlib
import json
import logging
import math
import os
import pathlib
import shutil
import time
from collections.abc import Callable, Mapping

import jax

from alignjax import errors, types
from alignjax.checkpoint import lock, resume, retention, step_folders
from alignjax.distributed import multihost
from alignjax.storage import atomic, fingerprint

MAX_QUARANTINED = 2

log = logging.getLogger(__name__)


class Checkpoints:
    """Saves and restores the state of the run in `workdir`, and owns that directory.

    Every process makes one, enters it, and calls the same methods in the same order.

    Attributes:
      quarantined: (step, reason) of what was set aside: steps without their commit
        marker when the workdir was opened, broken ones by `restore_or_init`.
      notes: lines for the log: on a run that begins again, and on fields of the config
        that are others now than in the step that it goes on from.
    """

    def __init__(
        self,
        workdir,
        *,
        config: Mapping,
        data_identity: Mapping,
        complete: Callable[[dict], dict] = dict,
        **options,
    ):
        """Checks its arguments; the workdir is touched once this is entered.

        Args:
          workdir: a directory that all processes share; made if missing.
          config: the resolved config, as JSON has it.
          complete: fills in the defaults of a saved config before it is compared:
            older ones left them out.
          data_identity: JSON that changes when batch i changes, tokenizer included.
          **options: the fields of `retention.CheckpointConfig`.

        Raises:
          ConfigError: wrong options, or a workdir in a bucket.
        """
        if ":/" in str(workdir):  # a Path has but one slash
            raise errors.ConfigError(
                f"workdir: {workdir} is not a path of a file system; mount the bucket"
            )
        self.workdir = pathlib.Path(os.path.abspath(workdir))
        self.directory = self.workdir / "checkpoints"
        self.quarantine = self.workdir / "quarantine"
        self.quarantined: list[tuple[int, str]] = []
        self.notes: list[str] = []
        # Steps saved, or being saved, by this run: the same list on every process, so
        # that all decide alike. It forgets nothing that `_finish` deletes.
        self._saved: list[int] = []
        self._complete = complete
        self._options = retention.CheckpointConfig(**options)
        self._config = json.loads(json.dumps(config))
        self._data = json.loads(json.dumps(data_identity))
        self._metrics: dict[int, dict[str, float | None]] = {}
        self._pending: tuple[int, concurrent.futures.Future] | None = None
        self._thread = concurrent.futures.ThreadPoolExecutor(1, "checkpoint")
        self._lock: lock.Lock | None = None

    def __enter__(self) -> Checkpoints:
        """Locks the workdir, writes `config.json` and sees which steps there are.

        Raises:
          ConfigError: the workdir is of another config, writer or program.
          CheckpointError: it cannot be written, or its checkpoints are lost.
        """
        identity = {"config": self._config, "data": self._data}
        multihost.same_everywhere("config", identity)
        try:
            with multihost.all_or_none(f"cannot use {self.workdir}"):
                if jax.process_index() == 0:
                    self._claim()
            with multihost.all_or_none("workdir"):
                if not (self.workdir / "config.json").is_file():
                    raise errors.ConfigError(
                        f"workdir: {self.workdir} is another directory for process "
                        f"{jax.process_index()} than for process 0; use one that all "
                        "share"
                    )
            self._list_steps()
        except BaseException:
            self._unlock()
            raise
        return self

    def __exit__(self, kind, error, trace) -> None:
        """Waits for the last save and unlocks. Raises CheckpointError if it failed."""
        try:
            self.wait()
        except errors.CheckpointError as late:
            if error is None:
                raise
            log.error("%s", late)  # what ended the run goes first
        finally:
            self._thread.shutdown()
            self._unlock()

    @property
    def steps(self) -> list[int]:
        """The steps that are complete on disk, ascending."""
        return step_folders.complete_steps(self.directory)

    def maybe_save(
        self,
        step: int,
        state: types.TrainState,
        *,
        metrics: Mapping[str, float] | None = None,
        force: bool = False,
    ) -> bool:
        """Starts to save `state` where `step` is due or `force`; True if it did.

        Cheap where nothing is due, so that a failure of the last save is reported at
        the next step. Returns once the arrays may be donated; the rest goes on in the
        background. A step that is already saved is left as it is.

        Args:
          step: of the state, the index of the next batch.
          metrics: what `keep_best` looks at; a NaN counts as no value.

        Raises:
          CheckpointError: this save cannot start, or the one before failed. What was
            complete stays so.
          NonFinite: a parameter or statistic has a NaN or an infinity.
        """
        self.check()
        if step in self._saved or not (force or step % self._options.every == 0):
            return False
        items = step_folders.as_items(state)
        leaves = self._sound_leaves(step, items)
        if int(state.step) != step:
            raise ValueError(f"the state is of step {int(state.step)}, not {step}")
        with multihost.all_or_none(f"cannot save step {step}"):
            self.wait()
            self._check_space(leaves)
            if self._lock is not None:
                self._lock.check()
        values = {k: float(v) for k, v in (metrics or {}).items()}
        values = {k: v if math.isfinite(v) else None for k, v in values.items()}
        meta = step_folders.make_meta(
            step, leaves, config=self._config, data=self._data, metrics=values
        )
        path, timeout = self.directory / str(step), self._options.timeout
        try:
            response = step_folders.write(path, items, meta, timeout=timeout)
        except Exception as error:
            raise self._failed(step, error) from error
        self._metrics[step] = values
        self._saved = sorted([*self._saved, step])
        self._pending = step, self._thread.submit(self._finish, step, response)
        return True

    def check(self) -> None:
        """Raises CheckpointError if the last save has failed by now; cheap."""
        if self._pending is not None and self._pending[1].done():
            self.wait()

    def wait(self) -> None:
        """Blocks until the last save is durable; CheckpointError if it failed."""
        if self._pending is None:
            return
        (step, future), self._pending = self._pending, None
        try:
            future.result()
        except Exception as error:
            self._saved.remove(step)
            self._metrics.pop(step, None)
            raise self._failed(step, error) from error

    def restore_or_init(
        self, abstract_state: types.TrainState, init: Callable[[], types.TrainState]
    ) -> tuple[types.TrainState, int | None]:
        """The newest state that is what was written, and its step; or `init()`, None.

        A step that does not load, or not with the fingerprints it was saved with, is
        moved to `workdir/quarantine` and the one before is tried, twice at most. A run
        that has saved never starts again from nothing.

        Args:
          abstract_state: ShapeDtypeStructs with the shardings to restore to.

        Raises:
          ConfigError: the step is of another config, data or model; nothing is moved.
          CheckpointError: nothing sound is left, or too much was broken.
        """
        items = step_folders.as_items(abstract_state)
        steps = self._config.get("steps", math.inf)
        if not self._saved or self._saved[-1] < steps:
            with multihost.all_or_none(f"cannot use {self.workdir}"):
                self._check_space(step_folders.describe(items))
        broken = 0
        while self._saved:
            step = self._saved[-1]
            try:
                loaded = self._load(step, items)
            except errors.BrokenStep as error:
                broken += 1
                self._set_broken_aside(step, str(error), broken)
            else:
                # Not before it is known that this config goes on with what is there.
                with multihost.all_or_none(f"cannot use {self.workdir}"):
                    if jax.process_index() == 0:
                        atomic.write_json(self.workdir / "config.json", self._config)
                return step_folders.as_state(loaded, abstract_state), step
        if self.quarantine.is_dir() and any(self.quarantine.iterdir()):
            raise errors.CheckpointError(
                f"no sound checkpoint is left in {self.directory}: {self._report()}. "
                "To start again from step 0, use another workdir"
            )
        return init(), None

    def _claim(self) -> None:
        """On one process: checks whose workdir this is, takes the lock, cleans up."""
        every = self._options.every
        if note := resume.check_workdir(self.workdir, self._config, every):
            log.warning(note)
            self.notes.append(note)
        atomic.check_links(self.workdir, but=("checkpoints", "quarantine"))
        self.directory.mkdir(parents=True, exist_ok=True)
        held = lock.Lock(self.workdir)
        held.acquire()
        self._lock = held
        if (old := self._config_of_run()) is not None:
            self._check_same_run(self.workdir, self._complete(old), self._config)
        for name in step_folders.remove_leftovers(self.directory):
            log.info("removed %s, which an interrupted save left", name)
        self._set_incomplete_aside()
        atomic.write_json(
            self.workdir / "config.json", self._config if old is None else old
        )

    def _check_same_run(self, where: pathlib.Path, old, new) -> list[str]:
        accept = self._options.accept
        return resume.check_same_run(old, new, where=str(where), accept=accept)

    def _unlock(self) -> None:
        if self._lock is not None:
            self._lock.release()
            self._lock = None

    def _config_of_run(self) -> Mapping | None:
        """The config of the run whose steps are here; None if there are none."""
        steps = self.steps
        if not steps and not self.quarantine.is_dir():
            return None
        with contextlib.suppress(errors.DataError):
            return step_folders.read_config(self.workdir)
        for step in reversed(steps):
            with contextlib.suppress(errors.BrokenStep):
                path = self.directory / str(step)
                return step_folders.read_meta(path)["config"]
        return None

    def _list_steps(self) -> None:
        """Lists the steps, on every process as on process 0, which reads metrics."""
        steps = self.steps if jax.process_index() == 0 else []
        self._saved = multihost.from_primary(steps)
        for step in steps:
            # Without its metrics a step is not known to be dispensable: it is kept.
            with contextlib.suppress(errors.BrokenStep):
                path = self.directory / str(step)
                self._metrics[step] = step_folders.read_meta(path)["metrics"]

    def _sound_leaves(self, step: int, items) -> dict[str, dict]:
        """Shape, dtype and fingerprint of each leaf. Raises NonFinite."""
        leaves = step_folders.describe(items)
        prints = fingerprint.fingerprints(items)
        for name, leaf in leaves.items():
            leaf["fingerprint"] = prints[name].digits
        # A scalar of the optimizer may be infinite: some begin as the worst of all.
        bad = [
            name
            for name, leaf in leaves.items()
            if prints[name].nonfinite and (name.startswith("params/") or leaf["shape"])
        ]
        if bad:
            raise errors.NonFinite(
                f"step {step} is not saved: NaN or infinity in {errors.some(bad)}"
            )
        return leaves

    def _check_space(self, leaves: dict[str, dict]) -> None:
        """Raises CheckpointError where the disk would fill up half-way."""
        need = step_folders.nbytes(leaves) + atomic.SPARE_BYTES
        free = shutil.disk_usage(self.directory).free
        if free < need:
            raise errors.CheckpointError(
                f"{self.directory} has {free / 2**20:.0f} MiB free and a save needs "
                f"{need / 2**20:.0f}; free some, or lower checkpoint.keep_last"
            )

    def _finish(self, step: int, response) -> None:
        """In the background: waits for the write, makes it durable, deletes the old."""
        response.result()
        if jax.process_index() == 0:
            # Orbax syncs the bytes of arrays, but neither its own JSON and markers nor
            # the directories, so that a rename could outlive what it renamed.
            atomic.sync_tree(self.directory / str(step))
            atomic.sync(self.directory)
            keep = retention.retained(self._metrics, self._options)
            for old in sorted(set(self._metrics) - keep):
                step_folders.remove(self.directory / str(old))
                del self._metrics[old]

    def _failed(self, step: int, error: Exception) -> errors.CheckpointError:
        """What to raise for a save that failed; frees the space that it took."""
        if isinstance(error, errors.CheckpointError):
            return error
        if jax.process_index() == 0:
            with contextlib.suppress(OSError):
                step_folders.remove_leftovers(self.directory)
        text = " ".join(str(error).split())[:500]
        return errors.CheckpointError(
            f"saving step {step} to {self.directory} failed: "
            f"{type(error).__name__}: {text}. Complete there: {self.steps}"
        )

    def _load(self, step: int, items) -> dict[str, dict]:
        """The verified leaves of a step. Raises BrokenStep on all processes or none."""
        path = self.directory / str(step)
        with multihost.unanimous(path):
            meta = step_folders.read_meta(path)
        config = self._complete(meta["config"]), self._config
        data = {"data_identity": meta["data"]}, {"data_identity": self._data}
        notes = [
            note
            for both in (config, data)
            for note in self._check_same_run(path, *both)
        ]
        renamed = step_folders.renamed_leaves(meta["leaves"])
        items = step_folders.rename(items, {new: old for old, new in renamed.items()})
        _check_fits(path, meta["leaves"], step_folders.describe(items))
        if step > (steps := self._config.get("steps", step)):
            raise errors.ConfigError(
                f"steps: {steps}, and {path} is beyond; set at least {step}, or use "
                "another workdir"
            )
        with multihost.unanimous(path):
            loaded = step_folders.read(path, items)
        # Replicated, so that all processes come to the same conclusion.
        step_folders.verify(path, meta, fingerprint.fingerprints(loaded))
        self.notes += notes
        return step_folders.rename(loaded, renamed)

    def _set_incomplete_aside(self) -> None:
        """On one process: makes way for saves, which cannot write over a folder."""
        steps = step_folders.all_steps(self.directory)
        # With none complete they may be all that is left of a run: they stay.
        incomplete = [step for step, complete in steps.items() if not complete]
        for step in incomplete if any(steps.values()) else ():
            reason = f"no {step_folders.MARKER}, as an interrupted copy leaves it"
            self.quarantined.append((step, reason))
            self._move_aside(step, reason)

    def _set_broken_aside(self, step: int, reason: str, count: int) -> None:
        """On every process: the `count`th in a row; CheckpointError at the third."""
        self.quarantined.append((step, reason))
        if count > MAX_QUARANTINED:
            raise errors.CheckpointError(
                f"{count} checkpoints in a row are broken, which is no accident; the "
                f"last was left in place: {self._report()}"
            )
        with multihost.all_or_none(f"cannot move step {step} to {self.quarantine}"):
            if jax.process_index() == 0:
                self._move_aside(step, reason)
        self._saved.remove(step)
        self._metrics.pop(step, None)

    def _move_aside(self, step: int, reason: str) -> None:
        target = self.quarantine / f"{step}-{time.time_ns()}"
        log.warning("moving a broken checkpoint to %s: %s", target, reason)
        self.quarantine.mkdir(exist_ok=True)
        os.rename(self.directory / str(step), target)

    def _report(self) -> str:
        # Each without its path, and short, so that the last of them is not cut.
        short = lambda step, reason: reason.removeprefix(
            f"{self.directory / str(step)}: "
        )[:140]
        lines = [f"step {step}: {short(step, why)}" for step, why in self.quarantined]
        return "; ".join(lines) or f"see {self.quarantine}"


def _check_fits(path, saved: Mapping[str, dict], here: Mapping[str, dict]) -> None:
    """Raises ConfigError unless the leaves have the shapes and dtypes of this model."""
    keys = ("shape", "dtype")
    saved = {name: {k: leaf[k] for k in keys} for name, leaf in saved.items()}
    show = lambda leaf: f"{leaf['dtype']}{leaf['shape']}" if leaf else "absent"
    lines = [
        f"  {name}: {show(saved.get(name))} saved, {show(here.get(name))} here"
        for name in sorted({*saved, *here})
        if saved.get(name) != here.get(name)
    ]
    if lines:
        head = f"{path} does not fit this model and optimizer:"
        raise errors.ConfigError([head, errors.some(lines, "\n", 8)])
