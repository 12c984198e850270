# SPDX-License-Identifier: Apache-2.0
"""What is no regular file is refused wherever a file is expected, and never waited for.

A FIFO without a writer, an endless device, and links that lead nowhere, round in a
circle or to a folder.
"""

import contextlib
import json
import os
import signal

import pytest

from alignjax import analysis, errors
from alignjax.checkpoint import step_folders
from alignjax.data.chat import templates
from alignjax.data.sources import jsonl, parquet, text
from alignjax.data.tokenizers import base
from alignjax.huggingface import folder, peft, peft_config
from alignjax.storage import atomic, filenames, json_files, tensor_files

BYTES = base.from_files("bytes", {"bytes.json": b'{"control": []}'})
SPECIAL = {
    "fifo": os.mkfifo,
    "device": lambda path: path.symlink_to("/dev/zero"),
    "loop": lambda path: path.symlink_to(path.name),
    "broken link": lambda path: path.symlink_to("nowhere"),
    "folder": lambda path: path.mkdir(),
}


@contextlib.contextmanager
def soon(seconds: int = 10):
    def late(*_):
        raise AssertionError(f"it was not done after {seconds} s")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


@pytest.fixture(params=SPECIAL.values(), ids=SPECIAL)
def special(request):
    return request.param


def in_tokenizer(name):
    """Reads a folder of Hugging Face's whose tokenizer has such a file."""

    def read(path):
        if name:
            (path.parent / "tokenizer.json").write_text("{}")
        config = base.TokenizerConfig(kind="huggingface", path=str(path.parent))
        base.build(config, (), path.parent / "cache")

    return name, read


def saved(path):
    BYTES.save(path.parent / "saved")
    file = path.parent / "saved" / path.name
    file.unlink()
    os.rename(path, file)
    base.load(file.parent)


def shard(path):
    index = {"weight_map": {"a": path.name}}
    (path.parent / folder.INDEX).write_text(json.dumps(index))
    folder.weights(path.parent)


def named(read):
    return lambda path: read(str(path))


READERS = {
    "json": ("x.json", json_files.read),
    "JSON lines": ("x.jsonl", named(jsonl.load)),
    "packed JSON lines": ("x.jsonl.gz", named(jsonl.load)),
    "text": ("x.txt", named(text.load)),
    "parquet": ("x.parquet", named(parquet.load)),
    "template": ("x.jinja", named(lambda name: templates.find(BYTES, name))),
    "tensors": ("x.safetensors", tensor_files.open_file),
    "weights": (folder.SINGLE, lambda path: folder.weights(path.parent)),
    "index": (folder.INDEX, lambda path: folder.weights(path.parent)),
    "shard": ("model-00001-of-00002.safetensors", shard),
    "config.json": ("config.json", lambda path: folder.open_folder(path.parent)),
    "adapters": (peft.CONFIG, peft_config.read),
    "tokenizer": ("tokenizer.json", lambda path: in_tokenizer("")[1](path)),
    "tokenizer's settings": in_tokenizer("tokenizer_config.json"),
    "tokenizer's template": in_tokenizer("chat_template.jinja"),
    "stop tokens": in_tokenizer("generation_config.json"),
    "config beside it": in_tokenizer("config.json"),
    "saved manifest": (base.MANIFEST, saved),
    "saved tokenizer": ("bytes.json", saved),
    "run": ("config.json", lambda path: analysis.open_run(path.parent).config),
    "step": ("params", lambda path: step_folders.read(path.parent, {})),
}


@pytest.mark.parametrize("reader", READERS.values(), ids=READERS)
def test_it_is_refused_and_not_waited_for(reader, special, tmp_path):
    name, read = reader
    if (special, name) == (SPECIAL["folder"], "params"):
        pytest.skip("a step has folders")
    if special is SPECIAL["folder"] and name.startswith("x.") and "json" not in name:
        pytest.skip("a folder is read as what is in it")
    path = tmp_path / name
    special(path)
    with soon(), pytest.raises(errors.AlignError) as refused:
        read(path)
    assert (str(tmp_path) if name == "params" else name) in str(refused.value)


def test_a_step_whose_meta_describes_more_than_is_there_is_broken(tmp_path):
    leaf = {"shape": [10**12, 10**12], "dtype": "float32"}
    meta = {"format": step_folders.FORMAT, "leaves": {"params/a": leaf}}
    with soon(), pytest.raises(errors.BrokenStep, match="describes"):
        step_folders.read_numpy(tmp_path, meta, "params")


def test_a_regular_file_is_read_within_bounds(tmp_path, monkeypatch):
    (tmp_path / "x").write_bytes(b"12345")
    (tmp_path / "link").symlink_to("x")  # as the hub's cache has them
    assert filenames.read(tmp_path / "link") == b"12345"
    monkeypatch.setattr(filenames, "MAX_READ", 4)
    with pytest.raises(OSError, match="most"):
        filenames.read(tmp_path / "x")
    with pytest.raises(OSError, match="NUL"):
        filenames.read(f"{tmp_path}/x\0")


@pytest.mark.parametrize("place", ["log.txt", "tokenizer", "samples/7.txt"])
def test_a_workdir_with_links_or_special_files_is_refused(place, special, tmp_path):
    path = tmp_path / "run" / place
    path.parent.mkdir(parents=True)
    special(path)
    if special is SPECIAL["folder"]:
        atomic.check_links(tmp_path / "run")
        return
    with soon(), pytest.raises(errors.ConfigError, match="workdir"):
        atomic.check_links(tmp_path / "run")


def test_checkpoints_may_be_on_another_disk(tmp_path):
    (tmp_path / "disk").mkdir()
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "checkpoints").symlink_to(tmp_path / "disk")
    atomic.check_links(tmp_path / "run", but=("checkpoints",))
    with pytest.raises(errors.ConfigError, match="workdir"):
        atomic.check_links(tmp_path / "run")
