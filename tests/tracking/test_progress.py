# SPDX-License-Identifier: Apache-2.0
"""The progress line: what it says, when it is drawn."""

import io
import math
import os
import pty
import subprocess
import sys

import pytest

from alignjax.tracking import progress

METRICS = {
    "loss": 3.4117,
    "eval/loss": 3.5,
    "tokens_per_second": 84_120.0,
    "mfu": 0.412,
}


class FakeTerminal(io.StringIO):
    def isatty(self):
        return True


def test_line_says_steps_done_loss_speed_and_time():
    line = progress.line(119, 2000, METRICS, left=3723)
    assert line == (
        "step  120/2000  loss 3.412  eval 3.5  1:02:03 left  84.1k tok/s  MFU 41.2%"
    )
    assert progress.line(0, 10, {}, left=None) == "step  1/10"
    rewards = {"loss": 0, "rollout/reward": 1.25, "eval/reward": -0.5}
    assert "loss 0  reward 1.25  eval reward -0.5" in progress.line(0, 9, rewards, None)
    for name in progress.SEEN:  # comparisons of runs are by these
        assert f"4.54k {name}" in progress.line(0, 10, {name: 4540}, left=None)
    assert "loss nan" in progress.line(0, 10, {"loss": math.nan}, left=None)


@pytest.mark.parametrize(
    ("number", "text"),
    [(0, "0"), (7.25, "7.25"), (999.4, "999"), (999.6, "1k"), (84_120, "84.1k"),
     (1.5e6, "1.5M"), (2e9, "2G"), (3e12, "3T"), (4e15, "4e+03T")],
)  # fmt: skip
def test_short(number, text):
    assert progress.short(number) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0:00"), (59.6, "1:00"), (3599, "59:59"), (3600, "1:00:00"),
     (90_061, "1d 1:01:01"), (-3, "0:00")],
)  # fmt: skip
def test_duration(seconds, text):
    assert progress.duration(seconds) == text


def test_time_left_follows_the_recent_pace():
    now = 0.0
    clock = progress.Clock(100, clock=lambda: now)
    assert clock.left(1) is None
    now = 2.0
    assert clock.left(2) == pytest.approx(98 * 2.0)
    for done in range(3, 91):  # now twice as fast: the slow start is forgotten
        now += 1.0
        left = clock.left(done)
    assert left == pytest.approx(10.0)


def test_a_terminal_is_redrawn_a_few_times_a_second_and_said_lines_stay():
    now = 0.0
    stream = FakeTerminal()
    terminal = progress.Terminal(stream, clock=lambda: now)
    for step in range(100):
        now += 0.01
        terminal.show(f"step {step}")
    assert 9 <= stream.getvalue().count("\r") <= 11
    terminal.show("last", force=True)
    assert stream.getvalue().endswith("\rlast\x1b[K")
    terminal.say("saved")
    assert stream.getvalue().endswith("\r\x1b[Ksaved\n")
    terminal.show("again", force=True)
    terminal.close()
    assert stream.getvalue().endswith("again\x1b[K\n")


def test_nothing_is_drawn_where_there_is_no_terminal():
    stream = io.StringIO()
    terminal = progress.Terminal(stream)
    terminal.show("step 1", force=True)
    terminal.say("saved")
    terminal.close()
    assert stream.getvalue() == "saved\n"


def test_a_log_gets_a_line_where_nothing_was_said_for_a_minute():
    now = 0.0
    stream = io.StringIO()
    terminal = progress.Terminal(stream, clock=lambda: now)
    for seconds in range(0, 150, 10):
        now = float(seconds)
        terminal.show(f"{seconds} of 150")
        if seconds == 90:
            terminal.say("saved")
    assert stream.getvalue() == "60 of 150\nsaved\n"
    now = 150.0
    terminal.show("150 of 150")
    assert stream.getvalue().endswith("saved\n150 of 150\n")


def test_on_a_real_narrow_terminal_no_line_wraps():
    """A line of 20 characters does not go into 20 columns: the cursor needs one."""
    program = (
        "from alignjax.tracking import progress\n"
        "terminal = progress.Terminal()\n"
        "metrics = {'loss': 3.2, 'tokens_per_second': 1e5}\n"
        "terminal.show(progress.line(41, 99, metrics, 60))\n"
        "terminal.close()\n"
    )
    ours, theirs = pty.openpty()
    environment = {k: v for k, v in os.environ.items() if k != "COLUMNS"}
    subprocess.run(["stty", "cols", "20"], stdin=theirs, check=True)
    command = [sys.executable, "-c", program]
    subprocess.run(command, stdout=theirs, stdin=theirs, env=environment, check=True)
    os.close(theirs)
    seen = os.read(ours, 1000).decode()
    os.close(ours)
    assert seen == "\rstep 42/99\x1b[K\r\n"
