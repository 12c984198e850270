# SPDX-License-Identifier: Apache-2.0
"""The world as a source: streamed in order, made once, and without TensorFlow."""

import json
import os
import subprocess
import sys

import pytest

from alignjax import errors, world
from alignjax.world import corpus, prepared


def load(tmp_path, **options):
    return world.load(documents=50, data_dir=str(tmp_path), **options)


def test_documents_come_in_order_and_say_where(tmp_path):
    source = load(tmp_path)
    town = world.build("small", 0)
    found = list(source.documents())
    assert [where for where, _ in found] == [
        f"world/small/pretrain:{i}" for i in range(50)
    ]
    assert [record.text for _, record in found] == [
        corpus.document(town, i).text for i in range(50)
    ]
    assert list(source.documents()) == found
    assert source.kind == "world"
    assert source.size > sum(len(record.text) for _, record in found)


def test_identity_names_all_that_matters_and_no_place(tmp_path):
    base = load(tmp_path / "a").identity
    assert base == load(tmp_path / "b").identity
    assert str(tmp_path) not in json.dumps(base)
    for other in ({"seed": 1}, {"preset": "nano"}):
        assert load(tmp_path / "a", **other).identity != base


def test_second_load_makes_nothing(tmp_path, monkeypatch):
    load(tmp_path)
    monkeypatch.setattr(corpus, "document", None)
    assert len(list(load(tmp_path).documents())) == 50


def test_longer_corpus_begins_with_the_shorter(tmp_path):
    short = [record.text for _, record in load(tmp_path).documents()]
    longer = world.load(documents=60, data_dir=str(tmp_path))
    assert [record.text for _, record in longer.documents()][:50] == short


@pytest.mark.parametrize(
    "options, named",
    [
        ({"preset": "smal"}, "did you mean 'small'"),
        ({"split": "pretrian"}, "did you mean 'pretrain'"),
        ({"documents": 0}, "documents=0"),
    ],
)
def test_refuses_what_it_has_not(tmp_path, options, named):
    with pytest.raises(errors.DataError, match=named):
        world.load(**{"documents": 5, "data_dir": str(tmp_path)} | options)


def test_default_data_dir_is_the_users_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert prepared.default_data_dir() == tmp_path / "alignjax" / "world"


_DIGEST = """
import hashlib, sys
from alignjax import world
source = world.load(documents=300, seed=5, data_dir=sys.argv[1])
text = "\\0".join(record.text for _, record in source.documents())
heavy = {"tensorflow", "jax", "torch"} & set(sys.modules)
print(hashlib.sha256(text.encode()).hexdigest(), sorted(heavy))
"""


def digests(directories):
    """What processes say that load at the same time, each with its own hash seed."""
    runs = [
        subprocess.Popen(
            [sys.executable, "-c", _DIGEST, str(directory)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | {"PYTHONHASHSEED": str(seed)},
        )
        for seed, directory in enumerate(directories, start=1)
    ]
    said = [run.communicate(timeout=120) for run in runs]
    assert [run.returncode for run in runs] == [0] * len(runs), said
    assert [noise for _, noise in said] == [""] * len(runs)
    return [line.split() for line, _ in said]


def test_processes_agree_without_tensorflow_or_jax(tmp_path):
    first, second = digests([tmp_path / "a", tmp_path / "b"])
    assert first == second
    assert first[1:] == ["[]"]


def test_two_processes_at_once_make_one_data_set(tmp_path):
    first, second = digests([tmp_path, tmp_path])
    assert first == second
    assert len([path for path in tmp_path.iterdir() if path.is_dir()]) == 1
