# SPDX-License-Identifier: Apache-2.0
"""The benchmark for a GPU, as far as a machine without one can tell."""

import json
import pathlib
import subprocess
import sys

import pytest

from alignjax import errors
from tools import benchmark_gpu, benchmark_gpu_rl, requires

ROOT = pathlib.Path(__file__).parents[2]


def finished(figures=None, error=""):
    """What `subprocess.run` returns of a side."""
    output = f"noise\n{json.dumps(figures)}\n" if figures else ""
    return subprocess.CompletedProcess([], 1 if error else 0, output, error)


@pytest.fixture
def outcomes(monkeypatch):
    """By name of a side what its process does: figures, an error text, or a timeout."""
    table = {}

    def run(command, timeout, **_):
        outcome = table[command[command.index("--side") + 1]]
        if outcome is None:
            raise subprocess.TimeoutExpired(command, timeout)
        return (
            finished(error=outcome) if isinstance(outcome, str) else finished(outcome)
        )

    monkeypatch.setattr(benchmark_gpu.subprocess, "run", run)
    return table


def test_a_side_is_compared_with_the_one_beside_it(outcomes, capsys):
    outcomes["llama/nano torch eager"] = {"step_s": 3.0}
    outcomes["llama/nano alignjax"] = {"step_s": 2.0}
    results = benchmark_gpu.drive("pretrain", True)
    assert results["llama/nano alignjax"]["times_as_fast"] == 1.5
    assert "times_as_fast" not in results["llama/nano torch eager"]
    assert len(capsys.readouterr().out.splitlines()) == 2


def test_what_fails_or_comes_too_late_is_named(outcomes, capsys):
    outcomes["transformers"] = "Traceback\nMemoryError: too much"
    outcomes["alignjax"] = None
    results = benchmark_gpu.drive("sample", True)
    assert results["transformers"]["failed"] == "MemoryError: too much"
    assert "seconds" in results["alignjax"]["failed"]
    over = benchmark_gpu.drive("sample", True, seconds=4)
    assert all("over" in figures["failed"] for figures in over.values())
    assert len(capsys.readouterr().out.splitlines()) == 4


def test_responses_that_differ_by_chance_are_compared_by_their_tokens(outcomes):
    figures = dict(step_s=3.0, tokens=30, tokens_per_second=10.0)
    outcomes["transformers generate"] = figures
    more = dict(step_s=2.0, tokens=40, tokens_per_second=20.0)
    outcomes["alignjax responses"] = more
    outcomes["GSM8K"] = {"skipped": "no run"}
    results = benchmark_gpu.drive("rl", True)
    assert results["alignjax responses"]["times_as_fast"] == 2.0
    assert results["GSM8K"] == {"skipped": "no run"}


def test_what_is_not_there_is_skipped_with_a_reason(tmp_path, monkeypatch):
    learned = benchmark_gpu_rl.learned
    paths = tmp_path / "run", tmp_path / "gsm8k.jsonl"
    assert "real_model.sh" in learned(False, 60, *paths)["skipped"]
    paths[0].mkdir()
    assert str(paths[1]) in learned(False, 60, *paths)["skipped"]
    find_spec = lambda name: None if name == "orbax" else 1
    monkeypatch.setattr(benchmark_gpu_rl.importlib.util, "find_spec", find_spec)
    assert "orbax" in learned(True, 60, *paths)["skipped"]


def test_every_side_is_compared_with_one_before_it():
    for part in benchmark_gpu.PARTS:
        for small in (True, False):
            names = [None]
            for side in benchmark_gpu.sides(part, small):
                assert side.beside in names
                names.append(side.name)
    dpo = [side.name for side in benchmark_gpu.sides("dpo", False)]
    assert len(dpo) == 8  # three layouts and TRL, with a model and a stored reference


def code(monkeypatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["benchmark_gpu.py", *arguments])
    try:
        return benchmark_gpu.main()
    except SystemExit as error:
        return error.code


def test_refusals(monkeypatch, capsys):
    assert code(monkeypatch, "--part=pretraining") == 2
    monkeypatch.setattr(requires.importlib.util, "find_spec", lambda name: None)
    assert code(monkeypatch, "--part=dpo") == errors.CONFIG
    assert "trl" in capsys.readouterr().err
    monkeypatch.undo()
    monkeypatch.setattr(benchmark_gpu, "_device", lambda: "CPU cpu")
    assert code(monkeypatch, "--part=check") == errors.CONFIG
    assert "--small" in capsys.readouterr().err


def test_random_pairs_fit_and_end_as_they_should():
    args = benchmark_gpu._dpo_arguments(True)
    for prompt, *responses in benchmark_gpu._random_pairs(args):
        for response in responses:
            tokens = prompt + response
            assert len(tokens) <= args.length
            assert tokens.index(args.vocab - 1) == len(tokens) - 1
            assert min(tokens) > 0


def test_its_own_sides_need_few_packages():
    """What the script says that it needs."""
    others = {"orbax", "sentencepiece", "tensorflow_datasets", "pyarrow", "torch"}
    program = (
        "import sys; from tools import benchmark_gpu, benchmark_dpo, benchmark_step; "
        "from alignjax import sampling; from alignjax.models import attention; "
        f"print(sys.modules.keys() & {others})"
    )
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.stdout == "set()\n", done.stdout + done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("part", benchmark_gpu.PARTS)
def test_its_own_sides_run(part):
    """At tiny sizes: all of alignjax, and figures that are numbers."""
    for side in benchmark_gpu.sides(part, True):
        if "torch" not in side.name and "tr" not in side.name.split()[0]:
            figures = side.run()
            if part == "check":
                assert figures["kinds"] == 12 and figures["result"].startswith("right")
            elif side.name == "GSM8K":
                assert figures["rollouts"] == 2 and figures["reward_first"] >= 0
            else:
                assert figures["step_s"] > 0


def test_the_script_explains_itself():
    script = ROOT / "tools/benchmark_gpu.sh"
    done = subprocess.run([script, "--help"], capture_output=True, text=True)
    assert done.returncode == 0 and "--part=dpo" in done.stdout
    done = subprocess.run([script], capture_output=True, text=True)
    assert done.returncode == 64 and "--part=dpo" in done.stderr
