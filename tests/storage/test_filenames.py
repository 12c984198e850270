# SPDX-License-Identifier: Apache-2.0
"""No file that somebody sends us decides where another file is read or written."""

import json

import pytest

from alignjax import errors
from alignjax.data.tokenizers import base
from alignjax.huggingface import folder, save
from alignjax.storage import filenames

PLAIN = [
    *("tokenizer.json", "model-00001-of-00002.safetensors", "merges.txt"),
    *(".hidden", "a..b", "with space", "模型.json", "café", "x" * 255),
]
NOT_PLAIN = {
    "empty": "",
    "here": ".",
    "up": "..",
    "absolute": "/home/x/.bashrc",
    "relative": "../../x",
    "below": "folder/x",
    "trailing separator": "x/",
    "backslash": "..\\x",
    "drive": "C:x",
    "share": "\\\\host\\x",
    "NUL": "x\0.json",
    "line break": "x\n",
    "fullwidth solidus": "..\uff0f..\uff0fx",
    "fullwidth backslash": "..\uff3cx",
    "fullwidth colon": "C\uff1ax",
    "small backslash": "..\ufe68x",
    "account of": "\u2100",  # NFKC: a/c
    "two dot leader": "\u2025",  # NFKC: ..
    "fullwidth dots": "\uff0e\uff0e",
    "fraction slash": "..\u2044x",
    "division slash": "..\u2215x",
    "big solidus": "..\u29f8x",
    "set minus": "..\u2216x",
    "right to left": "\u202etxt.x",
    "lone surrogate": "x\udc80",
    "too long": "x" * 256,
    "too long in bytes": "é" * 128,
    "no text": 3,
    "nothing": None,
}


@pytest.mark.parametrize("name", PLAIN)
def test_plain_names(name):
    assert filenames.is_plain(name)


@pytest.mark.parametrize("name", NOT_PLAIN.values(), ids=NOT_PLAIN)
def test_names_that_are_not_plain(name):
    assert not filenames.is_plain(name)


ESCAPING = [
    *("../escaped", "{outside}/escaped", "..\uff0fescaped"),
    *("C:escaped", "escaped\0", "below/escaped"),
]


@pytest.fixture(params=ESCAPING)
def escaping(request, tmp_path):
    """A name that would leave its folder, from beside it or from the root."""
    return request.param.format(outside=tmp_path)


def everything(path):
    return sorted(str(p.relative_to(path)) for p in path.rglob("*"))


def hostile(path, name) -> None:
    """A saved tokenizer of which one more file is called `name`."""
    tok = base.from_files("bytes", {"bytes.json": b'{"control": []}'})
    tok.save(path)
    manifest = json.loads((path / base.MANIFEST).read_text())
    manifest["files"][name] = manifest["files"]["bytes.json"]
    (path / base.MANIFEST).write_text(json.dumps(manifest))
    # What `load` of the last part of the name finds.
    (path / "escaped").write_bytes(b'{"control": []}')


def test_a_tokenizer_with_such_a_file_is_not_loaded(tmp_path, escaping):
    hostile(tmp_path / "run" / "tokenizer", escaping)
    with pytest.raises(errors.DataError) as error:
        base.load(tmp_path / "run" / "tokenizer")
    assert repr(escaping)[1:60].rstrip("'") in str(error.value)


def test_a_tokenizer_with_such_a_file_is_not_saved(tmp_path, escaping):
    tok = base.from_files("bytes", {"bytes.json": b'{"control": []}'})
    tok = tok._replace(files={**tok.files, escaping: b"echo owned"})
    with pytest.raises(errors.DataError):
        tok.save(tmp_path / "run" / "tokenizer")
    assert everything(tmp_path) == []


def test_a_tokenizer_is_not_saved_through_a_link(tmp_path):
    (tmp_path / "outside").write_text("mine")
    for name in ("bytes.json", base.MANIFEST):
        folder_of_run = tmp_path / name / "tokenizer"
        folder_of_run.mkdir(parents=True)
        (folder_of_run / name).symlink_to(tmp_path / "outside")
        base.from_files("bytes", {"bytes.json": b'{"control": []}'}).save(folder_of_run)
        assert (tmp_path / "outside").read_text() == "mine"
        assert base.load(folder_of_run).kind == "bytes"


@pytest.mark.parametrize("kind", ["nothing", "../bytes", "os", 3, None])
def test_a_tokenizer_of_an_unknown_kind_is_refused(tmp_path, kind):
    base.from_files("bytes", {"bytes.json": b'{"control": []}'}).save(tmp_path)
    file = tmp_path / base.MANIFEST
    file.write_text(json.dumps({**json.loads(file.read_text()), "kind": kind}))
    with pytest.raises(errors.DataError):
        base.load(tmp_path)


@pytest.mark.parametrize("files", [["bytes.json"], "bytes.json", 3, None])
def test_a_manifest_of_another_form_is_refused(tmp_path, files):
    base.from_files("bytes", {"bytes.json": b'{"control": []}'}).save(tmp_path)
    file = tmp_path / base.MANIFEST
    file.write_text(json.dumps({**json.loads(file.read_text()), "files": files}))
    with pytest.raises(errors.DataError):
        base.load(tmp_path)


def test_an_index_of_shards_with_such_a_name_is_refused(tmp_path, escaping):
    path = tmp_path / "model"
    path.mkdir()
    index = {"weight_map": {"model.norm.weight": escaping}}
    (path / folder.INDEX).write_text(json.dumps(index))
    with pytest.raises(errors.ConfigError) as error:
        folder.weights(path)
    assert folder.INDEX in str(error.value) and "plain" in str(error.value)


def test_an_export_with_such_a_file_is_not_written(tmp_path, escaping):
    plan = save.Plan((), {}, {}, {}, {}, {escaping: b"echo owned"}, ())
    with pytest.raises(errors.ConfigError):
        save.write(plan, {}, tmp_path / "out")
    assert everything(tmp_path) == []
