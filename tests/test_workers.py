# SPDX-License-Identifier: Apache-2.0
"""Worker processes: calls and answers, limits, and starting again."""

import contextlib
import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest

from alignjax import workers

WORK = f"{__name__}:work"


def work(request):
    """What the workers of these tests do, by the name of it."""
    name, *rest = request
    if name == "echo":
        return rest
    if name == "pid":
        return os.getpid()
    if name == "modules":
        return sorted(set(sys.modules) & {"jax", "flax", "numpy", "alignjax.workers"})
    if name == "sleep":
        time.sleep(rest[0])
    if name == "loop":
        while True:
            pass
    if name == "memory":
        return len(bytearray(rest[0]))
    if name == "answer":
        return "x" * rest[0]
    if name == "write":
        pathlib.Path(rest[0]).write_text("here")
    if name == "append":
        open(rest[0], "a").write("more")  # noqa: SIM115, as people write it
    if name == "remove":
        os.remove(rest[0])
    if name == "rename":
        os.replace(rest[0], rest[0] + ".old")
    if name == "discard":
        subprocess.run(["true"], stdout=subprocess.DEVNULL, check=True)
    if name == "die":
        os._exit(3)
    if name == "fork":
        return _sleeper()
    if name == "fork and wait":
        os.waitpid(_sleeper(), 0)
    if name == "fork and return":
        if not os.fork():
            return "child"
        time.sleep(0.3)  # so that an answer of the other would come first
        return "parent"
    return None


def _sleeper():
    """The id of a process that sleeps for a minute."""
    if pid := os.fork():
        return pid
    time.sleep(60)
    os._exit(0)


def wait_for_the_end_of(*pids):
    deadline = time.monotonic() + 30
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            while time.monotonic() < deadline:
                os.kill(pid, 0)
                time.sleep(0.02)
            raise AssertionError(f"{pid} of {pids} is still there")


@pytest.fixture(scope="module")
def worker():
    limits = workers.Limits(1, 60.0, 1 << 28, 1 << 16)
    worker = workers.Worker(WORK, limits)
    yield worker
    worker.close()


def test_calls_are_answered_by_one_process_without_jax(worker):
    values = [1, 2.5, None, "é \ud800 ☃", {"a": [True]}]
    assert worker.call(["echo", *values]) == values
    assert worker.call(["pid"]) == worker.call(["pid"]) != os.getpid()
    assert worker.call(["modules"]) == ["alignjax.workers"]


@pytest.mark.parametrize(
    "request_, reason",
    [
        (["loop"], "more than 1 s of processor time"),
        (["memory", 1 << 29], "MemoryError"),
        (["answer", 1 << 17], "are the most"),
        (["die"], "exit code 3"),
    ],
)
def test_what_goes_beyond_a_limit_is_an_error_and_the_next_call_is_not(
    worker, request_, reason
):
    with pytest.raises(workers.WorkerError, match=reason):
        worker.call(request_)
    assert worker.call(["echo", 1]) == [1]


@pytest.mark.parametrize("how", ["write", "append", "remove", "rename"])
def test_no_file_is_changed(worker, how, tmp_path):
    """Neither one that is there nor one that is not."""
    (tmp_path / "precious").write_text("before")
    for name in ("precious", "new"):
        with pytest.raises(workers.WorkerError, match="changes no file"):
            worker.call([how, str(tmp_path / name)])
    assert [path.name for path in tmp_path.iterdir()] == ["precious"]
    assert (tmp_path / "precious").read_text() == "before"
    assert worker.call(["discard"]) is None  # /dev/null is open to all


def test_a_slow_worker_is_stopped():
    worker = workers.Worker(WORK, workers.Limits(wall_seconds=2.0))
    worker.call(["pid"])
    start = time.monotonic()
    with pytest.raises(workers.WorkerError, match="not done after 2 s"):
        worker.call(["sleep", 60])
    assert time.monotonic() - start < 30
    worker.close()


def test_a_worker_that_was_killed_is_started_again(worker):
    first = worker.call(["pid"])
    os.kill(first, signal.SIGKILL)
    deadline = time.monotonic() + 30
    while worker._process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    assert worker.call(["pid"]) != first


def test_what_is_not_json_is_refused_before_it_is_sent(worker):
    with pytest.raises(TypeError):
        worker.call(["echo", object()])
    assert worker.call(["echo", 1]) == [1]


def test_a_child_that_is_waited_for_does_not_outlast_the_limit():
    worker = workers.Worker(WORK, workers.Limits(wall_seconds=2.0))
    worker.call(["pid"])
    start = time.monotonic()
    with pytest.raises(workers.WorkerError, match="not done after 2 s"):
        worker.call(["fork and wait"])
    assert time.monotonic() - start < 30
    worker.close()


def test_a_child_that_returns_too_gives_no_answer(worker):
    assert worker.call(["fork and return"]) == "parent"
    assert [worker.call(["echo", i]) for i in range(3)] == [[0], [1], [2]]


def test_what_a_function_started_ends_with_the_worker():
    worker = workers.Worker(WORK)
    child = worker.call(["fork"])
    worker.close()
    wait_for_the_end_of(child)


def test_a_process_that_cannot_be_started_leaves_no_pipe(monkeypatch):
    made, make = [], workers.connection.Pipe

    def pipe():
        made.extend(ends := make())
        return ends

    monkeypatch.setattr(workers.connection, "Pipe", pipe)
    monkeypatch.setattr(sys, "executable", "/no/where")
    with pytest.raises(workers.WorkerError, match="cannot be started"):
        workers.Worker(WORK).call(["pid"])
    assert [end.closed for end in made] == [True, True]


@pytest.mark.parametrize("how", ["ends", "is killed in a call"])
def test_a_worker_and_what_it_started_end_when_its_parent(how):
    program = f"from alignjax import workers; call = workers.Worker({WORK!r}).call\n"
    program += "print(call(['pid']), call(['fork']), flush=True)\n"
    killed = how != "ends"
    program += "call(['sleep', 60])" if killed else ""
    with subprocess.Popen(
        [sys.executable, "-c", program],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([*sys.path])},
        stdout=subprocess.PIPE,
        text=True,
    ) as parent:
        pids = [int(pid) for pid in parent.stdout.readline().split()]
        if killed:
            time.sleep(0.3)  # so that the call begins
            parent.kill()
        parent.wait(30)
    assert len(pids) == 2
    wait_for_the_end_of(*pids)
