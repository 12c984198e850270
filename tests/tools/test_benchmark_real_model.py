# SPDX-License-Identifier: Apache-2.0
"""The benchmark of a real model on a tiny one: what is timed does what it should."""

import json
import os
import pathlib
import subprocess
import sys

import pytest

pytest.importorskip("gguf", reason="the model is a GGUF file")

from alignjax import analysis
from tests.gguf import files
from tools import benchmark_real_model

ROOT = pathlib.Path(__file__).parents[2]
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """A file, a run imported from it, and pairs."""
    folder = tmp_path_factory.mktemp("tiny")
    files.write(folder / "x.gguf", llama__context_length=384)
    command = [sys.executable, "-m", "alignjax", "convert", "import"]
    subprocess.run([*command, folder / "x.gguf", folder / "run"], check=True)
    ask = "\n\nHuman: what is {}?\n\nAssistant: it is {}"
    rows = [
        {"chosen": ask.format(i, "more"), "rejected": ask.format(i, "no")}
        for i in range(30)
    ]
    (folder / "hh.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return folder


def report(tiny, *options):
    command = [sys.executable, "tools/benchmark_real_model.py", str(tiny / "run")]
    command += ["--small", "--json", f"--gguf={tiny / 'x.gguf'}"]
    command += [f"--data={tiny / 'hh.jsonl'}", *options]
    environment = {k: v for k, v in os.environ.items() if k != "XLA_FLAGS"}
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


def test_every_case_is_measured_alone(tiny):
    figures = report(tiny, "--alone")
    cases = benchmark_real_model.CASES
    assert list(figures) == [f"{case} alignjax" for case in cases]
    assert all(facts["cpu_s"] > 0 for facts in figures.values())
    assert figures["greedy alignjax"]["tokens"] == 8
    assert figures["rows alignjax"]["tokens"] == 16 * 8
    assert figures["dpo alignjax"]["pairs"] == 2
    assert figures["dpo alignjax"]["loss"] < 0.6931  # after a step on the same pairs
    assert 50 < figures["import alignjax"]["peak_MiB"] < 1000


def test_both_sides_write_the_same_tokens_and_learn_alike(tiny):
    for package in ("torch", "transformers", "peft", "trl"):
        pytest.importorskip(package, reason="the comparison is with it")
    figures = report(tiny, "--cases=greedy,rows,dpo")
    for case in benchmark_real_model.ROWS:
        assert figures[f"{case} transformers"]["equal_tokens"] == 1
    own, other = figures["dpo alignjax"], figures["dpo TRL"]
    assert own["trained"] == other["trained"]
    assert own["loss"] == pytest.approx(other["loss"], abs=0.05)


def test_replies_are_those_of_generate(tiny):
    run = analysis.open_run(tiny / "run")
    replies = benchmark_real_model.Replies(run, 4, 8)
    replies.alignjax()()
    questions = [benchmark_real_model.QUESTIONS[i % 3] for i in range(4)]
    texts = run.reply(questions, max_tokens=8, temperature=0)
    for row, reply in zip(replies.tokens["alignjax"], texts, strict=True):
        ids = list(reply.ids)
        assert row[: len(ids)].tolist() == ids
