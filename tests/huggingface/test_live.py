# SPDX-License-Identifier: Apache-2.0
"""Beside transformers itself, where it is installed, on weights drawn anew."""

import pathlib
import secrets

import numpy as np
import pytest

pytest.importorskip("torch", reason="the comparison is with transformers and torch")
pytest.importorskip("transformers", reason="the comparison is with transformers")

import safetensors.numpy

from alignjax import analysis
from tools.golden import cases, ours, theirs

ROOT = pathlib.Path(__file__).resolve().parents[1] / "golden/huggingface"
ALL = sorted(cases.CASES)
WITH_GRADIENTS = ["gemma3", "gpt2", "mixtral", "phi3_longrope"]
FEW = ["gemma3", "gpt2", "llama3", "mixtral", "phi3_longrope", "qwen2_window"]
SLOW = [pytest.param(n, marks=pytest.mark.slow) for n in ALL if n not in FEW]
CLOSE, GRADIENT = 5e-5, 5e-5


@pytest.fixture(scope="module")
def seed():
    """Another one each time; a failure names it."""
    return secrets.randbelow(2**31)


@pytest.fixture(scope="module")
def folders(tmp_path_factory, seed):
    """`folders(name)`: transformers' model of a case and the folder it saved."""
    root, made = tmp_path_factory.mktemp("live"), {}

    def folder(name):
        if name not in made:
            model = theirs.model(cases.CASES[name], seed)
            model.save_pretrained(root / name)
            made[name] = model, analysis.open_run(root / name)
        return made[name]

    return folder


@pytest.mark.parametrize("name", [*FEW, *SLOW])
def test_logits_and_greedy_tokens_beside_transformers(name, folders, seed):
    model, run = folders(name)
    tokens, generated = theirs.tokens_and_greedy(model, cases.CASES[name], seed)
    want = theirs.logits(model, tokens)
    told = f"seed {seed}"
    np.testing.assert_allclose(
        run.logits(tokens), want, rtol=0, atol=CLOSE, err_msg=told
    )
    prompts, model = tokens[:, : cases.PROMPT], ours.for_long_documents(run)
    got = ours.greedy(run, prompts, cases.GENERATED, model)
    np.testing.assert_array_equal(got, generated, err_msg=told)


@pytest.mark.parametrize("name", ALL)
def test_the_golden_files_are_what_transformers_still_computes(name):
    folder = ROOT / name
    want = safetensors.numpy.load_file(folder / "expected.safetensors")
    got = theirs.logits(theirs.load(folder), want["tokens"].astype(np.int64))
    np.testing.assert_allclose(
        got[:, want["positions"]], want["logits"], rtol=0, atol=1e-5
    )


@pytest.mark.parametrize("name", WITH_GRADIENTS)
def test_gradients_beside_transformers(name, folders, seed, tmp_path):
    model, run = folders(name)
    tokens = cases.tokens(cases.CASES[name], seed)
    loss, want = theirs.loss_and_gradients(model, tokens, tmp_path)
    got_loss, got, _ = ours.loss_and_gradients(run, tokens)
    assert abs(got_loss - loss) < 1e-5, seed
    assert set(got) == set(want)
    for tensor, gradient in want.items():
        np.testing.assert_allclose(
            got[tensor], gradient, rtol=0, atol=GRADIENT, err_msg=f"{tensor} {seed}"
        )
