# SPDX-License-Identifier: Apache-2.0
"""A file is replaced whole or not at all, whatever happens on the way."""

import os

import pytest

from alignjax import errors
from alignjax.storage import atomic


def test_a_file_that_cannot_be_finished_changes_nothing(tmp_path):
    path = tmp_path / "a"
    path.write_text("old")
    with pytest.raises(ZeroDivisionError), atomic.replace(path) as file:
        file.write(b"half")
        file.flush()
        assert path.read_text() == "old"
        1 / 0  # noqa: B018
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["a"]


def test_of_two_at_once_the_last_one_wins_and_both_are_whole(tmp_path):
    path = tmp_path / "a"
    with atomic.replace(path) as first:
        first.write(b"first" * 1000)
        with atomic.replace(path) as second:
            second.write(b"second")
        assert path.read_text() == "second"
    assert path.read_text() == "first" * 1000
    assert os.listdir(tmp_path) == ["a"]


def test_text_and_json_are_utf8_with_their_folders(tmp_path):
    atomic.write(tmp_path / "new" / "a", "é\n")
    assert (tmp_path / "new" / "a").read_bytes() == b"\xc3\xa9\n"
    atomic.write_json(tmp_path / "b", {"b": 1, "a": [None]})
    text = '{\n  "a": [\n    null\n  ],\n  "b": 1\n}\n'
    assert (tmp_path / "b").read_text() == text


def test_what_a_killed_process_left_is_written_over(tmp_path):
    (tmp_path / "x.partial").write_bytes(b"longer than what is written now")
    with atomic.new_file(tmp_path / "x") as path:
        assert path.name == "x.partial" and path.read_bytes() == b""
        path.write_bytes(b"whole")
        with (
            pytest.raises(errors.ConfigError, match="another process"),
            atomic.new_file(tmp_path / "x"),
        ):
            pass
    assert (tmp_path / "x").read_bytes() == b"whole"
    with pytest.raises(ZeroDivisionError), atomic.new_file(tmp_path / "y") as path:
        path.write_bytes(bytes(1 // 0))
    assert [file.name for file in tmp_path.iterdir()] == ["x"]
    (tmp_path / "z.partial").symlink_to(tmp_path / "x")
    with pytest.raises(OSError), atomic.new_file(tmp_path / "z"):
        pass
    assert (tmp_path / "x").read_bytes() == b"whole"
