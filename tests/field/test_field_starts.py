# SPDX-License-Identifier: Apache-2.0
"""Starts of training that cannot go well, and have to end before they do harm."""

import os
import pathlib
import subprocess
import sys

import pytest

from alignjax import config, errors, train
from alignjax.experiment import build
from tests.field import byte_llama

ROOT = pathlib.Path(__file__).parents[2]


def test_a_workdir_that_is_the_model_is_refused(tmp_path):
    folder = byte_llama.write(tmp_path / "model")
    rows = [byte_llama.dialogue("Is it blue?", "It is.")] * 8
    path = byte_llama.write_rows(tmp_path / "rows.jsonl", rows)
    c = byte_llama.config("sft", folder, path)
    before = {p.name: p.read_bytes() for p in folder.iterdir()}
    with pytest.raises((errors.ConfigError, errors.CheckpointError)):
        train.train(c, folder)
    assert {p.name: p.read_bytes() for p in folder.iterdir()} == before


def test_a_model_brings_its_template_and_its_start_token(tmp_path):
    """Under what `configs.base.sft` leaves open, with no setting but `init.run`."""
    section = byte_llama.config("sft", tmp_path, "rows.jsonl")
    section.data.chat, section.data.bos = "inherit", None
    section.init.run = str(byte_llama.write(tmp_path / "chat"))
    data = build.check(config.to_json(section)).config.data
    assert data.chat == "tokenizer" and data.bos is False
    section.init.run = str(byte_llama.write(tmp_path / "plain", None))
    with pytest.raises(errors.ConfigError, match=r"data\.chat: .* chatml, mistral"):
        build.check(config.to_json(section))
    section.data.train_on = "everything"  # as in configs.base.continued
    data = build.check(config.to_json(section)).config.data
    assert data.chat is None and data.train_on == "all"


@pytest.mark.parametrize("platform", ["nonesuch", "rocm"])
def test_an_accelerator_that_is_not_there_ends_in_one_line(tmp_path, platform):
    arguments = [
        "--config=configs/smoke/pretrain.py",
        f"--config.cache_dir={tmp_path / 'cache'}",
        f"--workdir={tmp_path / 'run'}",
    ]
    done = subprocess.run(
        [sys.executable, "-m", "alignjax.train", *arguments],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), "JAX_PLATFORMS": platform},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert platform in done.stderr
    assert "Traceback" not in done.stderr
    codes = {v for k, v in vars(errors).items() if k.isupper()}
    assert done.returncode in codes - {errors.DONE}
