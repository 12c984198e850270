# SPDX-License-Identifier: Apache-2.0
"""The end of a run before its last step: interrupted, preempted, or stuck.

SIGTERM and Ctrl-C become a flag that the loop reads. After `jax.distributed.initialize`
JAX takes SIGTERM for itself and makes it a step at which all processes stop together;
SIGINT is turned into that, so that one Ctrl-C stops a whole job.

A stuck process, in a collective that another never joins or on a disk that never
answers, blocks all others for ever, while heartbeats go on and nothing times out. Each
process watches itself with the same limit, so the stacks of all are written; the one
whose phase differs from the others' is the one to look at.
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


class Interruption:
    """While entered, SIGTERM and SIGINT ask the loop to stop instead of ending it.

    Enter it after `jax.distributed.initialize`. A second SIGINT ends the process at
    once, saving nothing; a second SIGTERM changes nothing, since schedulers send
    several.
    """

    def __init__(self):
        self._signal = None
        self._handlers = {}  # to be restored
        self._distributed = False
        self._reached = False  # the step at which all processes stop

    def __enter__(self) -> Interruption:
        self._distributed = jax.distributed.is_initialized()
        signals = [signal.SIGINT] + ([] if self._distributed else [signal.SIGTERM])
        for number in signals:
            self._handlers[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, *_) -> None:
        for number, handler in self._handlers.items():
            # None is a handler that was not Python's and cannot be restored.
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        self._handlers = {}

    def requested(self, step: int) -> bool:
        """Whether to stop after `step`; True from the same step on, on all processes.

        Every process calls this once after every step. The first such step is a few
        after the signal, so that all can reach it.
        """
        if jax.distributed.is_initialized():
            # JAX says so at that step alone, after which a rollout may have more.
            reached = multihost_utils.reached_preemption_sync_point
            self._reached = self._reached or reached(step)
            return self._reached
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

    The stacks of all threads are written to stderr and to `path` first. Time in which
    the process itself was stopped (Ctrl-Z, a suspended machine) does not count. C code
    that never releases the interpreter's lock stops this watchdog too.
    """

    def __init__(
        self,
        limit: float | None = 1800.0,
        *,
        name: str = "",
        path: str | os.PathLike | None = None,
        linger: float = 2.0,
        clock: Callable[[], float] = time.monotonic,
        end: Callable[[int], None] = os._exit,
    ):
        """Nothing is watched before `with` enters.

        Args:
          limit: seconds between beats, longer than any compilation; None is off.
          name: of this process, for the report.
          path: a file that the report is appended to.
          linger: seconds between the report and the end: the end of process 0 kills the
            others within a second, and they need time for their own reports.
          clock, end: the time in seconds, and what is called with the exit code.

        Raises:
          ValueError: `limit` is not positive.
        """
        if limit is not None and not limit > 0:
            raise ValueError(f"watchdog: {limit} is not positive; None turns it off")
        self._limit, self._name, self._path = limit, name, path
        self._linger, self._clock, self._end = linger, clock, end
        self._last = (clock(), "start")  # the last beat and the phase since then
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def beat(self, phase: str) -> None:
        """Notes progress; `phase` is what begins now."""
        self._last = (self._clock(), phase)

    def __enter__(self) -> Watchdog:
        self.beat("start")
        if self._limit is not None:
            self._thread.start()
        return self

    def __exit__(self, *_) -> None:
        self._stop.set()
        if self._limit is not None:
            self._thread.join()

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
        name = f"{self._name}: " if self._name else ""
        line = (
            f"{name}no progress for {seconds:.0f} s (the limit is {self._limit:.0f} s) "
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
