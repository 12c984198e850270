# SPDX-License-Identifier: Apache-2.0
"""Traces of the profiler: which instruction ran when, on which device.

On a GPU and a TPU a device is a plane of the trace, on a CPU a number of the host's.
"""

from __future__ import annotations

import pathlib
import re
import warnings
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from alignjax import errors
from alignjax.storage import filenames

DEVICE = re.compile(r"/device:(GPU|TPU|CUSTOM):(\d+)")
HOST = "/host:CPU"
OPS = "XLA Ops"  # the line of a device that sums up its streams, where there is one


class Event(NamedTuple):
    """An instruction that ran once: nanoseconds from the start of the trace."""

    device: str
    module: str
    name: str
    start: float
    stop: float


def find(folder: pathlib.Path) -> pathlib.Path:
    """The newest trace under the folder that `--profile` writes.

    Raises:
      ConfigError: there is none.
    """
    files = sorted(folder.glob("plugins/profile/*/*.xplane.pb"))
    if not files:
        raise errors.ConfigError(
            f"run: {folder} has no trace; train with --profile, for more than 10 steps"
        )
    return files[-1]


def read(path: pathlib.Path) -> list[Event]:
    """The instructions of all programs in a trace, of all devices, by start.

    Raises:
      DataError: a file that is no trace.
    """
    with warnings.catch_warnings():
        # Its types say nothing of the module that they are from.
        warnings.simplefilter("ignore", DeprecationWarning)
        from jax import profiler

        try:
            filenames.open_file(path).close()  # a FIFO would be waited for
            data = profiler.ProfileData.from_file(str(path))
            events = [event for plane in data.planes for event in _of_plane(plane)]
        except (OSError, RuntimeError, ValueError) as error:
            raise errors.DataError(f"{path}: no trace: {error}") from error
    return sorted(events, key=lambda event: event.start)


def _of_plane(plane) -> Iterable[Event]:
    if not (DEVICE.match(plane.name) or plane.name == HOST):
        return
    lines = list(plane.lines)
    if any(line.name == OPS for line in lines):
        lines = [line for line in lines if line.name == OPS]
    for line in lines:
        for event in line.events:
            stats = dict(event.stats)
            name = stats.get("hlo_op") or (line.name == OPS and event.name)
            if not name:
                continue
            device = plane.name
            if device == HOST:
                device = f"cpu:{stats.get('device_ordinal', 0)}"
            # On TPUs the whole line of the program stands there.
            name = str(name).partition(" ")[0].lstrip("%")
            stop = event.start_ns + event.duration_ns
            module = str(stats.get("hlo_module", ""))
            yield Event(device, module, name, event.start_ns, stop)


def covered(spans: Sequence[tuple[float, float]]) -> float:
    """The length of the union of intervals `(start, stop)`."""
    total, end = 0.0, float("-inf")
    for start, stop in sorted(spans):
        total += max(0.0, stop - max(start, end))
        end = max(end, stop)
    return total
