# SPDX-License-Identifier: Apache-2.0
"""How a run ends before its last step: asked to stop, or stuck.

A scheduler's SIGTERM, or Ctrl-C, becomes a flag that the loop reads: on one process a
signal that nobody handles ends it with nothing saved. After
`jax.distributed.initialize`, even of one process, JAX takes SIGTERM for itself and
makes it a step at which all processes stop together; SIGINT is turned into that, so
that one Ctrl-C stops a whole job. Enter `Interruption` after initializing.

A process that is alive but stuck, in a collective that another never joins or on a disk
that never answers, blocks all the others for ever: heartbeats go on and nothing times
out. Each process watches itself, with the same limit, so the stacks of all are written;
the one whose phase differs from the others' is the one to look at.
"""

from __future__ import annotations

import faulthandler
import os
import signal
import sys
import threading
import time
from collections.abc import Callable

import jax
from jax.experimental import multihost_utils

from alignjax import errors

SAVING = b"\ninterrupted: saving after this step; again to quit without saving\n"
# How long a process lives on after its report. The end of process 0 kills the others
# within a second, and they are to have time for their own reports.
LINGER_SECONDS = 2.0


class Interruption:
    """While entered, SIGTERM and SIGINT ask the loop to stop instead of ending it.

        with Interruption() as interruption:
            for step in ...:
                ...
                if interruption.requested(step):
                    save(step)
                    return interruption.exit_code

    The second SIGINT is the system's own: the process ends at once, saving nothing. A
    second SIGTERM changes nothing, since schedulers send several.
    """

    def __init__(self):
        self._signal = None
        self._handlers = {}  # those to put back
        self._distributed = False

    def __enter__(self) -> Interruption:
        self._distributed = jax.distributed.is_initialized()
        signals = [signal.SIGINT] + ([] if self._distributed else [signal.SIGTERM])
        for number in signals:
            self._handlers[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, *_) -> None:
        for number, handler in self._handlers.items():
            # None stands for a handler that was not Python's and cannot be put back.
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        self._handlers = {}

    def requested(self, step: int) -> bool:
        """Whether to stop after `step`; all processes get True at the same step.

        Every process calls this after every step, with the same numbers, once each.
        Where it stays False on a process that was signalled, the others are still to
        reach the step agreed on, which is at most a few further on.
        """
        if jax.distributed.is_initialized():
            return multihost_utils.reached_preemption_sync_point(step)
        return self._signal is not None

    @property
    def exit_code(self) -> int:
        """INTERRUPTED where Ctrl-C was pressed, PREEMPTED on every other process."""
        if self._signal == signal.SIGINT:
            return errors.INTERRUPTED
        return errors.PREEMPTED

    def _handle(self, number, frame) -> None:
        del frame
        self._signal = self._signal or number
        if number == signal.SIGINT:
            signal.signal(signal.SIGINT, signal.SIG_DFL)
            # Not print: a handler may run inside another print to the same stream.
            os.write(sys.__stderr__.fileno(), SAVING)
            if self._distributed:
                os.kill(os.getpid(), signal.SIGTERM)


class Watchdog:
    """Exits with `HANG` when `beat` was not called for `limit` seconds.

        with Watchdog(limit=1800, path=workdir / "stacks.txt") as watchdog:
            for step in ...:
                watchdog.beat(f"step {step}")

    The stacks of all threads are written to stderr and to `path` first. Time in which
    the process itself was stopped (Ctrl-Z, a suspended machine) does not count. C code
    that never lets go of the interpreter's lock stops this watchdog too: from here it
    looks the same.
    """

    def __init__(
        self,
        limit: float | None = 1800.0,
        *,
        name: str = "",
        path: str | os.PathLike | None = None,
        linger: float = LINGER_SECONDS,
        clock: Callable[[], float] = time.monotonic,
        end: Callable[[int], None] = os._exit,
    ):
        """Nothing is watched before `with` enters.

        Args:
          limit: seconds between beats, longer than any compilation takes; None is off.
          name: which process this is, for the report.
          path: a file that the report is appended to, besides stderr.
          linger: seconds between the report and the end.
          clock: seconds.
          end: called with the exit code.

        Raises:
          ValueError: `limit` is not positive.
        """
        if limit is not None and not limit > 0:
            raise ValueError(
                f"watchdog limit {limit} is not positive; None turns it off"
            )
        self._limit, self._name, self._path = limit, name, path
        self._linger, self._clock, self._end = linger, clock, end
        self._last = (clock(), "start")  # of the last beat, and what began then
        self._stop = threading.Event()
        self._thread = None

    def beat(self, phase: str) -> None:
        """Something has got done, and `phase` is what begins now."""
        self._last = (self._clock(), phase)

    def __enter__(self) -> Watchdog:
        self.beat("start")
        if self._limit is not None:
            self._thread = threading.Thread(
                target=self._watch, name="watchdog", daemon=True
            )
            self._thread.start()
        return self

    def __exit__(self, *_) -> None:
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def _watch(self) -> None:
        tick = min(self._limit / 10, 5.0)
        before = self._clock()
        while not self._stop.wait(tick):
            now = self._clock()
            if now - before > self._limit / 2:  # this process did not run
                self.beat(self._last[1])
            before = now
            since, phase = self._last
            if now - since > self._limit:
                self._report(phase, now - since)
                time.sleep(self._linger)
                self._end(errors.HANG)
                return

    def _report(self, phase: str, seconds: float) -> None:
        who = f"{self._name}: " if self._name else ""
        line = (
            f"{who}no progress for {seconds:.0f} s (the limit is {self._limit:.0f} s) "
            f"in phase {phase!r}; the stacks of all threads follow\n"
        )
        _dump(sys.__stderr__, line)
        if self._path is not None:
            with open(self._path, "a") as file:
                _dump(file, line)


def _dump(file, line: str) -> None:
    file.write(line)
    file.flush()
    faulthandler.dump_traceback(file, all_threads=True)
