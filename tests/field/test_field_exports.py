# SPDX-License-Identifier: Apache-2.0
"""Exports that transformers reads otherwise than the run or the folder they are of."""

import json
import re

import jax
import jinja2
import numpy as np
import pytest

from alignjax import analysis, convert, train
from tests import rows
from tests.field import byte_llama

ENDS = [byte_llama.EOS, byte_llama.END, byte_llama.CALL_END]


def export(source, target) -> None:
    assert convert.main(["export", str(source), str(target)]) == 0


@pytest.mark.parametrize("template", [byte_llama.CHATML, None])
def test_stop_tokens_of_config_json_are_exported(tmp_path, template):
    """Also those of a model that has no format for dialogues."""
    model = {"eos_token_id": ENDS}
    folder = byte_llama.write(tmp_path / "model", template, model=model)
    export(folder, tmp_path / "out")
    for name in ("config.json", "generation_config.json"):
        fields = json.loads((tmp_path / "out" / name).read_text())
        assert set(ENDS) <= set(np.atleast_1d(fields["eos_token_id"]).tolist())


def test_stop_tokens_of_config_json_end_replies(tmp_path):
    # All tokens look alike, layers add nothing: <|call_end|> always comes next.
    size = 256 + len(byte_llama.CONTROL)
    weights = {"model.embed_tokens.weight": np.ones((size, 16), np.float32)}
    weights["lm_head.weight"] = np.zeros((size, 16), np.float32)
    weights["lm_head.weight"][byte_llama.CALL_END] = 1
    weights["model.layers.0.self_attn.o_proj.weight"] = np.zeros((16, 16), np.float32)
    weights["model.layers.0.mlp.down_proj.weight"] = np.zeros((16, 32), np.float32)
    folder = byte_llama.write(
        tmp_path / "model", model={"eos_token_id": ENDS}, weights=weights
    )
    run = analysis.open_run(folder)
    (reply,) = run.reply(["Is it on?"], max_tokens=3, temperature=0.0)
    assert reply.finish_reason == "stop_token"


@pytest.mark.parametrize("place", ["additional_chat_templates", "tokenizer_config"])
def test_all_chat_templates_are_exported(tmp_path, place):
    folder = byte_llama.several_templates(tmp_path / "model", place)
    export(folder, tmp_path / "out")
    files = [
        p for p in (tmp_path / "out").rglob("*") if p.suffix in (".jinja", ".json")
    ]
    assert any("thermostats" in p.read_text() for p in files)


ENDLESS = byte_llama.CHATML.replace("<|im_end|>\n", "<|im_end|>")


@pytest.mark.parametrize("template", [byte_llama.CHATML, ENDLESS])
def test_an_export_says_what_to_feed_for_the_rewards_of_the_run(
    tmp_path, capfd, template
):
    folder = byte_llama.write(tmp_path / "model", template, pad_token="<pad>")
    colours = "red blue green pink teal gold grey rust".split()
    pairs = [{"prompt": c, "chosen": f"{c} it is", "rejected": "no"} for c in colours]
    path = byte_llama.write_rows(tmp_path / "pairs.jsonl", pairs)
    c = byte_llama.config("reward_model", folder, path, format="preference", length=64)
    c.data.validation_sources = c.data.sources
    c.evaluation.every = 1
    c.optimizer.learning_rate = 0.1
    assert train.train(c, tmp_path / "run") == 0
    trained = analysis.open_run(tmp_path / "run").metrics()[-1]
    capfd.readouterr()
    export(tmp_path / "run", tmp_path / "out")
    report = "".join(capfd.readouterr())
    assert re.search(
        r"score.*last token.*no padding.*terminator '<\|im_end\|>'", report
    )
    sides = ("chosen", "rejected")
    dialogues = [byte_llama.dialogue(p["prompt"], p[k]) for k in sides for p in pairs]
    score_2B = scores_of_export(tmp_path / "out", dialogues).reshape(2, len(pairs))
    means = [trained[f"eval/rewards/{side}"] for side in sides]
    assert np.allclose(score_2B.mean(1), means, atol=1e-3)


def scores_of_export(folder, dialogues: list[dict]) -> np.ndarray:
    """What transformers reads: scores at the last tokens that are no padding, [B].

    It is fed what the export says: no terminator, and nothing after it.
    """
    template = jinja2.Template((folder / "chat_template.jinja").read_text())
    tok = byte_llama.tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    padding = json.loads((folder / "config.json").read_text())["pad_token_id"]
    texts = [template.render(messages=d["messages"]) for d in dialogues]
    tokens = [np.array(tok.encode(text).ids, np.int32) for text in texts]
    ends = [np.flatnonzero(ids == byte_llama.END)[-1] for ids in tokens]
    tokens = [ids[:end] for ids, end in zip(tokens, ends, strict=True)]
    last = [np.flatnonzero(ids != padding)[-1] for ids in tokens]
    # The last token of a document is no input.
    inputs = rows.unpacked([np.append(ids, padding) for ids in tokens], 64)
    run = analysis.open_run(folder)
    scores = jax.jit(lambda p, x: run.model.score(p, run.model.hidden(p, x)))
    score_BT1 = scores(run.params(), inputs)
    return np.asarray(score_BT1)[np.arange(len(last)), last, 0]
