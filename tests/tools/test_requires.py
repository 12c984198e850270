# SPDX-License-Identifier: Apache-2.0
"""What tools say of packages that are not there."""

import importlib.util
import pathlib
import subprocess
import sys

import pytest

from alignjax import errors
from tools import requires

TOOLS = pathlib.Path(__file__).parents[2] / "tools"


def test_what_is_not_installed_is_named(capsys):
    requires.packages("json", "numpy")
    with pytest.raises(SystemExit) as raised:
        requires.packages("json", "no_such_package", "nor_this")
    assert raised.value.code == errors.CONFIG
    lacking = "no_such_package nor_this"
    said = capsys.readouterr().err
    assert said == f"not installed: {lacking}; pip install {lacking}\n"


@pytest.mark.skipif(
    importlib.util.find_spec("torch") is not None, reason="torch is installed"
)
@pytest.mark.parametrize(
    "words",
    ["parity_table.py", "crosscheck_trl.py", "benchmark_step.py --torch=eager"]
    + ["benchmark_dpo.py --trl"],
)
def test_a_tool_says_what_it_needs_before_it_works(words):
    name, *flags = words.split()
    command = [sys.executable, str(TOOLS / name), *flags]
    found = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert found.returncode == errors.CONFIG and not found.stdout
    assert "not installed: " in found.stderr and "torch" in found.stderr
