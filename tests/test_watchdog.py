# SPDX-License-Identifier: Apache-2.0
"""A stuck process ends with its stacks written; a slow or a stopped one goes on."""

import signal
import subprocess
import sys
import time

import pytest

from alignjax import exit_codes, watchdog

PRELUDE = """
import ctypes, sys, time
from alignjax import watchdog
def stuck_here(seconds):
    time.sleep(seconds)
def guard(limit, **options):
    return watchdog.Watchdog(limit, linger=0.1, **options)
"""


def start(program, *arguments):
    return subprocess.Popen(
        [sys.executable, "-c", PRELUDE + program, *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def run(program, *arguments):
    child = start(program, *arguments)
    output, errors = child.communicate(timeout=30)
    return child.returncode, output, errors


def test_a_stuck_process_ends_and_says_where(tmp_path):
    path = tmp_path / "stacks.txt"
    began = time.monotonic()
    code, output, errors = run(
        "with guard(1, name='process 1 of 2', path=sys.argv[1]) as dog:\n"
        "    dog.beat('step 7')\n"
        "    stuck_here(60)\n"
        "print('went on')\n",
        path,
    )
    assert code == exit_codes.HANG
    assert output == ""
    assert time.monotonic() - began < 10
    for text in (errors, path.read_text()):
        assert "process 1 of 2: no progress for 1 s" in text
        assert "phase 'step 7'" in text
        assert "in stuck_here" in text


def test_a_slow_process_that_moves_is_left_alone():
    code, output, errors = run(
        "with guard(0.5) as dog:\n"
        "    for step in range(12):\n"
        "        dog.beat(f'step {step}')\n"
        "        time.sleep(0.2)\n"
        "print('done')\n"
    )
    assert (code, output, errors) == (0, "done\n", "")


def test_a_stopped_process_is_given_its_time_back():
    child = start(
        "with guard(2) as dog:\n"
        "    print('running', flush=True)\n"
        "    for step in range(20):\n"
        "        dog.beat(f'step {step}')\n"
        "        time.sleep(0.1)\n"
        "print('done')\n"
    )
    assert child.stdout.readline() == "running\n"
    time.sleep(0.5)
    child.send_signal(signal.SIGSTOP)
    time.sleep(3)
    child.send_signal(signal.SIGCONT)
    output, errors = child.communicate(timeout=20)
    assert (child.returncode, output, errors) == (0, "done\n", "")


def test_a_thread_that_keeps_the_interpreter_is_ended_all_the_same():
    code, output, errors = run(
        "with guard(0.5) as dog:\n"
        "    dog.beat('step 3')\n"
        "    time.sleep(0.3)\n"
        "    ctypes.PyDLL(None).sleep(60)\n"  # C code that never lets go of the lock
        "print('went on')\n"
    )
    assert code == 1 and output == ""
    assert "Timeout" in errors and "most recent call first" in errors


def test_leaving_it_ends_the_watch():
    code, output, errors = run(
        "with guard(0.3) as dog:\n    time.sleep(0.2)\ntime.sleep(1.5)\nprint('done')\n"
    )
    assert (code, output, errors) == (0, "done\n", "")


def test_none_is_off():
    with watchdog.Watchdog(None, end=lambda code: pytest.fail("ended")) as dog:
        dog.beat("step 0")
        time.sleep(0.2)


@pytest.mark.parametrize("limit", [0, -1, float("nan")])
def test_a_limit_is_positive(limit):
    with pytest.raises(ValueError, match="not positive"):
        watchdog.Watchdog(limit)
