# SPDX-License-Identifier: Apache-2.0
"""Tokenizers undo themselves, never emit control tokens, and reopen as they were."""

import json
import shutil

import fresh
import numpy as np
import pytest

from alignjax import config, errors
from alignjax.data import records, sources
from alignjax.data.tokenizers import base
from alignjax.data.tokenizers import sentencepiece as words

CONTROL = ("<user>", "<assistant>")

SYLLABLES = ("ta", "ri", "mon", "sel", "ku", "ber", "lo", "ish", "ent", "qua", "for")


def _corpus() -> list[str]:
    """Texts of made-up words, numbers, signs and breaks."""
    rng = np.random.default_rng(0)
    texts = []
    for count in range(300):
        shape = rng.integers(1, 4, 8)
        made = ["".join(rng.choice(SYLLABLES, n)) for n in shape]
        made[3:3] = [f"“{made[0].title()}’s” caf\u00e9, no {count}!\n\n\tSo"]
        texts.append(" ".join(made) + ".")
    return texts


CORPUS = _corpus()

TEXTS = [
    "",
    " ",
    "\n",
    "  two  spaces   three ",
    "\r\n\n\n\t\t x\r",
    "<s></s><pad><unk><user><assistant> <0x41><|endoftext|>",
    "literal \u2581 and \u2581\u2581x\u2581 and \u2585",
    "é e\u0301 漢字 😀 \U0001f468‍\U0001f469 \ufeff \u2028 \u00a0 \u3000",
    "12345 3.14 a1b2 snake_case camelCase x=y;(z)[0]{}",
    "“It’s.”—no…  (yes)",
    "x" * 5000 + " " * 5000,
    *CORPUS[:20],
]


def corpus() -> records.Source:
    def rows():
        return ((f"c:{i}", records.Text(t)) for i, t in enumerate(CORPUS))

    return records.Source("corpus", {"n": len(CORPUS)}, None, rows)


def build(folder, **options) -> base.Tokenizer:
    options = dict(vocab_size=400, control_tokens=CONTROL) | options
    return base.build(base.TokenizerConfig(**options), [corpus()], folder)


@pytest.fixture(scope="module")
def hub(tmp_path_factory):
    """A byte-level tokenizer.json with its names beside it."""
    library = pytest.importorskip("tokenizers")
    folder = tmp_path_factory.mktemp("hub")
    model = library.Tokenizer(library.models.BPE())
    model.pre_tokenizer = library.pre_tokenizers.ByteLevel(add_prefix_space=False)
    model.decoder = library.decoders.ByteLevel()
    trainer = library.trainers.BpeTrainer(
        vocab_size=500,
        special_tokens=["<|endoftext|>", "<user>"],
        initial_alphabet=library.pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    model.train_from_iterator(CORPUS, trainer)
    model.save(str(folder / "tokenizer.json"))
    names = {"eos_token": {"content": "<|endoftext|>"}, "bos_token": None}
    (folder / "tokenizer_config.json").write_text(json.dumps(names))
    return folder


KINDS = {
    "bytes": dict(kind="bytes"),
    "bpe": dict(kind="sentencepiece"),
    "unigram": dict(kind="sentencepiece", model_type="unigram"),
    "huggingface": dict(kind="huggingface", control_tokens=()),
}


@pytest.fixture(scope="module", params=KINDS)
def tok(request, tmp_path_factory):
    options = dict(KINDS[request.param])
    if request.param == "huggingface":
        options["path"] = str(request.getfixturevalue("hub"))
    return build(tmp_path_factory.mktemp("cache"), **options)


def test_decoding_undoes_encoding(tok):
    rng = np.random.default_rng(0)
    alphabet = list("abc XYZ019 \n\t\r.,'“é漢😀<>|_\u2581\u2028")
    noise = ["".join(rng.choice(alphabet, 40)) for _ in range(200)]
    for text in TEXTS + noise:
        assert tok.decode(tok.encode(text)) == text
    batch = tok.encode_batch(TEXTS)
    assert [list(ids) for ids in batch] == [tok.encode(text) for text in TEXTS]


def test_bytes_of_tokens_add_up_to_those_of_the_text(tok):
    assert tok.token_bytes.shape == (tok.vocab_size,)
    for text in TEXTS:
        ids = np.array(tok.encode(text), np.int64)
        assert tok.token_bytes[ids].sum() == len(text.encode())


def test_text_never_spells_a_control_token(tok):
    control = {*tok.control.values(), tok.bos_id, tok.eos_id} - {None}
    assert control
    assert not tok.token_bytes[list(control)].any()
    for text in [*TEXTS, *tok.control, "".join(tok.control)]:
        ids = set(tok.encode(text))
        assert not ids & control
        assert max(ids, default=0) < tok.vocab_size
    assert tok.decode([*tok.encode("a"), *control, *tok.encode("b")]) == "ab"


def test_it_is_saved_and_reopened_as_it_was(tok, tmp_path):
    tok.save(tmp_path)
    again = base.load(tmp_path)
    assert again.identity == tok.identity
    assert (again.vocab_size, again.eos_id) == (tok.vocab_size, tok.eos_id)
    assert dict(again.control) == dict(tok.control)
    assert [again.encode(t) for t in TEXTS] == [tok.encode(t) for t in TEXTS]
    manifest = json.loads((tmp_path / base.MANIFEST).read_text())
    name = next(iter(manifest["files"]))
    (tmp_path / name).write_bytes(tok.files[name] + b" ")
    with pytest.raises(errors.DataError, match="copy them again"):
        base.load(tmp_path)
    with pytest.raises(errors.DataError, match="no saved tokenizer"):
        base.load(tmp_path / "elsewhere")


def test_control_tokens_have_ids_of_their_own(tmp_path):
    for kind in ("bytes", "chars", "sentencepiece"):
        found = build(tmp_path, kind=kind).control
        assert set(CONTROL) <= set(found)
        assert len(set(found.values())) == len(found)
    other = build(tmp_path, kind="bytes", control_tokens=("<other>",))
    assert other.identity != build(tmp_path, kind="bytes").identity


@pytest.mark.parametrize("model_type", ["bpe", "unigram"])
def test_words_give_what_the_library_gives(tmp_path, model_type):
    import sentencepiece

    tok = build(tmp_path, model_type=model_type)
    model = sentencepiece.SentencePieceProcessor(
        model_proto=tok.files["sentencepiece.model"]
    )
    pieces = [model.id_to_piece(i) for i in range(model.vocab_size())]
    ordinary = [p for i, p in enumerate(pieces) if model.id_to_piece(i)[0] != "<"]
    assert words.independent(ordinary)
    assert not words.independent(["a\u2581b"])
    assert not words.independent(["a."])
    for text in TEXTS:
        if words.SPACE not in text:
            assert tok.encode(text) == model.encode(text)


@pytest.mark.parametrize("model_type", ["bpe", "unigram"])
def test_what_has_no_bytes_is_unknown(tmp_path, model_type):
    options = dict(model_type=model_type, byte_fallback=False, vocab_size=150)
    tok = build(tmp_path, **options)
    (unknown,) = tok.encode("\u2581")
    assert tok.encode("a\u2581b") == [*tok.encode("a"), unknown, *tok.encode("b")]
    assert unknown in tok.encode("\u07ff") and unknown not in tok.encode("a b")


def test_words_of_a_text_are_all_of_it():
    rng = np.random.default_rng(0)
    alphabet = list("ab1 \n\t.,é\u2581\u2028\u00a0")
    for _ in range(500):
        text = "".join(rng.choice(alphabet, 30))
        assert "".join(words.WORD.findall(text)) == text


def test_memory_of_words_has_a_bound(monkeypatch):
    monkeypatch.setattr(words, "MOST_WORDS", 10)
    memory = words.Memory(lambda word: [len(word)])
    for i in range(100):
        assert memory[str(i)] == [len(str(i))]
    assert len(memory) <= 10
    assert memory["x" * 1000] == [1000] and "x" * 1000 not in memory


def test_chars_are_those_of_the_corpus(tmp_path):
    tok = build(tmp_path, kind="chars", control_tokens=())
    known = sorted(set("".join(CORPUS)))
    assert (tok.bos_id, tok.eos_id) == (len(known), len(known) + 1)
    assert tok.vocab_size == len(known) + 2
    for text in CORPUS:
        assert tok.decode(tok.encode(text)) == text
        ids = np.array(tok.encode(text))
        assert tok.token_bytes[ids].sum() == len(text.encode())
    with pytest.raises(errors.DataError, match="'Z' at offset 1 is not among"):
        tok.encode("aZ")


def test_training_is_kept_and_follows_from_its_settings(tmp_path, monkeypatch):
    first = build(tmp_path)
    assert build(tmp_path / "other").identity == first.identity

    def untrained(*_):
        raise AssertionError("trained again")

    from alignjax.data.tokenizers import sentencepiece

    monkeypatch.setattr(sentencepiece, "make", untrained)
    assert build(tmp_path).identity == first.identity
    with pytest.raises(AssertionError, match="trained again"):
        build(tmp_path, vocab_size=401)


def test_a_model_file_is_loaded(tmp_path):
    trained = build(tmp_path)
    path = tmp_path / "some.model"
    path.write_bytes(trained.files["sentencepiece.model"])
    loaded = build(tmp_path, path=str(path), control_tokens=())
    assert loaded.encode(CORPUS[0]) == trained.encode(CORPUS[0])
    path.write_bytes(b"no model")
    with pytest.raises(errors.DataError, match=f"{path}: not a sentencepiece model"):
        build(tmp_path, path=str(path), control_tokens=())
    with pytest.raises(errors.DataError, match="No such file"):
        build(tmp_path, path=str(tmp_path / "none"), control_tokens=())


def test_a_corpus_too_small_for_the_vocabulary_is_refused(tmp_path):
    with pytest.raises(errors.ConfigError, match=r"tokenizer.vocab_size: 32000 tok"):
        build(tmp_path, vocab_size=32000)


def test_bad_rows_stop_training(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text('{"text": "abc"}\n{"text": 1}\n')
    source = sources.load("jsonl", {"path": str(path)})
    cfg = base.TokenizerConfig(kind="chars")
    with pytest.raises(errors.DataError, match=f"{path}:2: field 'text'"):
        base.build(cfg, [source], tmp_path)
    tok = base.build(cfg, [source], tmp_path, on_bad_row="skip")
    assert tok.vocab_size == 5


@pytest.mark.parametrize(
    "options, problem",
    [
        (dict(kind="byte"), "tokenizer.kind: "),
        (dict(kind="chars", path="x"), "path: chars tokenizers have none"),
        (dict(kind="huggingface"), "path: required for huggingface"),
        (dict(path="x", control_tokens=("a",)), "control_tokens: a model read"),
        (dict(control_tokens=("a", "a")), "has an empty or repeated name"),
        (dict(model_type="word"), "tokenizer.model_type: "),
        (dict(vocab_size=0), "tokenizer.vocab_size: "),
        (dict(train_bytes=0), "tokenizer.train_bytes: "),
    ],
)
def test_settings_that_cannot_be(options, problem):
    with pytest.raises(errors.ConfigError) as caught:
        config.build(base.TokenizerConfig, options, "tokenizer")
    assert problem in str(caught.value)


def test_huggingface_needs_to_know_the_end(hub, tmp_path):
    content = (hub / "tokenizer.json").read_bytes()
    path = tmp_path / "tokenizer.json"
    path.write_bytes(content)
    options = dict(kind="huggingface", path=str(path), control_tokens=())
    with pytest.raises(errors.ConfigError, match="ends a text; name it"):
        build(tmp_path, **options)
    with pytest.raises(errors.ConfigError, match="'<end>' is not in"):
        build(tmp_path, eos_token="<end>", **options)
    named = build(tmp_path, eos_token="<|endoftext|>", **options)
    assert named.eos_id == build(tmp_path, **options | {"path": str(hub)}).eos_id
    path.write_bytes(b"{}")
    with pytest.raises(errors.DataError, match="not a tokenizer"):
        build(tmp_path, eos_token="<|endoftext|>", **options)


MALFORMED = {
    "tokenizer_config.json": [
        ([], "tokenizer_config.json: .* list, not dict"),
        (dict(added_tokens_decoder=[1]), "added_tokens_decoder: .* list, not dict"),
        (dict(added_tokens_decoder={"x": {"content": "a"}}), "'x' is no token's numbe"),
        (dict(added_tokens_decoder={"5": {}}), r"added_tokens_decoder\.5: None is"),
        (dict(added_tokens_decoder={"5": 3}), r"added_tokens_decoder\.5: 3 is int"),
        (
            dict(added_tokens_decoder={"5": {"content": "a", "special": "x"}}),
            r"added_tokens_decoder\.5\.special: 'x' is str, not bool",
        ),
        (dict(extra_special_tokens=3), "extra_special_tokens: 3 is int, not list"),
        (dict(additional_special_tokens=[3]), "special_tokens: 3 is int, not str"),
        (dict(eos_token=3), r"tokenizer_config\.json\.eos_token: 3 is int, not str"),
    ],
    "generation_config.json": [
        ([], "generation_config.json: .* list, not dict"),
        (dict(eos_token_id="x"), "eos_token_id: 'x' is str, not int"),
        (dict(eos_token_id=[1.5]), "eos_token_id: 1.5 is float, not int"),
    ],
    "added_tokens.json": [({"<x>": "a"}, r"added_tokens\.json\.<x>: 'a' is str")],
}


@pytest.mark.parametrize(
    "name,content,reason",
    [(n, *case) for n, cases in MALFORMED.items() for case in cases],
)
def test_files_beside_a_tokenizer_are_refused_by_name_and_field(
    name, content, reason, hub, tmp_path
):
    folder = tmp_path / "tokenizer"
    shutil.copytree(hub, folder)
    (folder / "generation_config.json").write_text('{"eos_token_id": null}')
    (folder / name).write_text(json.dumps(content))
    options = dict(kind="huggingface", path=str(folder), control_tokens=())
    with pytest.raises(errors.ConfigError, match=reason):
        build(tmp_path, **options)


def test_the_data_layer_imports_no_jax():
    fresh.run(
        """
        import sys
        from alignjax.data import loader, sources
        from alignjax.data.tokenizers import base as tokenizer
        for kind in tokenizer.KINDS:
            tokenizer._module(kind)
        for kind in ("text", "jsonl", "parquet", "tfds", "huggingface"):
            __import__(f"alignjax.data.sources.{kind}")
        slow = {"jax", "flax", "tensorflow", "torch", "grain", "sentencepiece"}
        assert not slow & set(sys.modules), slow & set(sys.modules)
        """
    )
