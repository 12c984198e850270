# SPDX-License-Identifier: Apache-2.0
"""How a run is getting on, in one line: step, loss, time left, speed."""

from __future__ import annotations

import collections
import shutil
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any, TextIO

# A terminal is redrawn at most so often; steps can be much faster.
REDRAW_SECONDS = 0.1
LOG_SECONDS = 60.0  # elsewhere lines stay, so that there should be few
SEEN = ("pairs", "lists", "responses")  # metrics that count what was trained on
# The loss of rollouts is near 0, whatever is learned.
REWARDS = {"rollout/reward": "reward", "eval/reward": "eval reward"}


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
    step: int, total_steps: int, metrics: Mapping[str, Any], left: float | None
) -> str:
    """`step 120/2000  loss 3.412  960 pairs  1:02 left  84.1k tok/s  MFU 41.2%`.

    `step` counts from 0, as records do; the line counts steps done. The most important
    comes first, for on a narrow terminal the last parts are left out.
    """
    parts = [f"step {step + 1:>{len(str(total_steps))}}/{total_steps}"]
    if "loss" in metrics:
        parts.append(f"loss {metrics['loss']:.4g}")
    if "eval/loss" in metrics:
        parts.append(f"eval {metrics['eval/loss']:.4g}")
    for key, name in REWARDS.items():
        if key in metrics:
            parts.append(f"{name} {metrics[key]:.4g}")
    parts += [f"{short(metrics[k])} {k}" for k in SEEN if k in metrics]
    if left is not None:
        parts.append(f"{duration(left)} left")
    if "tokens_per_second" in metrics:
        parts.append(f"{short(metrics['tokens_per_second'])} tok/s")
    if "mfu" in metrics:
        parts.append(f"MFU {metrics['mfu']:.1%}")
    return "  ".join(parts)


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
    """Lines that stay, and one below them that is drawn over and over.

    Where the stream is no terminal, such as a log, that one is printed where nothing
    else was for a minute.
    """

    def __init__(
        self, stream: TextIO | None = None, clock: Callable[[], float] = time.monotonic
    ):
        """`stream` is stdout unless told otherwise; `clock` counts seconds."""
        self._stream = sys.stdout if stream is None else stream
        self.live = self._stream.isatty()
        self._clock, self._shown = clock, False
        self._drawn_at = float("-inf") if self.live else clock()

    def say(self, message: str) -> None:
        """Prints `message` to stay, above the live line."""
        if not self.live:
            self._drawn_at = self._clock()
        self._write(("\r\x1b[K" if self._shown else "") + f"{message}\n", shown=False)

    def show(self, text: str, *, force: bool = False) -> None:
        """Draws the live line, unless it was drawn a moment ago, or with `force`."""
        now = self._clock()
        if not self.live:
            if now - self._drawn_at >= LOG_SECONDS:
                self.say(text)
        elif force or now - self._drawn_at >= REDRAW_SECONDS:
            self._drawn_at = now
            # One column less: a line that wraps could not be drawn over.
            width = max(1, shutil.get_terminal_size().columns - 1)
            if len(text) > width:  # parts, which two spaces part, go as a whole
                text = text[: width + 2].rpartition("  ")[0][:width] or text[:width]
            self._write(f"\r{text}\x1b[K", shown=True)

    def close(self) -> None:
        """Leaves the live line standing, and the cursor below it."""
        if self._shown:
            self._write("\n", shown=False)

    def _write(self, text: str, *, shown: bool) -> None:
        self._stream.write(text)
        self._stream.flush()
        self._shown = shown
