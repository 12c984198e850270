# SPDX-License-Identifier: Apache-2.0
"""Text that a tokenizer cannot spell is counted where it is trained on, and told."""

import json
import shutil

import groups
import numpy as np
import pytest

from alignjax import errors
from alignjax.data import loader, records
from alignjax.data.chat import templates
from alignjax.data.tokenizers import base

CORPUS = ["a long day at the sea", "the sea is grey today", "what is a day?"]
SAID = "unknown to the tokenizer: {} of {} tokens that are trained on"


def learned(tmp_path, **options):
    rows = [("d:0", records.Text(" ".join(CORPUS * 20)))]
    source = records.Source("rows", {}, None, lambda: rows)
    options = dict(vocab_size=40, byte_fallback=False) | options
    cfg = base.TokenizerConfig(control_tokens=templates.CONTROL, **options)
    return base.build(cfg, [source], tmp_path)


def load(rows: str) -> records.Source:
    ask = (("user", "what é?"),)
    known = {
        "text": [records.Text(text) for text in ("a é sea", "é", "the sea")],
        "plain": [records.Text("a sea")],
        "chat": [
            records.Chat((*ask, ("assistant", "a é day é"))),
            records.Chat((*ask, ("assistant", "é"), *ask, ("assistant", "sea")), 0.5),
            records.Chat(
                (*ask, ("assistant", "é"), *ask, ("assistant", "day")), skipped=(1,)
            ),
        ],
        "pairs": [records.Comparison(ask, ("a é", "the day"), {})],
    }
    places = [(f"rows:{i}", row) for i, row in enumerate(known[rows])]
    return records.Source("unknown", {"rows": rows}, None, lambda: places)


def build(tok, tmp_path, rows, **options):
    """A dataset of the rows called so."""
    options = dict(chat="roles" if rows in ("chat", "pairs") else None) | options
    cfg = loader.DataConfig(
        sources={"a": {"kind": "test_unknown:load", "rows": rows}},
        validation_fraction=0,
        long_documents="error",
        **options,
    )
    data = "pairs" if rows == "pairs" else "text"
    return loader.build(cfg, tok, length=64, seed=0, cache_dir=tmp_path, data=data)


@pytest.mark.parametrize(
    "rows, options, count",
    [
        ("text", {}, 1),  # nothing predicts the first token of a document
        ("text", dict(bos=True), 2),
        ("chat", {}, 3),
        ("chat", dict(train_on="last"), 2),
        ("chat", dict(train_on="everything"), 8),
        ("pairs", {}, 1),
        ("pairs", dict(share_prompt=True), 1),
    ],
)
def test_unknown_targets_are_told(tmp_path, rows, options, count):
    tok = learned(tmp_path)
    data = build(tok, tmp_path, rows, **options)
    found = data.epoch_rows(np.arange(data.num_rows))
    trained = found["targets"][found["weights"] > 0]
    assert (trained == tok.unknown_id).sum() == count
    assert SAID.format(count, trained.size) in data.report
    shutil.rmtree(tmp_path / "unknown")  # as with a cache from before it was counted
    again = build(tok, tmp_path, rows, **options)
    assert again.report == data.report and again.identity == data.identity


def test_what_is_spelt_is_not_told(tmp_path):
    tok = learned(tmp_path)
    assert "unknown" not in build(tok, tmp_path, "plain").report
    spells = learned(tmp_path, byte_fallback=True, vocab_size=300)
    assert spells.unknown_id is None
    assert "unknown" not in build(spells, tmp_path, "text").report


def test_a_template_needs_to_spell_all(tmp_path):
    """Tokens that stand for no text cannot be told to be of a reply."""

    tok = learned(tmp_path)
    with pytest.raises(errors.DataError, match=r"cannot spell all of .*é"):
        build(tok, tmp_path, "chat", chat="world")


def huggingface(tmp_path, model, **names):
    folder = tmp_path / "hub"
    folder.mkdir()
    model.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps(names))
    cfg = base.TokenizerConfig(kind="huggingface", path=str(folder))
    return base.build(cfg, [], "unused")


@pytest.mark.parametrize("kind", ["words", "unigram"])
def test_the_unknown_token_of_a_file(tmp_path, kind):
    library = pytest.importorskip("tokenizers", reason="reads a tokenizer.json")
    pieces = ["</s>", "[UNK]", "a", "the", "sea"]
    model = library.models.WordLevel(
        {piece: i for i, piece in enumerate(pieces)}, unk_token="[UNK]"
    )
    if kind == "unigram":
        model = library.models.Unigram([(piece, -1.0) for piece in pieces], unk_id=1)
    model = library.Tokenizer(model)
    model.pre_tokenizer = library.pre_tokenizers.Whitespace()
    tok = huggingface(tmp_path, model, eos_token="</s>")
    assert tok.unknown_id == 1 and tok.encode("a é sea") == [2, 1, 4]
    assert SAID.format(1, 6) in build(tok, tmp_path, "text").report


def test_an_end_that_is_also_the_unknown_token_is_not_counted(tmp_path):
    library = pytest.importorskip("tokenizers", reason="reads a tokenizer.json")
    pieces = {"<end>": 0, "a": 1, "sea": 2}
    model = library.Tokenizer(library.models.WordLevel(pieces, unk_token="<end>"))
    model.pre_tokenizer = library.pre_tokenizers.Whitespace()
    tok = huggingface(tmp_path, model, eos_token="<end>")
    assert tok.unknown_id is None


def test_bytes_and_characters_have_no_unknown_token(tmp_path):
    assert groups.TOK.unknown_id is None
    chars = learned(tmp_path, kind="chars")
    assert chars.unknown_id is None
    with pytest.raises(errors.DataError, match="'é' at offset 2 is not among"):
        build(chars, tmp_path, "text")
