# SPDX-License-Identifier: Apache-2.0
"""The world as a source: streamed in order, the same everywhere, without TensorFlow."""

import os
import subprocess
import sys

import pytest

from alignjax import errors, world
from alignjax.world import corpus


def load(**options):
    return world.load(documents=50, **options)


def test_documents_come_in_order_and_say_where():
    source = load()
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


def test_identity_names_all_that_matters():
    assert load().identity == load().identity
    for other in ({"seed": 1}, {"preset": "nano"}, {"dialogues": "chat"}):
        assert load(**other).identity != load().identity
    assert world.load(documents=51).identity != load().identity


def test_a_folder_of_earlier_configs_is_not_silently_ignored(tmp_path):
    source = load(data_dir=str(tmp_path / "world"))
    assert source._replace(documents=None) == load()._replace(
        documents=None, note=source.note
    )
    assert "data_dir" in source.note and not load().note
    assert not list(tmp_path.iterdir())


def test_longer_corpus_begins_with_the_shorter():
    texts = lambda source: [record.text for _, record in source.documents()]
    assert texts(world.load(documents=60))[:50] == texts(load())


@pytest.mark.parametrize(
    "options, named",
    [
        ({"preset": "smal"}, "did you mean 'small'"),
        ({"split": "pretrian"}, "did you mean 'pretrain'"),
        ({"documents": 0}, "documents=0"),
    ],
)
def test_refuses_what_it_has_not(options, named):
    with pytest.raises(errors.DataError, match=named):
        world.load(**{"documents": 5} | options)


_DIGEST = """
import hashlib, sys
from alignjax import world
source = world.load(documents=300, seed=5)
text = "\\0".join(record.text for _, record in source.documents())
heavy = {"tensorflow", "jax", "torch"} & set(sys.modules)
print(hashlib.sha256(text.encode()).hexdigest(), sorted(heavy))
"""


def test_processes_agree_without_tensorflow_or_jax():
    """Each has its own hash seed."""
    runs = [
        subprocess.run(
            [sys.executable, "-c", _DIGEST],
            capture_output=True,
            text=True,
            timeout=120,
            env=os.environ | {"PYTHONHASHSEED": str(seed)},
        )
        for seed in (1, 2)
    ]
    assert [(run.returncode, run.stderr) for run in runs] == [(0, "")] * 2
    first, second = (run.stdout.split() for run in runs)
    assert first == second
    assert first[1:] == ["[]"]
