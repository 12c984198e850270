# SPDX-License-Identifier: Apache-2.0
"""Worker processes with bounds, for work that somebody else's file describes.

A worker is one process that answers calls of one function, JSON in and JSON out. CPU
time, memory and wall-clock time are bounded by the operating system and by the caller,
so the worst that such a file can do is to end its worker; the next call starts another.
"""

from __future__ import annotations

import importlib
import json
import os
import resource
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from typing import Any, NamedTuple

_LENGTH = struct.Struct(">Q")  # goes before each message
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
        self._socket: socket.socket | None = None
        self._owner = 0  # the process that started it; one that forks needs its own

    def call(self, request: Any) -> Any:
        """The function's answer to a JSON value. Threads wait for one another.

        Raises:
          TypeError: the request is not JSON.
          WorkerError: there is no answer; the message says which limit was met.
        """
        message = json.dumps(request).encode()
        with self._lock:
            deadline = time.monotonic() + self.limits.wall_seconds
            try:
                if not self._running():
                    self._start()
                _send(self._socket, message, deadline)
                answer = _receive(self._socket, self.limits.answer_bytes, deadline)
            except OSError as error:
                fault = self._fault(error)
                self._stop()
                raise WorkerError(fault) from error
            except BaseException:  # such as Ctrl-C: its answer is for nobody
                self._stop()
                raise
        result, fault = json.loads(answer)
        if fault is not None:
            raise WorkerError(fault)
        return result

    def close(self) -> None:
        """Ends the process, if there is one."""
        with self._lock:
            self._stop()

    def _running(self) -> bool:
        if self._owner != os.getpid():
            self._process = self._socket = None
        return self._process is not None and self._process.poll() is None

    def _start(self) -> None:
        self._stop()
        self._owner = os.getpid()
        self._socket, other = socket.socketpair()
        with other:
            limits = [str(self.limits.cpu_seconds), str(self.limits.memory_bytes)]
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-c", _MAIN, self.function, str(other.fileno())]
                + limits,
                pass_fds=[other.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                env={**os.environ, "PYTHONPATH": os.pathsep.join(map(str, sys.path))},
            )

    def _stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._socket.close()
        self._process = self._socket = None

    def _fault(self, error: OSError) -> str:
        """Why a call has no answer."""
        if isinstance(error, TimeoutError):
            return f"it was not done after {self.limits.wall_seconds:g} s"
        if isinstance(error, _TooLong):
            return str(error)
        if self._process is None:
            return f"its process cannot be started: {error}"
        try:
            code = self._process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            return f"its process does not answer: {error}"
        if code == -signal.SIGXCPU:
            return f"it took more than {self.limits.cpu_seconds} s of processor time"
        how = signal.Signals(-code).name if code < 0 else f"exit code {code}"
        return f"its process died ({how}), perhaps for want of memory"


class _TooLong(OSError):
    """An answer that is longer than it may be."""


def main(function: str, descriptor: str, cpu_seconds: str, memory_bytes: str) -> None:
    """Answers calls until the other end of the socket is closed; a worker's program."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the caller
    channel = socket.socket(fileno=int(descriptor))
    module, _, name = function.partition(":")
    answer = getattr(importlib.import_module(module), name)
    nothing = (0, 0)
    resource.setrlimit(resource.RLIMIT_AS, (int(memory_bytes),) * 2)
    resource.setrlimit(resource.RLIMIT_CORE, nothing)
    resource.setrlimit(resource.RLIMIT_FSIZE, nothing)  # no file can be written
    while True:
        try:
            request = json.loads(_receive(channel))
        except ConnectionResetError:
            return
        _allow_processor_time(int(cpu_seconds))
        try:
            message = json.dumps([answer(request), None]).encode()
        except Exception as error:
            message = json.dumps([None, f"{type(error).__name__}: {error}"]).encode()
        _send(channel, message)


def _allow_processor_time(seconds: int) -> None:
    used = resource.getrusage(resource.RUSAGE_SELF)
    soft = int(used.ru_utime + used.ru_stime) + 1 + seconds
    resource.setrlimit(resource.RLIMIT_CPU, (soft, resource.RLIM_INFINITY))


def _send(channel: socket.socket, message: bytes, deadline: float | None = None):
    _wait_until(channel, deadline)
    channel.sendall(_LENGTH.pack(len(message)) + message)


def _receive(
    channel: socket.socket, most: int | None = None, deadline: float | None = None
) -> bytes:
    """The next message; `most` are the bytes that it may have."""
    (length,) = _LENGTH.unpack(_read(channel, _LENGTH.size, deadline))
    if most is not None and length > most:
        raise _TooLong(f"its answer has {length:,} bytes, where {most:,} are the most")
    return _read(channel, length, deadline)


def _read(channel: socket.socket, count: int, deadline: float | None) -> bytes:
    content = bytearray(count)
    view = memoryview(content)
    while view:
        _wait_until(channel, deadline)
        if not (size := channel.recv_into(view)):
            raise ConnectionResetError("the other end is closed")
        view = view[size:]
    return bytes(content)


def _wait_until(channel: socket.socket, deadline: float | None) -> None:
    """Bounds the next operation of a socket."""
    if deadline is not None:
        remaining = deadline - time.monotonic()
        if remaining <= 0:
            raise TimeoutError
        channel.settimeout(remaining)
