# SPDX-License-Identifier: Apache-2.0
"""What a run says: on the terminal, in log.txt, metrics.jsonl, TensorBoard, wandb.

In a workdir it writes

    metrics.jsonl   every step exactly once, also after kills and resumptions; `journal`
    log.txt         what was said, with the time of day; a resumed run goes on below
    samples/        texts, a file for each step and name
    tensorboard/    the numbers and texts again; a resumed run hides what it repeats
    wandb.txt       the id under which a resumed run goes on, where wandb is used

metrics.jsonl is the record; the others are views. Only process 0 writes: the writers
of the other processes do nothing.
"""

from __future__ import annotations

import contextlib
import dataclasses
import pathlib
import time
import uuid
from collections.abc import Mapping
from typing import Any, TextIO

from alignjax import errors
from alignjax.tracking import journal, progress

# Fields of a record that depend on the clock. Two runs of one config and seed on the
# same devices agree in all the others.
TIMING_KEYS = frozenset({"time", "tokens_per_second", "mfu"})


@dataclasses.dataclass
class Writer:
    """Writes steps as they end; nothing is written before `with` enters.

    with Writer(workdir, total_steps=1000, start_step=200) as writer:
        writer.write(200, {"loss": 2.5, "tokens": 4096})

    Attributes:
      workdir: an existing folder.
      total_steps: of the whole run.
      start_step: the first step to be written, from 0; more than that in a run that
        goes on from a checkpoint.
      every: steps between lines in the log, and on a stdout that is no terminal.
      active: whether to write at all: true on process 0 only.
      stdout: instead of `sys.stdout`.
      tensorboard: whether to write event files.
      wandb: the project to log to; None is off.
      settings: the resolved config as JSON, for wandb.
    """

    workdir: pathlib.Path
    _: dataclasses.KW_ONLY
    total_steps: int
    start_step: int = 0
    every: int = 10
    active: bool = True
    stdout: TextIO | None = None
    tensorboard: bool = True
    wandb: str | None = None
    settings: Mapping[str, Any] | None = None

    def __enter__(self) -> Writer:
        """Opens the files; cuts metrics.jsonl back to the steps before `start_step`.

        Raises:
          ConfigError: wandb is asked for and not installed.
        """
        self._wandb = self._board = None
        with contextlib.ExitStack() as stack:
            if self.active:
                self._start(stack)
            self._open = stack.pop_all()
        return self

    def __exit__(self, *_) -> None:
        self._open.close()

    def _start(self, stack: contextlib.ExitStack) -> None:
        workdir, start_step = self.workdir, self.start_step
        if self.wandb:
            self._wandb = _start_wandb(workdir, self.wandb, self.settings)
            stack.callback(self._wandb.finish)
        self._log = (workdir / "log.txt").open("a", encoding="utf-8")
        stack.enter_context(self._log)
        self._journal, cut = journal.open_at(workdir / "metrics.jsonl", start_step)
        stack.callback(self._journal.close)
        if self.tensorboard:
            self._board = _start_tensorboard(workdir, start_step)
            stack.callback(self._board.close)
        self._terminal = progress.Terminal(self.stdout)
        stack.callback(self._terminal.close)
        self._clock = progress.Clock(self.total_steps)
        if cut.later or cut.unreadable:
            self.say(
                f"metrics.jsonl: going on at step {start_step}; dropped {cut.later} "
                f"records from there on and {cut.unreadable} unfinished lines"
            )
        if cut.kept != start_step:
            self.say(
                f"metrics.jsonl: {start_step - cut.kept} of the {start_step} steps "
                "before this start are missing from it"
            )

    def write(self, step: int, metrics: Mapping[str, Any]) -> None:
        """Records that `step` has ended, with everything measured in it.

        `metrics` are numbers; `loss`, `eval/loss`, `tokens_per_second` and `mfu` appear
        in the progress line. Evaluation at a step belongs into the same call.

        Raises:
          ValueError: the step was written before.
        """
        if not self.active:
            return
        metrics = {k: v.item() if hasattr(v, "item") else v for k, v in metrics.items()}
        self._journal.write(step, {**metrics, "time": round(time.time(), 3)})
        left = self._clock.left(step + 1)
        line = progress.line(step, self.total_steps, metrics, left)
        last = step + 1 == self.total_steps
        if (step + 1) % self.every == 0 or last or "eval/loss" in metrics:
            self._to_log(line)
            if not self._terminal.live:
                self._terminal.say(line)
        self._terminal.show(line, force=last)
        if self._board is not None:
            _draw_on(self._board, step, metrics)
        if self._wandb is not None:
            self._wandb.log(metrics, step=step)

    def text(self, step: int, name: str, text: str) -> None:
        """Keeps a text that the model wrote, in samples/ and on the terminal."""
        if not self.active:
            return
        folder = self.workdir / "samples"
        folder.mkdir(exist_ok=True)
        (folder / f"{step:08}-{name}.txt").write_text(text, encoding="utf-8")
        self.say(f"{name} at step {step}:\n{text}")
        if self._board is not None:
            self._board.add_text(name, text, step)

    def say(self, message: str) -> None:
        """Prints a line, or several, and keeps them in the log."""
        if self.active:
            self._to_log(message)
            self._terminal.say(message)

    def note(self, message: str) -> None:
        """Keeps in the log what was printed before there was one."""
        if self.active:
            self._to_log(message)

    def sync(self) -> None:
        """Returns when what was written would outlive a power cut.

        Called before a checkpoint commits, it makes sure that no step before the
        checkpoint can be missing from the metrics of the run that resumes from it.
        """
        if self.active:
            self._journal.sync()
            if self._board is not None:
                self._board.flush()

    def _to_log(self, message: str) -> None:
        self._log.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {message}\n")
        self._log.flush()


def _start_tensorboard(workdir: pathlib.Path, start_step: int) -> Any:
    """A new event file that hides from TensorBoard the steps to be written again."""
    import tensorboardX  # here, since it takes longer to import than all the rest

    return tensorboardX.SummaryWriter(
        str(workdir / "tensorboard"),
        purge_step=start_step,
        flush_secs=30,
        # Its names tell seconds apart; a run may resume within the one that it died in.
        filename_suffix=f".{time.time_ns()}",
    )


def _draw_on(board: Any, step: int, metrics: Mapping[str, float]) -> None:
    """All numbers of a step as one event, at a fifth of the cost of one event each."""
    from tensorboardX.proto import summary_pb2

    value = summary_pb2.Summary.Value
    values = [value(tag=name, simple_value=x) for name, x in metrics.items()]
    board.file_writer.add_summary(summary_pb2.Summary(value=values), step)


def _start_wandb(workdir: pathlib.Path, project: str, settings) -> Any:
    """The run in `project` that this workdir began, or a new one."""
    try:
        import wandb
    except ImportError as error:
        raise errors.ConfigError(
            f"wandb: logging to {project!r} needs the package wandb, which is not "
            "installed: pip install 'alignjax[wandb]', or leave the field out"
        ) from error
    path = workdir / "wandb.txt"
    if not path.exists():
        path.write_text(f"{uuid.uuid4().hex[:8]}\n")
    return wandb.init(
        project=project,
        id=path.read_text().strip(),
        name=workdir.name,
        dir=str(workdir),
        config=dict(settings or {}),
        resume="allow",
    )
