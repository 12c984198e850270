# SPDX-License-Identifier: Apache-2.0
"""What commands share: where they may write."""

import pytest

from alignjax import cli, errors


def test_the_folder_of_a_file_is_made(tmp_path):
    out = tmp_path / "deep" / "er" / "out.json"
    assert cli.output(str(out)) == out
    assert list(out.parent.iterdir()) == []
    out.write_text("old")
    assert cli.output(out).read_text() == "old"


def test_what_cannot_be_written_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    for path, reason in (
        (tmp_path, "is a folder; name a file"),
        (tmp_path / "file" / "out.json", "cannot be written: .* exists"),
        ("/proc/out.json", "cannot be written"),
        ("", "out: empty"),
    ):
        with pytest.raises(errors.ConfigError, match=reason):
            cli.output(path)
