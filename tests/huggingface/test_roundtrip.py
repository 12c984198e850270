# SPDX-License-Identifier: Apache-2.0
"""Folder -> run -> folder: no bit is lost, and transformers reads what comes out."""

import json
import pathlib

import numpy as np
import pytest

from alignjax import analysis, errors
from alignjax.huggingface import config_json
from tests.fixtures import marks
from tools.golden import cases, journeys

ROOT = pathlib.Path(__file__).resolve().parents[1] / "golden/huggingface"
ALL = sorted(cases.CASES)


@pytest.fixture(scope="module")
def back(tmp_path_factory):
    """`back(name, dtype)`: (same, all, folder) of a journey, made once."""
    root, made = tmp_path_factory.mktemp("journeys"), {}

    def go(name, dtype):
        if (name, dtype) not in made:
            scratch = root / f"{name}-{dtype}"
            made[name, dtype] = (
                *journeys.there_and_back(ROOT / name, scratch, dtype),
                scratch,
            )
        return made[name, dtype]

    return go


@pytest.mark.parametrize("dtype", journeys.DTYPES)
@pytest.mark.parametrize("name", ALL)
def test_every_tensor_comes_back_bit_for_bit(name, dtype, back):
    same, count, scratch = back(name, dtype)
    assert same == count > 10
    tensors = journeys.tensors(scratch / "back")
    assert {x.dtype for x in tensors.values()} == {np.dtype(journeys.DTYPES[dtype])}
    tied = json.loads((scratch / "back/config.json").read_text())
    tied = tied.get("tie_word_embeddings", name == "gpt2")
    assert ("lm_head.weight" in tensors) != tied


@pytest.mark.parametrize("name", ALL)
def test_the_same_model_and_the_same_files_come_back(name, back):
    scratch = back(name, "float32")[2]
    source, there, out = (
        analysis.open_run(scratch / x) for x in ("source", "there", "back")
    )
    said = [config_json.computed(x.model.config) for x in (source, there, out)]
    assert said[0] == said[1] == said[2]
    assert there.digest() == out.digest() == source.digest()
    if cases.CASES[name].tokenizer:
        for file in ("tokenizer.json", "tokenizer_config.json"):
            before = (scratch / "source" / file).read_bytes()
            assert (scratch / "back" / file).read_bytes() == before
        read = lambda x: json.loads(
            (scratch / x / "generation_config.json").read_text()
        )
        assert read("back")["eos_token_id"] == read("source")["eos_token_id"]


@pytest.mark.parametrize("name", ["llama3", "gemma3"])
def test_one_changed_bit_is_seen(name, back, tmp_path):
    scratch = back(name, "float32")[2]
    file = scratch / "there/checkpoints/0/params.safetensors"
    before = file.read_bytes()
    try:
        file.write_bytes(before[:-3] + bytes([before[-3] ^ 1]) + before[-2:])
        with pytest.raises(errors.CheckpointError):
            journeys.conversion.export_run(
                journeys.conversion.plan_export(scratch / "there", tmp_path / "out")
            )
        assert not (tmp_path / "out").exists()
    finally:
        file.write_bytes(before)


@pytest.mark.parametrize("name", ALL)
def test_transformers_reads_the_export_and_generates_the_same(name, back):
    pytest.importorskip("torch", reason="the comparison is with transformers and torch")
    pytest.importorskip("transformers", reason="the comparison is with transformers")
    from tools.golden import theirs

    out = back(name, "float32")[2] / "back"
    want = expected(name)
    model = theirs.load(out)
    tokens = want["tokens"].astype(np.int64)
    np.testing.assert_allclose(
        theirs.logits(model, tokens)[:, want["positions"]],
        want["logits"],
        rtol=0,
        atol=1e-5,
    )
    np.testing.assert_array_equal(
        theirs.greedy(model, tokens[:, : cases.PROMPT]), want["generated"]
    )


def expected(name):
    import safetensors.numpy

    return safetensors.numpy.load_file(ROOT / name / "expected.safetensors")


@pytest.mark.parametrize(
    "name", marks.slow_but(["gpt2", "phi3"], ["gemma3", "gpt2", "phi3", "qwen3_moe"])
)
def test_adapters_merged_into_a_folder_compute_what_they_did_apart(name, tmp_path):
    run = analysis.open_run(ROOT / name)
    model, params = journeys.with_adapters(run)
    tokens = cases.tokens(cases.CASES[name])
    apart = journeys.adapted(model, params, tokens)
    assert np.abs(apart - run.logits(tokens)).max() > 0.1  # they change something
    folder = journeys.export_merged(run, model, params, tmp_path / "merged")
    together = analysis.open_run(folder).logits(tokens)
    np.testing.assert_allclose(together, apart, rtol=0, atol=1e-4)
