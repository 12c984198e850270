# SPDX-License-Identifier: Apache-2.0
"""Files of a corpus that hold more than the text or the rows that their owner means."""

import decimal
import gzip
import json

import pytest

from alignjax.data import formats, records, sources
from alignjax.data.chat import comparisons
from tests.field import byte_llama

MARK = "\ufeff".encode()


@pytest.mark.parametrize("name", ["tale.txt", "tale.txt.gz"])
def test_a_byte_order_mark_is_no_text(tmp_path, name):
    path = tmp_path / name
    with gzip.open(path, "wb") if path.suffix == ".gz" else open(path, "wb") as file:
        file.write(MARK + b"A fox came by.\n")
    documents = sources.load("text", {"path": str(path)}).documents()
    assert [record.text for _, record in documents] == ["A fox came by.\n"]


def test_a_byte_order_mark_is_no_part_of_the_first_row(tmp_path):
    path = byte_llama.write_rows(tmp_path / "rows.jsonl", [{"text": "A fox came by."}])
    path.write_bytes(MARK + path.read_bytes())
    documents = sources.load("jsonl", {"path": str(path)}).documents()
    assert [getattr(record, "text", record) for _, record in documents] == [
        "A fox came by."
    ]


@pytest.mark.parametrize(
    "hidden", [".ipynb_checkpoints/rows.jsonl", "._rows.jsonl", "more/.git/rows.jsonl"]
)
def test_hidden_copies_in_a_folder_are_left_out(tmp_path, hidden):
    folder, data = byte_llama.write(tmp_path / "model"), tmp_path / "data"
    corrected = byte_llama.dialogue("How tall is it?", "Nine metres.")
    byte_llama.write_rows(data / "rows.jsonl", [corrected])
    stale = byte_llama.dialogue("How tall is it?", "Four metres.")
    byte_llama.write_rows(data / hidden, [stale])
    _, learned, report = byte_llama.texts(byte_llama.config("sft", folder, data))
    assert learned == "Nine metres.<|im_end|>"
    assert "1 hidden" in report


TALK = (("user", "How tall is it?"), ("assistant", "Nine metres."))
PARTS = [{"type": "text", "text": "Nine "}, {"type": "text", "text": "metres."}]


@pytest.mark.parametrize(
    "messages",
    [
        [
            {"from": "human", "value": "How tall is it?"},
            {"from": "gpt", "value": "Nine metres."},
        ],
        {"from": ["human", "gpt"], "value": ["How tall is it?", "Nine metres."]},
        [
            {"role": "user", "content": ["How tall is it?"]},
            {"role": "assistant", "content": PARTS},
        ],
    ],
)
def test_messages_of_other_shapes_are_those_of_openai(messages):
    assert formats.reader("messages").read({"messages": messages}).turns == TALK


def test_parts_that_are_no_text_are_refused():
    part = {"type": "image_url", "image_url": {"url": "a.png"}}
    turns = [
        {"role": "user", "content": [part]},
        {"role": "assistant", "content": PARTS},
    ]
    bad = formats.reader("messages").read({"messages": turns})
    assert isinstance(bad, records.BadRow) and "message 1" in bad.reason


@pytest.mark.parametrize("mark", [b"", MARK])
@pytest.mark.parametrize("lines", [True, False])
def test_json_files_are_arrays_or_lines(tmp_path, mark, lines):
    rows = [byte_llama.dialogue(*(text for _, text in TALK))] * 2 + [["no row"]]
    path = tmp_path / "rows.json"
    text = "\n".join(map(json.dumps, rows)) if lines else json.dumps(rows, indent=1)
    path.write_bytes(mark + text.encode())
    options = {"path": str(path), "format": "messages"}
    read = dict(sources.load("jsonl", options).documents())
    assert list(read) == [f"{path}:{number}" for number in (1, 2, 3)]
    assert read[f"{path}:2"].turns == TALK
    assert isinstance(read[f"{path}:3"], records.BadRow)


def test_decimals_of_parquet_are_numbers(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    pair = {"prompt": "a", "chosen": "b", "rejected": "c"}
    scores = {"score_chosen": "4.50", "score_rejected": "2.00", "weight": "1.00"}
    decimals = {name: decimal.Decimal(score) for name, score in scores.items()}
    path = tmp_path / "pairs.parquet"
    parquet.write_table(pyarrow.Table.from_pylist([pair | decimals]), path)
    options = {"path": str(path), "format": "preference"}
    ((_, record),) = sources.load("parquet", options).documents()
    assert record.values == {"reward": (4.5, 2), "gap": 2.5} and record.weight == 1
    assert comparisons.fault(record, "pairs") is None
    number = formats.reader("rating").read(
        {"prompt": "a", "response": "b", "target": [decimal.Decimal("NaN")]}
    )
    assert "target" in comparisons.fault(number, "ratings")
