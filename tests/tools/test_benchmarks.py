# SPDX-License-Identifier: Apache-2.0
"""Benchmarks refuse what they cannot measure in words."""

import json
import pathlib
import subprocess
import sys

import pytest

from alignjax import errors
from tools import benchmark_data, benchmark_step


def code_of(main, monkeypatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["benchmark", *arguments])
    try:
        return main()
    except SystemExit as error:
        return error.code


@pytest.mark.parametrize(
    "arguments, code, words",
    [
        (["--model=llama"], errors.CONFIG, "model.name"),
        (["--model=foo/bar"], errors.CONFIG, "'foo'"),
        (["--model=llama/bar"], errors.CONFIG, "'bar'"),
        (["--batch=0"], 2, "--batch: 0 must be at least 1"),
        (["--steps=0"], 2, "--steps: 0 must be at least 1"),
        (["--vocab=0"], 2, "--vocab: 0 must be at least 1"),
        (["--batch=3", "--microbatches=2"], errors.CONFIG, "batch: 3 is not a mul"),
    ],
)
def test_steps(arguments, code, words, monkeypatch, capsys):
    assert code_of(benchmark_step.main, monkeypatch, *arguments) == code
    assert words in capsys.readouterr().err


def test_data(tmp_path, monkeypatch, capsys):
    main = benchmark_data.main
    assert code_of(main, monkeypatch, "--megabytes=0") == 2
    assert "--megabytes: 0 must be at least 1" in capsys.readouterr().err
    assert code_of(main, monkeypatch, f"--path={tmp_path}/none") == 2
    assert f"--path: {tmp_path}/none is no file" in capsys.readouterr().err
    small = tmp_path / "small.jsonl"
    small.write_text(json.dumps({"text": "too little"}) + "\n")
    assert code_of(main, monkeypatch, f"--path={small}") == errors.DATA
    assert f"path: {small} is too small to learn 8192" in capsys.readouterr().err


def test_steps_need_few_packages():
    """What its docstring says that it needs."""
    others = "orbax", "sentencepiece", "tensorboard"
    asked = (
        f"import sys, tools.benchmark_step; print(sys.modules.keys() & {set(others)})"
    )
    root = pathlib.Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", asked], cwd=root, capture_output=True, text=True
    )
    assert done.stdout == "set()\n", done.stdout + done.stderr
