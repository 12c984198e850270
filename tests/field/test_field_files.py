# SPDX-License-Identifier: Apache-2.0
"""Files of a corpus that hold more than the text or the rows that their owner means."""

import gzip

import pytest

from alignjax.data import sources
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
    "hidden",
    [".ipynb_checkpoints/rows.jsonl", "._rows.jsonl", "more/.git/rows.jsonl"],
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
