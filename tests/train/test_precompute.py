# SPDX-License-Identifier: Apache-2.0
"""The command that fills the store of a reference, as it is typed."""

import os
import pathlib
import subprocess
import sys

import pytest
from stages import refused, run

from alignjax import errors
from configs.smoke import dpo, pretrain

ROOT = pathlib.Path(__file__).parents[2]
CONFIG = ROOT / "configs/smoke/dpo.py"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("precompute")


@pytest.fixture(scope="module")
def base(folder):
    return run(folder, "base", pretrain, steps=4)


def precompute(folder, base, *more: str) -> subprocess.CompletedProcess:
    command = [
        *(sys.executable, "-m", "alignjax", "precompute"),
        f"--config={CONFIG}",
        f"--config.init.run={base.path}",
        f"--config.cache_dir={folder / 'cache'}",
        f"--config.data.sources.world.data_dir={folder / 'world'}",
        *more,
    ]
    # Not from the root, where Python would find the configs in any case.
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True
    )


def test_the_store_is_filled_once(folder, base):
    first = precompute(folder, base)
    assert first.returncode == errors.DONE, first.stderr
    assert "computing" in first.stdout
    again = precompute(folder, base)
    assert again.returncode == errors.DONE, again.stderr
    assert "computing" not in again.stdout


@pytest.mark.parametrize(
    ("loss", "words"),
    [
        ("simpo", "reference.store: True, where the loss 'simpo' has no reference"),
        ("kto", "reference.store: the loss 'kto' needs mismatched"),
    ],
)
def test_a_loss_without_a_store_is_refused(folder, base, loss, words):
    done = precompute(folder, base, f"--config.objective.loss={loss}")
    assert done.returncode == errors.CONFIG
    assert words in done.stdout + done.stderr
    assert "Traceback" not in done.stderr and "computing" not in done.stdout


def test_training_refuses_it_as_early(folder, base):
    changes = {"init.run": str(base.path), "reference.store": True}
    text = refused(folder, dpo, **changes, **{"objective.loss": "tdpo1"})
    assert text.startswith("reference.store: the loss 'tdpo1' needs reference_kl")
