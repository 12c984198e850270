# SPDX-License-Identifier: Apache-2.0
"""Signals end a run after its step, saved; real signals to real processes."""

import os
import signal
import socket
import subprocess
import sys

import jax
import pytest
from jax.experimental import multihost_utils

from alignjax import errors
from alignjax.distributed import lifecycle

# A loop that says when it runs, and what it does when it is asked to stop.
LOOP = """
import os, sys, time
os.environ["JAX_PLATFORMS"] = "cpu"
import jax
if len(sys.argv) > 1:
    address, count, index = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    jax.distributed.initialize(address, count, index)
from alignjax.distributed import lifecycle
with lifecycle.Interruption() as stop:
    for step in range(3000):
        time.sleep(0.01)
        if step == 5:
            print("running", flush=True)
        # As `train`, where a run stops between rollouts of four updates alone.
        if stop.requested(step) and (step + 1) % 4 == 0:
            time.sleep(float(os.environ.get("SAVE_SECONDS", 0)))
            print(f"saved {step}", flush=True)
            break
    else:
        raise SystemExit("never asked to stop")
raise SystemExit(stop.exit_code)
"""


def start(*arguments, **environment):
    return subprocess.Popen(
        [sys.executable, "-c", LOOP, *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | environment,
    )


def wait_until_running(child):
    assert child.stdout.readline() == "running\n", child.communicate()[1]


@pytest.mark.parametrize(
    ("number", "code"),
    [(signal.SIGTERM, errors.PREEMPTED), (signal.SIGINT, errors.INTERRUPTED)],
)
def test_a_signal_saves_and_exits(number, code):
    child = start()
    wait_until_running(child)
    child.send_signal(number)
    output, errors = child.communicate(timeout=20)
    assert output.startswith("saved")
    assert child.returncode == code
    assert ("again to quit" in errors) == (number == signal.SIGINT)


def test_a_second_sigterm_changes_nothing():
    child = start(SAVE_SECONDS="1")
    wait_until_running(child)
    for _ in range(3):
        child.send_signal(signal.SIGTERM)
    output, _ = child.communicate(timeout=20)
    assert output.startswith("saved")
    assert child.returncode == errors.PREEMPTED


def test_a_second_sigint_ends_it_at_once():
    child = start(SAVE_SECONDS="30")
    wait_until_running(child)
    child.send_signal(signal.SIGINT)
    while "again to quit" not in child.stderr.readline():
        assert child.poll() is None
    child.send_signal(signal.SIGINT)
    output, _ = child.communicate(timeout=10)
    assert output == ""
    assert child.returncode == -signal.SIGINT  # what a shell reports as 130


@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_all_processes_stop_at_the_same_step(count, number):
    """One of them is signalled, the last; also with jax.distributed of one process."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    children = [start(address, count, index) for index in range(count)]
    for child in children:
        wait_until_running(child)
    children[-1].send_signal(number)
    results = [child.communicate(timeout=40) for child in children]
    saved = {output for output, _ in results}
    assert len(saved) == 1 and saved.pop().startswith("saved"), results
    codes = [child.returncode for child in children]
    signalled = {signal.SIGTERM: errors.PREEMPTED, signal.SIGINT: errors.INTERRUPTED}
    assert codes == [errors.PREEMPTED] * (count - 1) + [signalled[number]]


def test_a_preemption_is_remembered(monkeypatch):
    """JAX says so at one step, which may be within a rollout; then no longer."""
    asked = []

    def reached(step):
        asked.append(step)
        return step == 5

    monkeypatch.setattr(jax.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(multihost_utils, "reached_preemption_sync_point", reached)
    with lifecycle.Interruption() as stop:
        assert [i for i in range(12) if stop.requested(i)] == list(range(5, 12))
        assert stop.exit_code == errors.PREEMPTED
    assert asked[:6] == list(range(6))  # by every process at every step up to there


def test_handlers_are_put_back():
    before = [signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGINT)]
    with lifecycle.Interruption() as stop:
        assert not stop.requested(0)
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.requested(1)
        assert stop.exit_code == errors.PREEMPTED
    assert [signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGINT)] == before


def test_exit_codes_are_distinct():
    codes = {k: v for k, v in vars(errors).items() if k.isupper()}
    assert len(codes) == 8 == len(set(codes.values()))
    assert set(codes.values()) == {0, 65, 74, 75, 76, 77, 78, 130}
