# SPDX-License-Identifier: Apache-2.0
"""Conversion holds two tensors at most, however many there are."""

import pathlib
import re
import subprocess
import sys

import pytest

TOOL = pathlib.Path(__file__).resolve().parents[2] / "tools" / "benchmark_convert.py"
# Of the largest tensor; what was trained is read by parameters that are stacked over
# layers, and Orbax holds each of them several times.
BOUNDS = {"export what was trained": 4.0, "inspect slice": 0.8, "inspect diff": 0.8}


@pytest.mark.slow
def test_peak_memory_is_two_tensors_and_a_constant(tmp_path):
    """The model is 3.5 times its largest tensor of 131 MB, and the noise 20 MB."""
    shape = ["--d_model=512", "--layers=24", "--d_ff=2048", "--heads=8"]
    command = [sys.executable, TOOL, f"--folder={tmp_path / 'x'}", *shape]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True)
    found = re.findall(r"^(\S.*?) +\d+ MB at most.*, (\S+) of the", done.stdout, re.M)
    assert len(found) == 9
    for name, multiple in found:
        assert float(multiple) < BOUNDS.get(name, 2.0) + 0.2, done.stdout
    # In bytes of what is written, float32 has tensors twice as large.
    assert float(dict(found)["import"]) > 0.5  # it measures something
