# SPDX-License-Identifier: Apache-2.0
"""Ends a run that makes no progress, and says where every thread of it stood.

A process that is alive but stuck, in a collective that another never joins or on a disk
that never answers, blocks all the others for ever: heartbeats go on and nothing times
out. Each process watches itself, with the same limit, so the stacks of all are written;
the one whose phase differs from the others' is the one to look at.
"""

from __future__ import annotations

import faulthandler
import os
import sys
import threading
import time
from collections.abc import Callable

from alignjax import errors

# How long a process lives on after its report. The end of process 0 kills the others
# within a second, and they are to have time for their own reports.
LINGER_SECONDS = 2.0


class Watchdog:
    """Exits with `HANG` when `beat` was not called for `limit` seconds.

        with Watchdog(limit=1800, path=workdir / "stacks.txt") as watchdog:
            for step in ...:
                watchdog.beat(f"step {step}")

    Time in which the process itself was stopped (Ctrl-Z, a suspended machine) does not
    count. C code that never lets go of the interpreter's lock stops this watchdog too:
    from here it looks the same.
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
        self._limit = limit
        self._name = name
        self._path = path
        self._linger = linger
        self._clock = clock
        self._end = end
        self._last = (clock(), "start")
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
        looked = self._clock()
        while not self._stop.wait(tick):
            now = self._clock()
            if now - looked > self._limit / 2:  # this process did not run
                self.beat(self._last[1])
            looked = now
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
