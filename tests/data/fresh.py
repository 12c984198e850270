# SPDX-License-Identifier: Apache-2.0
"""Runs Python in a process of its own, which finds the package and these tests."""

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import alignjax

PLACES = (Path(alignjax.__file__).parents[1], Path(__file__).parent)


def start(script: str, *arguments) -> subprocess.Popen:
    """The process, started; its output is text."""
    return _start("-c", textwrap.dedent(script), *arguments)


def run(script: str, *arguments) -> str:
    """What it prints, once it has ended well."""
    return _output(start(script, *arguments))


def run_file(path: Path, *arguments) -> str:
    """The same for a script in a file."""
    return _output(_start(path, *arguments))


def _start(*arguments) -> subprocess.Popen:
    path = os.pathsep.join([*map(str, PLACES), os.environ.get("PYTHONPATH", "")])
    return subprocess.Popen(
        [sys.executable, *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": path},
    )


def _output(process: subprocess.Popen) -> str:
    with process:
        out, err = process.communicate()
    assert process.returncode == 0, err
    return out
