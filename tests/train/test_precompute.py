# SPDX-License-Identifier: Apache-2.0
"""The command that fills the store of a reference, as it is typed."""

import pathlib
import subprocess
import sys

import pytest
from stages import run

from alignjax import exit_codes
from configs.smoke import pretrain

ROOT = pathlib.Path(__file__).parents[2]
CONFIG = ROOT / "configs/smoke/dpo.py"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("precompute")


@pytest.fixture(scope="module")
def base(folder):
    return run(folder, "base", pretrain, steps=4, **{"sample.every": None})


def precompute(folder, base, *more: str) -> subprocess.CompletedProcess:
    command = [
        sys.executable,
        str(ROOT / "tools/precompute_reference.py"),
        f"--config={CONFIG}",
        f"--config.init.run={base.path}",
        f"--config.cache_dir={folder / 'cache'}",
        f"--config.data.sources.world.data_dir={folder / 'world'}",
        *more,
    ]
    # Not from the root, where Python would find the configs in any case.
    return subprocess.run(command, cwd=folder, capture_output=True, text=True)


def test_the_store_is_filled_once(folder, base):
    first = precompute(folder, base)
    assert first.returncode == exit_codes.DONE, first.stderr
    assert "computing" in first.stdout
    again = precompute(folder, base)
    assert again.returncode == exit_codes.DONE, again.stderr
    assert "computing" not in again.stdout


def test_a_loss_without_a_reference_is_refused(folder, base):
    done = precompute(folder, base, "--config.objective.loss=simpo")
    assert done.returncode == exit_codes.CONFIG
    assert "reference: the objective asks none" in done.stdout + done.stderr
    assert "Traceback" not in done.stderr
