# SPDX-License-Identifier: Apache-2.0
"""How a run is getting on, in one line: step, loss, speed, time left."""

from __future__ import annotations

import collections
import shutil
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any, TextIO

# A terminal is redrawn at most so often; steps can be much faster.
REDRAW_SECONDS = 0.1


class Clock:
    """The seconds that a run still needs, from the pace of its last steps."""

    def __init__(self, total_steps: int, clock: Callable[[], float] = time.monotonic):
        self._total = total_steps
        self._clock = clock
        self._recent = collections.deque(maxlen=50)  # (steps done, seconds)

    def left(self, done: int) -> float | None:
        """Seconds until all steps are done, now that `done` are; None at first.

        The pace includes whatever goes on between steps, since the rest will too.
        """
        self._recent.append((done, self._clock()))
        (first, since), (last, now) = self._recent[0], self._recent[-1]
        if last == first:
            return None
        return (self._total - done) * (now - since) / (last - first)


def line(
    step: int,
    total_steps: int,
    metrics: Mapping[str, Any],
    left: float | None,
    width: int | None = None,
) -> str:
    """`step 120/2000  loss 3.412  84.1k tok/s  MFU 41.2%  1:02 left`.

    `step` counts from 0, as records do; the line counts steps done. What does not fit
    into `width` columns is left out whole, from the least important on.
    """
    digits = len(str(total_steps))
    parts = [(0, f"step {step + 1:>{digits}}/{total_steps}")]
    if "loss" in metrics:
        parts.append((1, f"loss {metrics['loss']:.4g}"))
    if "eval/loss" in metrics:
        parts.append((2, f"eval {metrics['eval/loss']:.4g}"))
    if "tokens_per_second" in metrics:
        parts.append((4, f"{short(metrics['tokens_per_second'])} tok/s"))
    if "mfu" in metrics:
        parts.append((5, f"MFU {metrics['mfu']:.1%}"))
    if left is not None:
        parts.append((3, f"{duration(left)} left"))
    while width is not None and len(parts) > 1 and len(text := _join(parts)) > width:
        parts.remove(max(parts))
    text = _join(parts)
    return text if width is None else text[:width]


def short(number: float) -> str:
    """Three digits and a unit: 84120 is `84.1k`."""
    for unit in ("", "k", "M", "G"):
        if abs(number) < 999.5:
            return f"{number:.3g}{unit}"
        number /= 1000
    return f"{number:.3g}T"


def duration(seconds: float) -> str:
    """`m:ss`, `h:mm:ss`, or days in front of that."""
    minutes, seconds = divmod(max(0, round(seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    if days:
        return f"{days}d {hours}:{minutes:02}:{seconds:02}"
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"


class Terminal:
    """Lines that stay, and on a terminal one below them that is drawn over and over."""

    def __init__(
        self, stream: TextIO | None = None, clock: Callable[[], float] = time.monotonic
    ):
        """`stream` is stdout unless told otherwise; `clock` counts seconds."""
        self._stream = sys.stdout if stream is None else stream
        self._clock = clock
        self._drawn_at = None
        self._shown = False
        self.live = bool(getattr(self._stream, "isatty", lambda: False)())

    @property
    def width(self) -> int:
        """Columns that a line may take and not wrap, which would spoil redrawing."""
        return max(1, shutil.get_terminal_size().columns - 1)

    def say(self, message: str) -> None:
        """Prints `message` to stay, above the live line."""
        self._clear()
        self._stream.write(f"{message}\n")
        self._stream.flush()

    def show(self, draw: Callable[[int], str], *, force: bool = False) -> None:
        """Draws the live line, `draw(width)`, unless it was drawn a moment ago."""
        now = self._clock()
        if not self.live:
            return
        recent = self._drawn_at is not None and now - self._drawn_at < REDRAW_SECONDS
        if recent and not force:
            return
        self._drawn_at, self._shown = now, True
        self._stream.write(f"\r{draw(self.width)}\x1b[K")
        self._stream.flush()

    def close(self) -> None:
        """Leaves the live line standing, and the cursor below it."""
        if self._shown:
            self._stream.write("\n")
            self._stream.flush()
            self._shown = False

    def _clear(self) -> None:
        if self._shown:
            self._stream.write("\r\x1b[K")
            self._shown = False


def _join(parts: list[tuple[int, str]]) -> str:
    return "  ".join(text for _, text in parts)
