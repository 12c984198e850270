# SPDX-License-Identifier: Apache-2.0
"""A stuck process ends with its stacks written; a slow or a stopped one goes on."""

import signal
import socket
import subprocess
import sys
import time

import pytest

from alignjax import errors
from alignjax.distributed import lifecycle

PRELUDE = """
import sys, time
from alignjax.distributed import lifecycle
def stuck_here(seconds):
    time.sleep(seconds)
def guard(limit, **options):
    return lifecycle.Watchdog(limit, linger=0.1, **options)
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
    output, stderr = child.communicate(timeout=30)
    return child.returncode, output, stderr


def test_a_stuck_process_ends_and_says_where(tmp_path):
    path = tmp_path / "stacks.txt"
    began = time.monotonic()
    code, output, stderr = run(
        "with guard(1, name='process 1 of 2', path=sys.argv[1]) as dog:\n"
        "    dog.beat('step 7')\n"
        "    stuck_here(60)\n"
        "print('went on')\n",
        path,
    )
    assert code == errors.HANG
    assert output == ""
    assert time.monotonic() - began < 10
    for text in (stderr, path.read_text()):
        assert "process 1 of 2: no progress for 1 s" in text
        assert "phase 'step 7'" in text
        assert "in stuck_here" in text


def test_a_slow_process_that_moves_is_left_alone():
    code, output, stderr = run(
        "with guard(0.5) as dog:\n"
        "    for step in range(12):\n"
        "        dog.beat(f'step {step}')\n"
        "        time.sleep(0.2)\n"
        "print('done')\n"
    )
    assert (code, output, stderr) == (0, "done\n", "")


def test_time_in_which_the_process_was_stopped_does_not_count(capfd):
    """Seen from inside, the clock has jumped between two looks at it."""
    now, codes = 0.0, []
    dog = lifecycle.Watchdog(1, clock=lambda: now, end=codes.append, linger=0)
    with dog:
        dog.beat("step 5")
        now = 1000.0
        time.sleep(0.5)
        assert codes == []
        for _ in range(40):  # now it passes as it should, and nothing happens
            now += 0.2
            time.sleep(0.1)
            if codes:
                break
    assert codes == [errors.HANG]
    assert "no progress for 1 s" in capfd.readouterr().err


def test_a_stopped_process_goes_on():
    child = start(
        "with guard(1) as dog:\n"
        "    print('running', flush=True)\n"
        "    for step in range(20):\n"
        "        dog.beat(f'step {step}')\n"
        "        time.sleep(0.1)\n"
        "print('done')\n"
    )
    assert child.stdout.readline() == "running\n"
    time.sleep(0.3)
    child.send_signal(signal.SIGSTOP)
    time.sleep(2)
    child.send_signal(signal.SIGCONT)
    output, stderr = child.communicate(timeout=20)
    assert (child.returncode, output, stderr) == (0, "done\n", "")


TWO = """
import os
os.environ["JAX_PLATFORMS"] = "cpu"
import jax
from jax.experimental import multihost_utils
address, index, path = sys.argv[1], int(sys.argv[2]), sys.argv[3]
jax.distributed.initialize(address, 2, index)
with lifecycle.Watchdog(3, name=f"process {index} of 2", path=path) as dog:
    for step in range(100):
        dog.beat(f"data of step {step}")
        if step == 4 and index == 0:
            stuck_here(60)
        dog.beat(f"step {step}")
        multihost_utils.process_allgather(jax.numpy.ones(3))
"""


def test_every_process_says_where_it_waits_and_which_is_the_late_one(tmp_path):
    """Process 0, whose end kills the other, is stuck; the other waits for it."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    paths = [tmp_path / "0.txt", tmp_path / "1.txt"]
    children = [start(TWO, address, i, path) for i, path in enumerate(paths)]
    outputs = [child.communicate(timeout=60) for child in children]
    assert children[0].returncode == errors.HANG, outputs
    # The other one's own end, or the runtime's once its coordinator is gone.
    assert children[1].returncode in (errors.HANG, -signal.SIGABRT), outputs
    late, waiting = (path.read_text() for path in paths)
    assert "process 0 of 2" in late and "phase 'data of step 4'" in late
    assert "in stuck_here" in late
    assert "process 1 of 2" in waiting and "phase 'step 4'" in waiting
    assert "process_allgather" in waiting


def test_leaving_it_ends_the_watch():
    code, output, stderr = run(
        "with guard(0.3) as dog:\n    time.sleep(0.2)\ntime.sleep(1.5)\nprint('done')\n"
    )
    assert (code, output, stderr) == (0, "done\n", "")


def test_none_is_off():
    with lifecycle.Watchdog(None, end=lambda code: pytest.fail("ended")) as dog:
        dog.beat("step 0")
        time.sleep(0.2)


@pytest.mark.parametrize("limit", [0, -1, float("nan")])
def test_a_limit_is_positive(limit):
    with pytest.raises(ValueError, match="not positive"):
        lifecycle.Watchdog(limit)
