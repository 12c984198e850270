# SPDX-License-Identifier: Apache-2.0
"""Beside PEFT itself, where it is installed: either reads what the other wrote."""

import json

import adapted
import numpy as np
import pytest

pytest.importorskip("torch", reason="the comparison is with PEFT and torch")
pytest.importorskip("transformers", reason="PEFT is for its models")
pytest.importorskip("peft", reason="the comparison is with PEFT")

import peft as theirs
import torch
import transformers

from alignjax import trees
from alignjax.analysis import conversion
from alignjax.huggingface import peft

TOKENS = np.arange(3, 27).reshape(2, 12)
# Some of theirs are two or three of ours in the second; GPT-2's are not transposed.
FAMILIES = ["llama3", "phi3", pytest.param("gpt2", marks=pytest.mark.slow)]
TARGETS = {
    "llama3": ["q_proj", "o_proj", "up_proj"],
    "gpt2": ["c_attn", "mlp.c_proj"],
    "phi3": ["qkv_proj", "down_proj"],
}


def model(family):
    return transformers.AutoModelForCausalLM.from_pretrained(
        adapted.GOLDEN / family, dtype=torch.float32, attn_implementation="eager"
    )


def logits(model) -> np.ndarray:
    with torch.no_grad():
        return model.eval()(torch.tensor(TOKENS)).logits.numpy()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", adapted.KINDS)
@pytest.mark.parametrize("family", FAMILIES)
def test_peft_reads_what_we_wrote(family, kind, tmp_path):
    opened = adapted.base(family)
    c, whole, folder = adapted.written(opened, adapted.KINDS[kind], tmp_path / "ours")
    plain = model(family)
    before = logits(plain)
    loaded = theirs.PeftModel.from_pretrained(plain, folder)
    found = logits(loaded)
    np.testing.assert_allclose(
        adapted.logits(c, whole, TOKENS), found, rtol=1e-5, atol=1e-5
    )
    np.testing.assert_allclose(
        adapted.merged_logits(c, whole, TOKENS), found, rtol=1e-5, atol=1e-5
    )
    assert np.abs(found - before).max() > 1e-2
    asked = sum("lora" in name for name, _ in loaded.named_parameters())
    assert asked == len(
        peft.write(trees.named_leaves(whole), opened.config["model"]["family"], c)[0]
    )


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", ["lora", "rslora", "dora", "ranks"])
@pytest.mark.parametrize("family", FAMILIES)
def test_we_read_what_peft_wrote(family, kind, tmp_path):
    asked = dict(use_rslora=kind == "rslora", use_dora=kind == "dora")
    if kind == "ranks":
        first = TARGETS[family][0]
        asked = dict(rank_pattern={first: 5}, alpha_pattern={first: 3})
    torch.manual_seed(1)
    known = theirs.LoraConfig(
        r=4,
        lora_alpha=6,
        target_modules=TARGETS[family],
        fan_in_fan_out=family == "gpt2",
        init_lora_weights=False,
        **asked,
    )
    plain = model(family)
    before = logits(plain)
    wrapped = theirs.get_peft_model(plain, known)
    with torch.no_grad():
        for name, x in wrapped.named_parameters():
            if "magnitude" in name:
                x *= 1 + 0.1 * torch.randn_like(x)
    found = logits(wrapped)
    wrapped.save_pretrained(tmp_path / "theirs")
    opened = adapted.base(family)
    run = conversion.import_adapters(tmp_path / "theirs", opened.path, tmp_path / "run")
    ours = adapted.logits(
        adapted.in_float32(run.model.config), adapted.params(run, {}), TOKENS
    )
    np.testing.assert_allclose(ours, found, rtol=1e-5, atol=1e-5)
    assert np.abs(found - before).max() > 1e-2
    assert run.model.config.lora_rank == (5 if kind == "ranks" else 4)
    text = json.loads((tmp_path / "run/config.json").read_text())
    assert text["model"]["lora_dora"] == (kind == "dora")
