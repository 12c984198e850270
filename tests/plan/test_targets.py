# SPDX-License-Identifier: Apache-2.0
"""What whole steps may take by plan, on cards that are not there; needs the extra."""

import importlib.util
import json
import os
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        importlib.util.find_spec("jax_cuda12_plugin") is None,
        reason="compiling for GPUs needs the extra plan",
    ),
]
TEXT = [
    "data.sources.web.path=unread.parquet",
    "tokenizer.path=unread.json",
    "data.pack=none",
]
LLAMA = [*TEXT, "microbatches=1", "model.dtype=bfloat16", "objective.z_loss=0"]
DPO = ["model.family=llama", "model.name=1b", "model.dtype=bfloat16", "microbatches=4"]
DPO += ["model.max_length=2048"]


def plan(topology: str, config: str, *flags: str) -> dict:
    """The figures of a step, in a process without the flags of the tests."""
    command = [sys.executable, "-m", "alignjax", "plan", "--json"]
    command += [f"--topology={topology}", f"--config=configs/{config}"]
    command += [f"--config.{flag}" for flag in flags]
    environment = {**os.environ, "XLA_FLAGS": "", "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout)


def milliseconds(figures: dict) -> float:
    return figures["predicted"]["step_s"] * 1e3


def test_gpt2_on_one_gpu():
    figures = plan("h200", "pretrain/gpt2_124m.py", *TEXT, "batch_size=32")
    assert milliseconds(figures) <= 75


def test_llama_on_one_gpu():
    figures = plan("h200", "pretrain/llama_1b.py", *LLAMA, "batch_size=8")
    assert milliseconds(figures) <= 276


def test_llama_on_eight_gpus_moves_its_head_once():
    figures = plan("h100:8", "pretrain/llama_1b.py", *LLAMA, "batch_size=64")
    assert sum(x["nbytes"] for x in figures["collectives"]) <= 12e9


def test_dpo_of_32_pairs_fits_80_gb_in_all_layouts():
    """Each pair has 512 tokens a response, of which half are of the prompt."""
    config, own = "dpo/llama31_8b.py", "data.share_prompt=False"
    padded = ["length=512", "batch_size=32", "data.pack=none", own]
    packed = ["length=2048", "batch_size=16", own]
    shared = ["length=2048", "batch_size=12"]
    sizes = {}
    for name, flags in {"padded": padded, "packed": packed, "shared": shared}.items():
        figures = plan("h100", config, *DPO, *flags)
        assert figures["fits"], name
        sizes[name] = figures["memory"]["total"]
    assert sizes["shared"] <= sizes["packed"]
