# SPDX-License-Identifier: Apache-2.0
"""TFDS data is read in a process that never imports TensorFlow."""

import textwrap

import fresh
import pytest

TFDS = """
    import sys
    import numpy as np
    import tensorflow_datasets as tfds

    class TinyTexts(tfds.core.GeneratorBasedBuilder):
        VERSION = tfds.core.Version("1.0.0")

        def _info(self):
            message = {"role": tfds.features.Text(), "content": tfds.features.Text()}
            features = tfds.features.FeaturesDict(
                {
                    "text": tfds.features.Text(),
                    "messages": tfds.features.Sequence(message),
                    "weight": tfds.features.Scalar(np.float32),
                }
            )
            return self.dataset_info_from_configs(
                features=features, disable_shuffling=True
            )

        def _split_generators(self, download_manager):
            return {"train": self._generate_examples(5)}

        def _generate_examples(self, count):
            for i in range(count):
                turns = [("user", f"Is it {i}?"), ("assistant", "Yes.")]
                said = [{"role": role, "content": text} for role, text in turns]
                row = {"text": f"Document {i}.", "messages": said, "weight": i + 1}
                yield i, row
"""

READ_TFDS = """
    import sys
    from pathlib import Path

    sys.path.insert(0, sys.argv[1])
    import builder

    folder = sys.argv[1] + "/data"
    made = builder.TinyTexts(data_dir=folder, file_format="array_record")
    made.download_and_prepare()

    from alignjax import errors
    from alignjax.data import records, sources

    directory = str(made.data_dir)
    named = sources.load("tfds", dict(name="tiny_texts", data_dir=folder))
    found = sources.load("tfds", dict(directory=directory))
    assert [r.text for _, r in found.documents()] == [
        f"Document {i}." for i in range(5)
    ]
    assert list(named.documents()) == list(found.documents())
    assert named.identity == found.identity
    part = sources.load("tfds", dict(directory=directory, split="train[1:3]"))
    assert [r.text for _, r in part.documents()] == ["Document 1.", "Document 2."]

    chats = sources.load("tfds", dict(directory=directory, format="messages"))
    assert [r for _, r in chats.documents()] == [
        records.Chat((("user", f"Is it {i}?"), ("assistant", "Yes.")), i + 1)
        for i in range(5)
    ]
    assert chats.identity != found.identity

    for options, words in [
        (dict(directory=directory, format="hh"), "no column 'chosen'; known: mess"),
        (dict(directory=directory, split="test"), "known splits: train"),
        (dict(directory=directory, field="txt"), "did you mean 'text'?"),
        (dict(directory=folder), "no description of prepared data"),
        (dict(name="no_such_data"), "not found"),
        (dict(), "either a name or a directory"),
    ]:
        try:
            sources.load("tfds", options)
        except errors.DataError as error:
            assert words in str(error), error
        else:
            raise AssertionError(options)

    record = next(Path(directory).glob("*array_record*"))
    content = record.read_bytes()
    for broken in (content[:100], content[:-70_000] + bytes(70_000)):
        record.write_bytes(broken)
        try:
            list(sources.load("tfds", dict(directory=directory)).documents())
        except errors.DataError as error:
            assert "prepare it again" in str(error), error
        else:
            raise AssertionError("a damaged file was read")
    record.write_bytes(content)

    path = f"{directory}/features.json"
    described = open(path).read()
    with open(path, "w") as file:
        file.write(described.replace("tensorflow_datasets.core", "canary"))
    try:
        sources.load("tfds", dict(directory=directory))
    except errors.DataError as error:
        assert "canary" in str(error)
    else:
        raise AssertionError("a foreign class was not refused")
    assert "tensorflow" not in sys.modules
    assert "jax" not in sys.modules
    print("read")
"""


def test_tfds_is_read_without_tensorflow(tmp_path):
    pytest.importorskip("tensorflow_datasets")
    pytest.importorskip("array_record")
    package = tmp_path / "builder"
    package.mkdir()
    (package / "__init__.py").write_text("from builder.texts import TinyTexts\n")
    (package / "texts.py").write_text(textwrap.dedent(TFDS))
    assert fresh.run(READ_TFDS, tmp_path).strip().endswith("read")
