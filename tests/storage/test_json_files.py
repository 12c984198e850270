# SPDX-License-Identifier: Apache-2.0
"""JSON of strangers is read within bounds, and refused with the name of its file."""

import json
import math

import pytest

from alignjax import errors
from alignjax.storage import json_files

BAD = {
    "cut off": '{"a": [1, 2',
    "no JSON": "pickle",
    "not a number": '{"a": NaN}',
    "an infinity": '{"a": [-Infinity]}',
    "a key twice": '{"a": 1, "b": {"c": 1, "c": 2}}',
    "deep": '{"a":' * 200 + "1" + "}" * 200,
    "so deep that Python gives up": '{"a":' * 200_000,
    "cut off and deep": "[" * 100_000,
    "wide": "[" + "0," * (json_files.MAX_VALUES + 1) + "0]",
    "no UTF-8": b'{"a": "\xff"}',
    "a number of ten thousand digits": "1" * 10_000,
    "no object": "[1]",
}


@pytest.mark.parametrize("content", BAD.values(), ids=BAD)
def test_it_is_refused_by_name(content, tmp_path):
    path = tmp_path / "x.json"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(errors.DataError) as refused:
        json_files.read(path, dict)
    assert str(refused.value).startswith(f"{path}: ")
    assert len(str(refused.value)) < 1000
    with pytest.raises(errors.BrokenStep):
        json_files.read(path, dict, error=errors.BrokenStep)


def test_a_file_that_is_missing_or_too_long_is_refused(tmp_path, monkeypatch):
    path = tmp_path / "x.json"
    with pytest.raises(errors.DataError, match="x"):
        json_files.read(path)
    path.write_text(json.dumps(["x" * 100]))
    monkeypatch.setattr(json_files, "MAX_BYTES", 104)
    assert json_files.read(path) == ["x" * 100]
    monkeypatch.setattr(json_files, "MAX_BYTES", 103)
    with pytest.raises(errors.DataError, match="x"):
        json_files.read(path)


def test_what_json_can_say_is_read(tmp_path):
    value = {"a": [1, 2.5, None, True, "é\U0001f600"], "b": {}, "c": [[[]]]}
    path = tmp_path / "x.json"
    path.write_text(json.dumps(value))
    assert json_files.read(path, dict) == value
    path.write_text(json.dumps(value), encoding="utf-8-sig")  # as some editors do
    assert json_files.read(path) == value
    assert json_files.parse("3", "x") == 3


def test_digests_are_those_that_caches_and_checkpoints_have():
    value = {"b": [1, "é"], "a": None}
    assert json_files.digest(value) == json_files.digest(dict(reversed(value.items())))
    assert json_files.digest(value)[:12] == "1c3d52eb7867"
    assert json_files.compact_digest(value)[:12] == "a44633ba036d"
    with pytest.raises(ValueError):
        json_files.digest(math.nan)
