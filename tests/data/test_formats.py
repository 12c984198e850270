# SPDX-License-Identifier: Apache-2.0
"""Rows of well-known shapes become records, and bad ones say what is wrong."""

import json
import math
from pathlib import Path

import groups
import numpy as np
import pytest

from alignjax import errors
from alignjax.data import formats, loader, records, sources
from alignjax.data.chat import format as chat

HH = Path(__file__).parents[3] / "shared" / "data" / "hh_harmless_1500.jsonl"
USER, REPLY, OTHER = ("user", "hi"), ("assistant", "hello"), ("assistant", "go away")


def said(*turns) -> list[dict]:
    return [{"role": role, "content": text} for role, text in turns]


# As HuggingFaceH4/ultrafeedback_binarized has them.
ULTRAFEEDBACK = {
    "prompt": "hi",
    "prompt_id": "af41",
    "chosen": said(USER, REPLY),
    "rejected": said(USER, OTHER),
    "messages": said(USER, REPLY),
    "score_chosen": 8.5,
    "score_rejected": 6.0,
}
# As allenai/tulu-3-sft-mixture and its preference mixtures have them.
TULU_SFT = {
    "id": "x_1",
    "messages": said(("system", "s"), USER, REPLY),
    "source": "ai2",
}
TULU_PAIR = {
    "id": "x_2",
    "source": "ai2",
    "prompt": "more",
    "chosen": said(USER, REPLY, ("user", "more"), REPLY),
    "rejected": said(USER, REPLY, ("user", "more"), OTHER),
}


def read(format, **row):
    return formats.reader(format).read(row)


def pair(prompt=(USER,), **values):
    return records.Comparison(prompt, ("hello", "go away"), values)


@pytest.mark.parametrize(
    "format, row, record",
    [
        ("text", {"text": "a b"}, records.Text("a b")),
        ("messages", TULU_SFT, records.Chat((("system", "s"), USER, REPLY))),
        (
            "messages",  # as TFDS and older data sets give lists of messages
            {"messages": {"role": ["user", "assistant"], "content": ["hi", "hello"]}},
            records.Chat((USER, REPLY)),
        ),
        (
            "messages",
            {"messages": said(("human", "hi"), ("gpt", "hello")), "weight": 2.0},
            records.Chat((USER, REPLY), 2.0),
        ),
        (
            "prompt_response",
            {"prompt": "hi", "response": "hello", "weight": None},
            records.Chat((USER, REPLY)),
        ),
        (
            "prompt_response",
            {"prompt": said(USER, REPLY, USER), "response": said(REPLY)},
            records.Chat((USER, REPLY, USER, REPLY)),
        ),
        ("preference", ULTRAFEEDBACK, pair(reward=(8.5, 6.0), gap=2.5)),
        ("preference", TULU_PAIR, pair((USER, REPLY, ("user", "more")))),
        (
            "preference",
            {"prompt": "hi", "chosen": "hello", "rejected": "go away", "margin": 2},
            pair(margin=2),
        ),
        (
            "preference",
            {"prompt": said(USER), "chosen": said(REPLY), "rejected": said(OTHER)},
            pair(),
        ),
        (
            "preference",  # the prompt is in the transcripts alone
            {"chosen": said(USER, REPLY), "rejected": said(USER, OTHER)},
            pair(),
        ),
        (
            "hh",
            {
                "chosen": "\n\nHuman: hi\n\nAssistant: hello",
                "rejected": "\n\nHuman: hi\n\nAssistant: go away ",
                "weight": 5,
            },
            pair()._replace(weight=5),
        ),
        (
            "ranking",
            {"prompt": "hi", "responses": ["hello", "go away"], "reward": [2, 1]},
            pair(reward=(2, 1)),
        ),
        (
            "label",
            {"prompt": said(USER), "completion": said(REPLY), "label": True},
            records.Comparison((USER,), ("hello",), {"desirable": 1.0}),
        ),
        (
            "rating",
            {"prompt": "hi", "response": "hello", "target": [1, 0.5], "weight": 3},
            records.Comparison((USER,), ("hello",), {"target": (1, 0.5)}, 3),
        ),
        (
            "rating",
            {"prompt": "hi", "response": "hello", "target": 4},
            records.Comparison((USER,), ("hello",), {"target": (4,)}),
        ),
    ],
)
def test_rows_become_records(format, row, record):
    assert read(format, **row) == record


@pytest.mark.parametrize(
    "format, row, reason",
    [
        ("messages", {"message": []}, "no field 'messages'; did you mean 'message'"),
        ("messages", {"messages": "hi"}, "field 'messages': expected messages, found"),
        ("messages", {"messages": [{"role": "user"}]}, "message 1 has no role and con"),
        (
            "messages",
            {"messages": said(USER, ("assistant", ""))},
            "message 2: the text",
        ),
        (
            "prompt_response",
            {"prompt": "a", "response": None},
            "expected messages, fou",
        ),
        (
            "prompt_response",
            {"prompt": " ", "response": "a"},
            "'prompt': the text is e",
        ),
        (
            "prompt_response",
            {"prompt": "a", "response": said(USER, REPLY)},
            "'response': expected one turn of the assistant, found user, assistant",
        ),
        (
            "preference",
            {"chosen": "a", "rejected": "b"},
            "no prompt, and chosen and rej",
        ),
        (
            "preference",
            {**ULTRAFEEDBACK, "prompt": "other"},
            "the prompt is not what chosen and rejected begin with",
        ),
        (
            "preference",
            {"chosen": said(USER, REPLY), "rejected": said(("user", "x"), OTHER)},
            "chosen and rejected, of 2 and 2 turns, part at turn 1, before the last",
        ),
        (
            "preference",
            {"chosen": said(USER, REPLY), "rejected": said(USER, OTHER, USER, REPLY)},
            "of 2 and 4 turns, part at turn 2",
        ),
        (
            "preference",
            {"chosen": said(REPLY, USER), "rejected": said(REPLY, ("user", "x"))},
            "must end in the assistant's",
        ),
        (
            "preference",
            {**ULTRAFEEDBACK, "score_chosen": "8"},
            "field 'score_chosen': '8' is not a finite number of float32",
        ),
        (
            "preference",
            {**ULTRAFEEDBACK, "score_chosen": 10**400},
            "field 'score_chosen': 1000000000",
        ),
        (
            "preference",
            {**ULTRAFEEDBACK, "score_rejected": -math.inf},
            "field 'score_rejected': -inf is not a finite",
        ),
        (
            "preference",
            {**ULTRAFEEDBACK, "score_rejected": None},
            "score_chosen alone; give both score_chosen and score_rejected",
        ),
        (
            "preference",
            {"chosen": [], "rejected": []},
            "field 'chosen': expected messages",
        ),
        (
            "hh",
            {"chosen": "hi", "rejected": "\n\nHuman: hi"},
            "'chosen': no transcript",
        ),
        (
            "hh",
            {"chosen": "\n\nHuman: a\n\nAssistant: b", "rejected": "\n\nHuman: a"},
            "must end in the assistant's turn",
        ),
        ("ranking", {"prompt": "a", "responses": "b"}, "expected a list, found str"),
        ("ranking", {"prompt": "a", "responses": ["b", ""]}, "the text is empty"),
        (
            "ranking",
            {"prompt": "a", "responses": []},
            "field 'responses': expected a list",
        ),
        (
            "label",
            {"prompt": "a", "completion": "b", "label": 2},
            "field 'label': 2 is not true or false",
        ),
    ],
)
def test_bad_rows_say_why(format, row, reason):
    found = read(format, **row)
    assert isinstance(found, records.BadRow)
    assert reason in found.reason


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"prompt": None}, "field 'prompt': null"),
        ({"prompt": None, "messages": None}, "field 'prompt': null"),
        ({"messages": None, "id": 3}, "field 'messages': null"),
        ({"text": "a", "id": 3}, "no prompt and no messages; it has text, id"),
    ],
)
def test_a_row_without_a_prompt_says_why(row, reason):
    with pytest.raises(errors.DataError, match=reason):
        formats.prompt(row)


def test_columns_of_other_names(tmp_path):
    reader = formats.reader("prompt_response", columns={"prompt": "question"})
    assert reader.read({"question": "hi", "response": "hello"}) == records.Chat(
        (USER, REPLY)
    )
    names = ["question", "response", "weight"]
    assert reader.columns(["id", *names], "a.parquet") == names
    with pytest.raises(errors.DataError, match=r"a.parquet: .*'question'.*response"):
        reader.columns(["response"], "a.parquet")
    assert reader.identity != formats.reader("prompt_response").identity
    text = formats.reader(columns={"text": "body"})
    assert text.read({"body": "x"}) == records.Text("x") and text.required == ("body",)


def from_row(row):
    """A format of somebody's own."""
    return records.Chat((("user", row["q"]), ("assistant", row["a"])))


def test_a_format_of_ones_own():
    reader = formats.reader("test_formats:from_row")
    assert reader.read({"q": "hi", "a": "hello"}) == records.Chat((USER, REPLY))
    assert reader.columns(["q", "a", "more"], "x") == ["q", "a", "more"]


@pytest.mark.parametrize(
    "options, problem",
    [
        (dict(format="mesages"), "format: unknown row format 'mesages'; did you mean"),
        (
            dict(format="hh", field="chosen"),
            "field: 'chosen' is of the format \"text\"",
        ),
        (dict(format="hh", columns={"prompt": "q"}), "columns: 'hh' reads no 'prompt'"),
    ],
)
def test_options_that_cannot_be(tmp_path, options, problem):
    path = tmp_path / "a.jsonl"
    path.write_text("{}\n")
    with pytest.raises(errors.ConfigError, match=problem):
        sources.load("jsonl", {"path": str(path), **options})


ROWS = [ULTRAFEEDBACK, {**ULTRAFEEDBACK, "chosen": said(USER, OTHER)}, ULTRAFEEDBACK]


def check_rows(source):
    found = [record for _, record in source.documents()]
    wanted = formats.reader("preference").read(ULTRAFEEDBACK)
    assert found[0] == found[2] == wanted
    assert isinstance(found[1], records.Comparison)


def test_jsonl(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    source = sources.load("jsonl", {"path": str(path), "format": "preference"})
    check_rows(source)
    assert source.identity["format"] == ["preference", formats.FORMAT]
    section = {"kind": "jsonl", "path": str(path), "format": "preference"}
    cfg = loader.DataConfig(
        sources={"a": section},
        chat="roles",
        validation_fraction=0,
        on_bad_row="skip",
        long_documents="error",
    )
    place = dict(length=64, seed=0, cache_dir=tmp_path, data="pairs", values=("gap",))
    data = loader.build(cfg, groups.TOK, **place)
    assert f"{path}:2: responses 1 and 2 are equal" in data.report
    assert data.rows(np.arange(2))["values"]["gap"].max() == 2.5


def test_parquet(tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet")
    import pyarrow

    path = tmp_path / "a.parquet"
    parquet.write_table(pyarrow.Table.from_pylist(ROWS), path)
    check_rows(sources.load("parquet", {"path": str(path), "format": "preference"}))
    with pytest.raises(errors.DataError, match="no column 'completion'; known: chosen"):
        sources.load("parquet", {"path": str(path), "format": "label"})


def test_huggingface(tmp_path):
    pytest.importorskip("datasets")
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    options = {"path": "json", "data_files": str(path), "format": "preference"}
    source = sources.load("huggingface", options)
    check_rows(source)
    assert source.identity == sources.load("huggingface", options).identity
    other = sources.load("huggingface", {**options, "split": "train[:2]"})
    assert other.identity != source.identity
    with pytest.raises(errors.DataError, match="no column 'completion'"):
        sources.load("huggingface", {**options, "format": "label"})


def test_responses_can_be_imitated(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps(ULTRAFEEDBACK) + "\n")
    section = {"kind": "jsonl", "path": str(path), "format": "preference"}
    cfg = loader.DataConfig(sources={"a": section}, chat="roles", validation_fraction=0)
    data = loader.build(cfg, groups.TOK, length=64, seed=0, cache_dir=tmp_path)
    rows = data.epoch_rows(np.arange(1))
    trained = rows["targets"][rows["weights"] > 0]
    assert chat.of(groups.TOK, "roles").text(trained) == "hello" and len(trained) == 7


def test_real_pairs(tmp_path):
    if not HH.exists():
        pytest.skip(f"{HH} is not there")
    section = {"kind": "jsonl", "path": str(HH), "format": "hh"}
    options = dict(sources={"hh": section}, chat="roles", validation_fraction=0)
    cfg = loader.DataConfig(
        **options, long_documents="truncate_prompt", on_bad_row="skip", workers=1
    )
    place = dict(length=2048, seed=0, cache_dir=tmp_path, data="pairs")
    data = loader.build(cfg, groups.TOK, **place)
    manifest = data.parts[0].tokens.manifest
    assert manifest["documents"] == 1492 and manifest["skipped_rows"] == 8
    reasons = " ".join(manifest["first_skipped"])
    assert reasons.count("the text is empty") == 4
    assert reasons.count("two assistant turns in a row") == 3
    assert (
        f"{HH}:1255: chosen and rejected, of 5 and 4 turns, part at turn 4" in reasons
    )
    assert "hh: 8 bad rows skipped" in data.report
    with open(HH) as file:
        first = json.loads(next(file))
    tokens = data.parts[0].tokens
    lengths = tokens.fields["lengths"][0].astype(int)
    ids = tokens.tokens[lengths[0] : lengths[0] + lengths[1]]
    assert first["chosen"].endswith(chat.of(groups.TOK, "roles").text(ids))
