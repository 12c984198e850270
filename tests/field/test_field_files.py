# SPDX-License-Identifier: Apache-2.0
"""Files of a corpus that hold more than the text or the rows that their owner means."""

import pytest

from alignjax.data import sources
from tests.field import byte_llama

MARK = "\ufeff".encode()


@pytest.mark.xfail(
    strict=True,
    reason="the byte order mark of a text file is read as the first letter of its text",
)
def test_a_byte_order_mark_is_no_text(tmp_path):
    path = tmp_path / "tale.txt"
    path.write_bytes(MARK + b"A fox came by.\n")
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
    "hidden", [".ipynb_checkpoints/rows-checkpoint.jsonl", "._rows.jsonl"]
)
@pytest.mark.xfail(
    strict=True,
    reason="hidden files and folders below the folder of a source are read as its data",
)
def test_hidden_copies_in_a_folder_are_left_out(tmp_path, hidden):
    folder, data = byte_llama.write(tmp_path / "model"), tmp_path / "data"
    corrected = byte_llama.dialogue("How tall is it?", "Nine metres.")
    byte_llama.write_rows(data / "rows.jsonl", [corrected])
    stale = byte_llama.dialogue("How tall is it?", "Four metres.")
    byte_llama.write_rows(data / hidden, [stale])
    _, learned, _ = byte_llama.texts(byte_llama.config("sft", folder, data))
    assert learned == "Nine metres.<|im_end|>"
