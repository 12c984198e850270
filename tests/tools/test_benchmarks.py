# SPDX-License-Identifier: Apache-2.0
"""Benchmarks refuse what they cannot measure in words."""

import argparse
import json
import pathlib
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from alignjax import config, errors
from alignjax.experiment import build
from alignjax.plan import cards, program
from configs.smoke import pretrain
from tools import (
    benchmark_data,
    benchmark_grpo,
    benchmark_host,
    benchmark_rollouts,
    benchmark_step,
    make_golden_runs,
    timing,
)


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


def test_a_compiled_step_is_beside_its_plan(monkeypatch):
    """Where the card is known: the product of two matrices, on an H200."""
    x = jax.ShapeDtypeStruct((2048, 2048), jnp.float32)
    compiled = jax.jit(lambda x: x @ x).lower(x).compile()
    assert timing.of_program(compiled).keys() == {"temporary_MiB"}
    card = cards.find("h200")
    monkeypatch.setattr(timing.cards, "of_kind", lambda kind: card)
    facts = timing.of_program(compiled)
    assert facts["floor_s"] == pytest.approx(2 * 2048**3 / card.peak)
    assert facts["predicted_s"] == pytest.approx(card.factor * facts["floor_s"])
    monkeypatch.setattr(program, "parse", lambda text: {}["body"])  # an odd program
    assert "KeyError" in timing.of_program(compiled)["predicted_s"]


@pytest.mark.slow
def test_the_time_of_the_host_is_without_that_of_the_device(tmp_path):
    """A device that takes 20 ms: neither its pauses nor the computation count."""
    section = config.to_json(pretrain.get_config()) | {"cache_dir": str(tmp_path)}
    figures = benchmark_host.measure(section, steps=20, pause=0.02)
    assert figures.keys() == {"host", "dispatch"}
    for part in figures.values():
        assert 0 < part["processor_ms"] < 15


def test_steps_need_few_packages():
    """What its docstring says that it needs."""
    others = "orbax", "sentencepiece", "tensorboard"
    code = (
        f"import sys, tools.benchmark_step; print(sys.modules.keys() & {set(others)})"
    )
    root = pathlib.Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=root, capture_output=True, text=True
    )
    assert done.stdout == "set()\n", done.stdout + done.stderr


@pytest.mark.slow
def test_a_step_of_grpo_is_drawn_and_learned(tmp_path, monkeypatch):
    monkeypatch.setattr(benchmark_grpo, "WARMUP", 1)
    monkeypatch.setattr(benchmark_grpo, "RATE", 1e-2)
    run = pathlib.Path(__file__).parents[2] / make_golden_runs.FOLDER / "sft"
    args = argparse.Namespace(
        run=str(run), prompts=8, samples=2, tokens=8, padded=False, groups_per_row=None
    )
    side = benchmark_grpo.Step(build.build(benchmark_grpo.section(args, str(tmp_path))))
    before = np.asarray(side.state.params["embed"])
    figures = benchmark_grpo.measured({"alignjax": side}, 1)["alignjax"]
    assert 16 <= figures["tokens"] <= 8 * 2 * 8 and figures["cpu_s"] > 0
    assert not np.array_equal(before, np.asarray(side.state.params["embed"]))


def test_tokens_that_are_computed_for_rows_that_are_done():
    """By hand: 32 rows, of which 20, then 12, then one go on."""
    lengths = np.array([3] * 12 + [7] * 8 + [9] * 11 + [18])
    assert benchmark_rollouts.computed(lengths, "loop") == 32 * 18
    # Steps 0 and 4 have 32 and 20 rows open, 8 has 12, 12 and 16 have 1 of 8 at least.
    by_hand = 32 * 4 + 32 * 4 + 16 * 4 + 8 * 4 + 8 * 2
    assert benchmark_rollouts.computed(lengths, "packed") == by_hand


@pytest.mark.slow
def test_packed_rollouts_draw_the_tokens_of_the_loop(tmp_path, monkeypatch, capsys):
    run = pathlib.Path(__file__).parents[2] / make_golden_runs.FOLDER / "sft"
    options = ["--prompts=8", "--samples=2", "--turns=1", f"--cache={tmp_path}"]
    options += [f"--run={run}", "--length=200", "--json"]
    assert code_of(benchmark_rollouts.main, monkeypatch, *options) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["packed"]["tokens"] == report["loop"]["tokens"] > 0
    assert report["packed"]["utilisation"] >= report["loop"]["utilisation"]
