# SPDX-License-Identifier: Apache-2.0
"""Worker processes with bounds, for work that somebody else's file describes.

A worker is one process that answers calls of one function, JSON in and JSON out. CPU
time, memory and wall-clock time are bounded by the operating system and by the caller,
so the worst that such a file can do is to end its worker; the next call starts another.

A worker leads a session of its own, so that processes that a function starts end with
it. It ends when its caller does, however that ends: its pipe is closed then.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import resource
import select
import signal
import subprocess
import sys
import threading
from multiprocessing import connection
from typing import Any, NamedTuple

_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
_MAIN = "import sys; from alignjax import workers; workers.main(*sys.argv[1:])"


class Limits(NamedTuple):
    """What a worker may use.

    Attributes:
      cpu_seconds: of processor time, for each call.
      wall_seconds: from a call to its answer, the start of the process included.
      memory_bytes: of address space.
      answer_bytes: of JSON in an answer.
    """

    cpu_seconds: int = 20
    wall_seconds: float = 300.0
    memory_bytes: int = 1 << 30
    answer_bytes: int = 1 << 28


class WorkerError(Exception):
    """A call that has no answer: the worker failed, died, or was stopped."""


class Worker:
    """Calls one function in a process that starts with the first call.

    Args:
      function: `module:function`, of one JSON value to another. Whatever its module
        imports is loaded in the worker, so keep that small.
      limits: what the process may use.
    """

    def __init__(self, function: str, limits: Limits | None = None):
        self.function = function
        self.limits = limits or Limits()
        self._lock = threading.Lock()
        self._process: subprocess.Popen | None = None
        self._channel: connection.Connection | None = None
        self._owner = 0  # the process that started it; one that forks needs its own

    def call(self, request: Any) -> Any:
        """The function's answer to a JSON value. Threads wait for one another.

        Raises:
          TypeError: the request is not JSON.
          WorkerError: there is no answer; the message says which limit was met.
        """
        message = json.dumps(request).encode()
        late = threading.Event()
        timer = threading.Timer(self.limits.wall_seconds, self._end, [late])
        with self._lock:
            timer.start()
            try:
                if self._owner != os.getpid():
                    self._process = self._channel = None
                if self._process is None or self._process.poll() is not None:
                    self._start()
                self._channel.send_bytes(message)
                answer = self._channel.recv_bytes(self.limits.answer_bytes)
            except (OSError, EOFError) as error:
                fault = self._fault(error, late.is_set())
                self._stop()
                raise WorkerError(fault) from error
            except BaseException:  # such as Ctrl-C: its answer is for nobody
                self._stop()
                raise
            finally:
                timer.cancel()
        result, fault = json.loads(answer)
        if fault is not None:
            raise WorkerError(fault)
        return result

    def close(self) -> None:
        """Ends the process, if there is one."""
        with self._lock:
            self._stop()

    def _start(self) -> None:
        self._stop()
        self._owner = os.getpid()
        self._channel, other = connection.Pipe()
        with other:
            limits = [str(self.limits.cpu_seconds), str(self.limits.memory_bytes)]
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-c", _MAIN, self.function, str(other.fileno())]
                + limits,
                pass_fds=[other.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                start_new_session=True,
                env={**os.environ, "PYTHONPATH": os.pathsep.join(map(str, sys.path))},
            )

    def _end(self, late: threading.Event) -> None:
        late.set()
        if (process := self._process) is not None:
            _kill(process)

    def _stop(self) -> None:
        if self._process is not None:
            _kill(self._process)
            self._process.wait()
        if self._channel is not None:
            self._channel.close()
        self._process = self._channel = None

    def _fault(self, error: Exception, late: bool) -> str:
        """Why a call has no answer."""
        if late:
            return f"it was not done after {self.limits.wall_seconds:g} s"
        if self._process is None:
            return f"its process cannot be started: {error}"
        try:
            code = self._process.wait(timeout=1)
        except subprocess.TimeoutExpired:
            most = f"{self.limits.answer_bytes:,} bytes are the most"
            return f"its answer cannot be read ({error}); {most}"
        if code == -signal.SIGXCPU:
            return f"it took more than {self.limits.cpu_seconds} s of processor time"
        how = signal.Signals(-code).name if code < 0 else f"exit code {code}"
        memory = ", perhaps for want of memory" if code < 0 else ""
        return f"its process died ({how}){memory}"


def _kill(process: subprocess.Popen) -> None:
    """Ends a worker, and what its function started."""
    # macOS says that it may not where all of them are dead.
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)


def main(function: str, descriptor: str, cpu_seconds: str, memory_bytes: str) -> None:
    """Answers calls until the other end of the pipe is closed; a worker's program."""
    channel, own = connection.Connection(int(descriptor)), os.getpid()
    # A process that the function starts neither keeps the pipe open nor answers.
    os.set_inheritable(channel.fileno(), False)
    os.register_at_fork(after_in_child=channel.close)
    threading.Thread(target=_end_with_caller, args=[channel], daemon=True).start()
    module, _, name = function.partition(":")
    answer = getattr(importlib.import_module(module), name)
    resource.setrlimit(resource.RLIMIT_AS, (int(memory_bytes),) * 2)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))  # no file can be written
    sys.addaudithook(_refuse_changes)  # nor emptied or removed, by Python's own calls
    with contextlib.suppress(EOFError, OSError):
        while True:
            request = json.loads(channel.recv_bytes())
            used = resource.getrusage(resource.RUSAGE_SELF)
            soft = int(used.ru_utime + used.ru_stime) + 1 + int(cpu_seconds)
            resource.setrlimit(resource.RLIMIT_CPU, (soft, resource.RLIM_INFINITY))
            try:
                result = json.dumps([answer(request), None]).encode()
            except Exception as error:
                result = json.dumps([None, f"{type(error).__name__}: {error}"]).encode()
            channel.send_bytes(result)
    if os.getpid() == own:  # and no process that the function forked and that returned
        os.killpg(own, signal.SIGKILL)


def _refuse_changes(event: str, arguments: tuple) -> None:
    if event in ("os.remove", "os.rename", "os.rmdir", "os.truncate"):
        raise PermissionError(f"{event}: this process changes no file")
    if event == "open":
        path, _, flags = arguments
        is_named = not isinstance(path, int) and os.fsdecode(path) != os.devnull
        if is_named and flags & _WRITING:
            raise PermissionError(f"open {path!r:.200}: this process changes no file")


def _end_with_caller(channel: connection.Connection) -> None:
    """Ends this process and what it started once the caller is gone, in a call too."""
    signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())  # for the other
    caller = select.poll()
    caller.register(channel, 0)  # wakes for nothing but a pipe that is closed
    caller.poll()
    os.killpg(0, signal.SIGKILL)
