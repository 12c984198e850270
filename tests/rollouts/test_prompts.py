# SPDX-License-Identifier: Apache-2.0
"""The stream of prompts."""

import json

import numpy as np
import pytest

from alignjax import analysis, config, errors
from alignjax.data import loader, records
from alignjax.data.chat import dialogues
from alignjax.data.tokens import tokenizing
from alignjax.rollouts import prompts
from tests.rollouts import small


@pytest.fixture(scope="module")
def tok():
    return analysis.open_run(small.RUNS / "sft").full_tokenizer


def build(tok, tmp_path, rows, split="train", room=60, **fields):
    path = tmp_path / "prompts.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    as_it_is = "alignjax.data.formats:as_it_is"
    source = dict(kind="jsonl", path=str(path), format=as_it_is)
    section = dict(sources={"mine": source}, chat="roles", bos=True) | fields
    cfg = config.build(loader.DataConfig, section, "data")
    return prompts.build(cfg, tok, room=room, seed=1, split=split)


ROWS = [{"prompt": f"what is {i} plus {i}?", "answer": str(2 * i)} for i in range(40)]


def test_each_pass_has_every_prompt_once_in_another_order(tok, tmp_path):
    stream = build(tok, tmp_path, ROWS, validation_fraction=0.0)
    answers = [p.record["answer"] for p in stream.take(0, 80)]
    assert (
        sorted(answers[:40])
        == sorted(answers[40:])
        == sorted(row["answer"] for row in ROWS)
    )
    assert answers[:40] != answers[40:]
    assert [p.where for p in stream.take(30, 20)] == [
        p.where for p in stream.take(0, 80)[30:50]
    ]


def test_held_out_prompts_are_others(tok, tmp_path):
    parts = [
        build(tok, tmp_path, ROWS, split, validation_fraction=0.3)
        for split in ("train", "validation")
    ]
    train, held_out = ({p.where for p in part.parts[0]} for part in parts)
    assert not train & held_out and len(train | held_out) == 40 and held_out


def test_ids_are_those_of_a_reply(tok, tmp_path):
    """So that a rollout begins as a dialogue of `Run.reply` does, start token too."""
    run = analysis.open_run(small.RUNS / "sft")
    (prompt,) = build(tok, tmp_path, ROWS[:1], validation_fraction=0.0).evenly_spaced(1)
    assert list(prompt.ids) == run.prompt_ids(ROWS[0]["prompt"])


@pytest.mark.parametrize("bos", [False, True])
@pytest.mark.parametrize("chat", [None, "roles"])
def test_ids_are_those_that_rows_of_training_begin_with(tok, tmp_path, chat, bos):
    """With as many start tokens."""
    stream = build(tok, tmp_path, ROWS[:1], chat=chat, bos=bos, validation_fraction=0.0)
    (prompt,), text = stream.evenly_spaced(1), ROWS[0]["prompt"]
    if chat is None:
        (row,) = tokenizing.tokenize_text(tok, [records.Text(text)], bos=bos)
        expected = row.ids[:-1].tolist()  # without its end
    else:
        dialogue = records.Chat((("user", text), ("assistant", "none.")))
        settings = dict(format=chat, train_on="all", bos=bos)
        (row,) = dialogues.tokenize(tok, [dialogue], **settings)
        expected = list(row.ids[: np.argmax(row.weights > 0)])
    assert list(prompt.ids) == expected and expected.count(tok.bos_id) == bos


def test_long_prompts_are_an_error_or_counted(tok, tmp_path):
    rows = [*ROWS, {"prompt": "why? " * 40}]
    with pytest.raises(errors.DataError, match=r"prompts\.jsonl:41"):
        build(tok, tmp_path, rows, validation_fraction=0.0)
    skipped = build(tok, tmp_path, rows, validation_fraction=0.0, long_documents="skip")
    assert "1 too long left out" in skipped.report and len(skipped.parts[0]) == 40


@pytest.mark.parametrize("row", [{"question": "?"}, {"prompt": 5}, {"prompt": " "}])
def test_rows_that_are_no_prompts(tok, tmp_path, row):
    with pytest.raises(errors.DataError, match=r"prompts\.jsonl:2"):
        build(tok, tmp_path, [ROWS[0], row], validation_fraction=0.0)
    stream = build(
        tok, tmp_path, [ROWS[0], row], validation_fraction=0.0, on_bad_row="skip"
    )
    assert "1 bad row" in stream.report


def test_prompts_have_a_token_that_a_response_follows(tok, tmp_path):
    tok = tok._replace(encode_batch=lambda texts: [[] for _ in texts])
    plain = dict(chat=None, bos=False, validation_fraction=0.0)
    with pytest.raises(errors.DataError, match=r"prompts\.jsonl:1: .*without tokens"):
        build(tok, tmp_path, ROWS[:1], **plain)


def test_held_out_prompts_of_an_evaluation_stay(tok, tmp_path):
    stream = build(tok, tmp_path, ROWS, validation_fraction=0.0)
    assert stream.evenly_spaced(10) == stream.evenly_spaced(10)
    assert len({prompt.where for prompt in stream.evenly_spaced(10)}) == 10
    assert len(stream.evenly_spaced(1000)) == 40
    assert stream.longest == max(len(p.ids) for p in stream.evenly_spaced(1000))
