# SPDX-License-Identifier: Apache-2.0
"""Prompts that reach the model otherwise than their author and their folder mean."""

import re

import pytest

from alignjax import analysis, convert, train
from alignjax.data.chat import format
from tests.field import byte_llama


def test_the_end_of_a_long_question_stays(tmp_path):
    folder = byte_llama.write(tmp_path / "model")
    question = f"Listen: {'and so on, ' * 10}which of them is blue?"
    pair = {"prompt": question, "chosen": "The third.", "rejected": "None."}
    path = byte_llama.write_rows(tmp_path / "pairs.jsonl", [pair])
    c = byte_llama.config("preference", folder, path, format="preference", length=160)
    c.data.pack = "none"
    c.data.long_documents = "truncate_prompt"
    read, learned, _ = byte_llama.texts(c)
    assert learned == "The third.<|im_end|>None.<|im_end|>"
    question = r"<\|im_start\|>user\n[^<]*on, which of them is blue\?<\|im_end\|>"
    assert len(re.findall(question, read)) == 2


def test_a_start_token_that_the_folder_does_not_write_is_reported(
    tmp_path, capfd, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    folder = byte_llama.write(tmp_path / "model", bos_token="<s>", add_bos_token=False)
    row = byte_llama.dialogue("Is it blue?", "It is.")
    path = byte_llama.write_rows(tmp_path / "rows.jsonl", [row] * 8)
    c = byte_llama.config("sft", folder, path)
    c.data.bos, c.data.pack = True, "none"
    assert train.train(c, tmp_path / "run") == 0
    assert convert.main(["export", "run", "out"]) == 0
    output = "".join(capfd.readouterr())
    trained, exported = (
        analysis.open_run(tmp_path / name).prompt_ids("Is it blue?")
        for name in ("run", "out")
    )
    assert trained == exported or "start token" in output or "data.bos" in output


@pytest.mark.parametrize("adds", [False, True])
def test_a_start_token_of_texts_is_that_of_the_tokenizer_or_reported(tmp_path, adds):
    folder = byte_llama.write(
        tmp_path / "model", None, bos_token="<s>", add_bos_token=adds
    )
    tok = analysis.open_run(folder).full_tokenizer
    assert format.start_note(tok, None, adds) is None
    assert "data.bos" in format.start_note(tok, None, not adds)
