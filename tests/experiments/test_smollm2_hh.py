# SPDX-License-Identifier: Apache-2.0
"""The experiment on a real model, from its first command to its last, on a tiny one."""

import json
import os
import pathlib
import subprocess
import sys

import pytest

from experiments.smollm2_hh import sweep

pytest.importorskip("gguf", reason="the model is a GGUF file")

from tests.gguf import files

ROOT = pathlib.Path(__file__).parents[2]
REFUSALS = ROOT / "experiments/smollm2_hh/refusals.jsonl"


def test_as_many_prompts_are_safe_as_are_not():
    rows = list(map(json.loads, REFUSALS.read_text().splitlines()))
    assert [row["safe"] for row in rows].count(True) * 2 == len(rows)
    assert len({row["prompt"] for row in rows}) == len(rows)


@pytest.mark.slow
def test_all_runs_are_trained_and_measured(tmp_path):
    files.write(tmp_path / "x.gguf", llama__context_length=384)
    ask = "\n\nHuman: what is {}?\n\nAssistant: it is {}"
    pairs = [
        {"chosen": ask.format(i, "more"), "rejected": ask.format(i, "no")}
        for i in range(160)
    ]
    rows = {
        "hh": pairs[:140],
        "held_out": pairs[140:142],
        "gsm8k": [{"question": "what is 1 and 1?", "answer": "#### 2"}],
        "text": [{"text": "the cats ate"}],
    }
    for name, part in rows.items():
        (tmp_path / f"{name}.jsonl").write_text("\n".join(map(json.dumps, part)))
    command = [sys.executable, "-m", "experiments.smollm2_hh.run", "--steps=1"]
    command += [f"--base={tmp_path / 'x.gguf'}", f"--hh={tmp_path / 'hh.jsonl'}"]
    command += [f"--data={tmp_path / f'{name}.jsonl'}" for name in rows if name != "hh"]
    command += [f"--out={tmp_path / 'out'}", "--max_tokens=4"]
    environment = {k: v for k, v in os.environ.items() if k != "XLA_FLAGS"}
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "expected: simpo above dpo" in done.stdout
    assert "has no finite" not in done.stdout  # what is claimed is measured
    figures = json.loads((tmp_path / "out/evaluation/figures.json").read_text())
    measured = {(f["data"], f["run"]) for f in figures["figures"]}
    answering = {"base", "sft", *sweep.BETAS}
    for name in ("refusals", "gsm8k", "text"):
        assert {run for data, run in measured if data == name} == answering
    assert {run for d, run in measured if d == "held_out"} == {*answering, "reward"}
