# SPDX-License-Identifier: Apache-2.0
"""A map over processes: in order, bounded in what is in flight, leaving no orphans."""

from __future__ import annotations

import collections
import contextlib
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent import futures
from multiprocessing import connection
from typing import Any

_job: Callable[[Any], Any] | None = None  # of a worker process; set as it starts


def cpus() -> int:
    """How many processors this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def ordered_map(
    make_job: Callable[..., Callable[[Any], Any]],
    arguments: tuple,
    items: Iterable[Any],
    workers: int,
) -> Iterator[Any]:
    """`job(item)` for every item, in order, where `job = make_job(*arguments)`.

    The job is made once in each of `workers` fresh processes, so `make_job` is a
    function of a module and the rest can be sent to another process. At most three
    items a worker are in flight, so memory does not grow with their number.

    Raises:
      RuntimeError: a worker died; what a job raises comes out as it is.
    """
    pending: collections.deque[futures.Future] = collections.deque()
    executor = futures.ProcessPoolExecutor(
        workers,
        mp_context=multiprocessing.get_context("spawn"),
        initializer=_start,
        initargs=(make_job, arguments),
    )
    try:
        for item in items:
            with _main_module_hidden():
                pending.append(executor.submit(_run, item))
            if len(pending) >= 3 * workers:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    except futures.process.BrokenProcessPool as error:
        raise RuntimeError(
            "a tokenising process died, perhaps for want of memory; use fewer of them "
            "(data.workers)"
        ) from error
    finally:
        executor.shutdown(wait=True, cancel_futures=True)


def _start(make_job, arguments) -> None:
    """In a new worker: die with the parent, leave Ctrl-C to it, make the job."""
    global _job
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_die_with_parent, daemon=True).start()
    _job = make_job(*arguments)


def _run(item):
    return _job(item)


def _die_with_parent() -> None:
    connection.wait([multiprocessing.parent_process().sentinel])
    os._exit(1)


@contextlib.contextmanager
def _main_module_hidden() -> Iterator[None]:
    """Keeps new processes from importing the program that was started.

    They would otherwise, and with it jax, or run a script that has no `__main__` guard
    a second time. Jobs come from modules, so nothing in there is needed.
    """
    main = sys.modules["__main__"]
    absent = object()
    names = ("__spec__", "__file__")
    saved = {name: getattr(main, name, absent) for name in names}
    try:
        main.__spec__ = main.__file__ = None
        yield
    finally:
        for name, value in saved.items():
            if value is absent:
                delattr(main, name)
            else:
                setattr(main, name, value)
