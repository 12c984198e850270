# SPDX-License-Identifier: Apache-2.0
"""What a dataset leaves out is told, and so is what helps where nothing is left."""

import pytest

from alignjax import errors
from alignjax.data import loader
from alignjax.data.tokenizers import base

TOK = base.build(base.TokenizerConfig(kind="bytes"), [], "unused")


@pytest.fixture
def folder(tmp_path):
    """Five documents, and a file that is none."""
    folder = tmp_path / "folder"
    folder.mkdir()
    for i in range(5):
        (folder / f"{i}.txt").write_text(f"document {i}")
    (folder / "notes.csv").write_text("left out")
    return folder


def build(folder, *, length=32, split="train", **options):
    sources = {"a": {"kind": "text", "path": str(folder)}}
    cfg = loader.DataConfig(sources=sources, **{"validation_fraction": 0.0} | options)
    place = dict(cache_dir=folder.parent / "cache", split=split)
    return loader.build(cfg, TOK, length=length, seed=0, **place)


def test_files_of_other_endings_are_counted(folder):
    note = "a: 1 files left out, which do not end in .txt, .md, .text, .txt.gz"
    assert note in build(folder).report.splitlines()
    (folder / "notes.csv").unlink()
    assert "left out" not in build(folder).report


@pytest.mark.parametrize(
    "options, words",
    [
        (
            dict(length=4, long_documents="skip"),
            (
                "train: of 5 documents 5 are too long; raise length, which is 4, or "
                'say data.long_documents = "split"'
            ),
        ),
        (
            dict(split="validation", validation_by="tail", validation_fraction=1e-9),
            "validation: it has no documents; raise data.validation_fraction = 1e-09",
        ),
        (
            dict(split="validation", validation_fraction=1e-9),
            (
                "validation: it has no documents; raise data.validation_fraction = "
                '1e-09, or say data.validation_by = "tail" for a corpus of a few long '
                "documents"
            ),
        ),
    ],
)
def test_what_helps_where_there_are_no_rows(folder, options, words):
    with pytest.raises(errors.DataError) as caught:
        build(folder, **options)
    assert str(caught.value) == f"data.sources.a: no rows in {words}"


def test_a_source_without_documents_is_named(folder):
    for i in range(5):
        (folder / f"{i}.txt").unlink()
    (folder / "0.jsonl").write_text("\n\n")
    cfg = loader.DataConfig(sources={"b": {"kind": "jsonl", "path": str(folder)}})
    with pytest.raises(
        errors.DataError, match=r"data.sources.b: .* no documents; name"
    ):
        loader.build(cfg, TOK, length=8, seed=0, cache_dir=folder)
