# SPDX-License-Identifier: Apache-2.0
"""Scores of every family, and runs trained from nothing here, read by transformers."""

import dataclasses
import pathlib

import numpy as np
import pytest

from alignjax import analysis

pytest.importorskip("torch")
pytest.importorskip("transformers")

import test_conversion
import torch
import transformers

from alignjax.analysis import conversion, forward
from alignjax.data import loader
from alignjax.data.tokenizers import base
from alignjax.huggingface import save

GOLDEN = pathlib.Path(__file__).resolve().parents[1] / "golden/huggingface"
FAMILIES = (
    *("gemma", "gemma2", "gemma3", "gpt2", "llama2", "mistral", "mixtral", "olmo2"),
    *("phi3", "qwen2", "qwen3", "qwen3_moe"),
)
IDS = [5, 9, 11, 20]
CONTROL = ("<system>", "<user>", "<assistant>", "<end>")


@pytest.mark.parametrize("name", FAMILIES)
def test_scores_are_the_same(name, tmp_path):
    run = analysis.open_run(GOLDEN / name)
    c = dataclasses.replace(run.model.config, score_heads=2)
    kernel = np.random.default_rng(0).standard_normal((c.d_model, 2)).astype("f4")
    leaves = {**run.leaves(), "score/kernel": kernel}
    family = run.config["model"]["family"]
    made = save.plan(leaves, family, c, token_ids={"pad_token_id": 0})
    save.write(made, leaves, tmp_path / "out")
    model, told = transformers.AutoModelForSequenceClassification.from_pretrained(
        tmp_path / "out", output_loading_info=True
    )
    assert not told["missing_keys"] and not told["unexpected_keys"]
    opened = analysis.open_run(tmp_path / "out")
    params, rows = opened.params(), forward.rows(opened.model, np.array([IDS]))
    want = opened.model.score(params, opened.model.hidden(params, rows))[0, -1]
    got = model.float()(torch.tensor([IDS])).logits.detach().numpy()[0]
    np.testing.assert_allclose(got, want, atol=1e-5)


def test_a_run_of_its_own_tokenizer_reads_and_writes_the_same(tmp_path):
    corpus = tmp_path / "corpus.txt"
    corpus.write_text("the old ship went to sea and came home at night. " * 40)
    section = {"text": {"kind": "text", "path": str(corpus)}}
    sources = loader.load_sources(section, "sources").values()
    asked = base.TokenizerConfig(vocab_size=300, control_tokens=CONTROL)
    tok = base.build(asked, sources, tmp_path / "cache")
    data = {"chat": "roles", "bos": True}
    run = test_conversion.trained(tmp_path / "run", tok, data)
    out = conversion.export_run(conversion.plan_export(run.path, tmp_path / "out"))
    model = transformers.AutoModelForCausalLM.from_pretrained(out)
    got = model(torch.tensor([IDS])).logits.detach().numpy()[0]
    np.testing.assert_allclose(got, run.logits(IDS), atol=1e-5)
    ends = {tok.control["<end>"], tok.eos_id}
    assert set(model.generation_config.eos_token_id) == ends
    theirs = transformers.AutoTokenizer.from_pretrained(out)
    for text in ("the old ship", "  two  spaces\nand a line", "naïve 漢"):
        assert theirs.encode(text, add_special_tokens=False) == tok.encode(text)
    turns = [{"role": "user", "content": "the old ship"}]
    prompt = theirs.apply_chat_template(turns, add_generation_prompt=True)
    assert list(prompt["input_ids"]) == run.prompt_ids("the old ship")
