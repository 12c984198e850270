# SPDX-License-Identifier: Apache-2.0
"""The training command in processes of its own, started from a warm server.

The server has imported everything and touched no device, which saves each command the
seconds that it would take to import; `fresh` is the command as a shell starts it.
"""

import io
import multiprocessing
import os
import pathlib
import subprocess
import sys
import time

from alignjax import train
from tests import xla_flags

ROOT = pathlib.Path(__file__).parents[2]
SMALL = ROOT / "tests/train/small.py"


def flags(workdir, corpus, cache, *more: str, config=SMALL) -> list[str]:
    """The flags of a run of `small.py`, or of another config."""
    return [
        f"--config={config}",
        f"--workdir={workdir}",
        f"--config.cache_dir={cache}",
        f"--config.data.sources.text.path={corpus}",
        *more,
    ]


def start(arguments: list[str], output: pathlib.Path, devices: int = 1, before=None):
    """A process that runs the command and writes all that it says to `output`.

    `before` is a function at the top of a module, called first in the new process; if
    it returns a function, that is called last.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["launch"])
    process = context.Process(
        target=_command, args=(arguments, str(output), devices, before)
    )
    process.start()
    return process


def run(arguments, output: pathlib.Path, devices: int = 1, before=None):
    """The exit code of the command, and what it said."""
    process = start(arguments, output, devices, before)
    process.join(120)
    if process.exitcode is None:
        process.kill()
    return process.exitcode, output.read_text()


def optimized() -> None:
    """Called `before` a long run: it is compiled as users compile it."""
    del os.environ["XLA_FLAGS"]


def fresh(arguments: list[str]) -> subprocess.CompletedProcess:
    """The command as it is typed."""
    return subprocess.run(
        [sys.executable, "-m", "alignjax.train", *arguments],
        cwd=ROOT,
        env={**os.environ, "XLA_FLAGS": xla_flags.flags(1)},
        capture_output=True,
        text=True,
        timeout=120,
    )


def wait_for(condition, process, seconds: float = 60.0) -> None:
    """Until `condition()`, or the process ends."""
    deadline = time.monotonic() + seconds
    while not condition() and process.exitcode is None:
        assert time.monotonic() < deadline, "the command is stuck"
        time.sleep(0.002)


def _command(arguments, output, devices, before) -> None:
    os.environ["XLA_FLAGS"] = xla_flags.flags(devices)
    os.chdir(ROOT)
    sys.path.insert(0, str(ROOT))
    file = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for descriptor in (1, 2):
        os.dup2(file, descriptor)
    sys.stdout = io.TextIOWrapper(os.fdopen(1, "wb", 0), write_through=True)
    after = before() if before is not None else None
    try:
        sys.exit(train.main(arguments))
    finally:
        if after is not None:
            after()
