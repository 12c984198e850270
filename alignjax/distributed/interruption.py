# SPDX-License-Identifier: Apache-2.0
"""Asked to stop: a scheduler's SIGTERM, or Ctrl-C, becomes a flag that the loop reads.

On one process a signal that nobody handles ends it with nothing saved. After
`jax.distributed.initialize`, even of one process, JAX takes SIGTERM for itself and
makes it a step at which all processes stop together; SIGINT is turned into that, so
that one Ctrl-C stops a job whole. Enter `Interruption` after initializing.
"""

from __future__ import annotations

import os
import signal
import sys

import jax
from jax.experimental import multihost_utils

from alignjax import errors

SAVING = b"\ninterrupted: saving after this step; again to quit without saving\n"


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
        self._seen = None
        self._before = {}
        self._distributed = False

    def __enter__(self) -> Interruption:
        self._distributed = jax.distributed.is_initialized()
        signals = [signal.SIGINT] + ([] if self._distributed else [signal.SIGTERM])
        for number in signals:
            self._before[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, *_) -> None:
        for number, handler in self._before.items():
            # None stands for a handler that was not Python's and cannot be put back.
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        self._before = {}

    def requested(self, step: int) -> bool:
        """Whether to stop after `step`; all processes get True at the same step.

        Every process calls this after every step, with the same numbers, once each.
        Where it stays False on a process that was signalled, the others are still to
        reach the step agreed on, which is at most a few further on.
        """
        if jax.distributed.is_initialized():
            return multihost_utils.reached_preemption_sync_point(step)
        return self._seen is not None

    @property
    def pending(self) -> bool:
        """Whether this process alone has been signalled, as far as Python knows.

        For work that one process does between steps: reading data, sampling. It must
        not decide anything that the other processes take part in.
        """
        return self._seen is not None

    @property
    def exit_code(self) -> int:
        """INTERRUPTED where Ctrl-C was pressed, PREEMPTED on every other process."""
        if self._seen == signal.SIGINT:
            return errors.INTERRUPTED
        return errors.PREEMPTED

    def _handle(self, number, frame) -> None:
        del frame
        self._seen = self._seen or number
        if number == signal.SIGINT:
            signal.signal(signal.SIGINT, signal.SIG_DFL)
            # Not print: a handler may run inside another print to the same stream.
            os.write(sys.__stderr__.fileno(), SAVING)
            if self._distributed:
                os.kill(os.getpid(), signal.SIGTERM)
