# SPDX-License-Identifier: Apache-2.0
"""Folders of published tokenizers: ids as transformers has them, and no file lost."""

import io
import json

import numpy as np
import pytest

from alignjax import errors
from alignjax.data import records
from alignjax.data.chat import dialogues, format
from alignjax.data.tokenizers import base, special_tokens, tokenizer_files

SYLLABLES = "ta ri mon sel ku ber lo ish ent qua for the is on a day".split()
LLAMA = dict(
    tokenizer_class="LlamaTokenizer",
    bos_token={"__type": "AddedToken", "content": "<s>", "lstrip": False},
    eos_token="</s>",
    unk_token="<unk>",
)
GEMMA = dict(
    tokenizer_class="GemmaTokenizer",
    bos_token="<bos>",
    eos_token="<eos>",
    unk_token="<unk>",
    pad_token="<pad>",
    added_tokens_decoder={
        str(i): dict(content=name, normalized=False, special=True)
        for i, name in enumerate(("<start_of_turn>", "<end_of_turn>"), start=4)
    },
)
ADDED = {
    "400": dict(content="<|x|>", normalized=False, special=True, rstrip=True),
    "401": dict(content="<|y|>", normalized=False, special=False),
}


def trained(**options) -> bytes:
    sentencepiece = pytest.importorskip("sentencepiece")
    rng = np.random.default_rng(0)
    words = lambda: "".join(rng.choice(SYLLABLES, rng.integers(1, 4)))
    lines = (
        " ".join(words() for _ in range(12)) + f" {i}, café! (x_y)" for i in range(400)
    )
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=lines,
        model_writer=model,
        model_type="bpe",
        byte_fallback=True,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        allow_whitespace_only_pieces=True,
        vocab_size=400,
        minloglevel=2,
        **options,
    )
    return model.getvalue()


@pytest.fixture(scope="module")
def models():
    """Like those of Llama and Gemma, but small."""
    symbols = ["<start_of_turn>", "<end_of_turn>", "<mask>", "\n", "\n\n"]
    symbols += ["▁" * n for n in range(2, 12)]  # Gemma has as many as 31
    special = dict(pad_id=0, eos_id=1, bos_id=2, unk_id=3)
    names = dict(bos_piece="<bos>", eos_piece="<eos>", user_defined_symbols=symbols)
    return {
        "llama": trained(add_dummy_prefix=True),
        "gemma": trained(add_dummy_prefix=False, **special, **names),
    }


def folder(place, model: bytes, **settings):
    place.mkdir(exist_ok=True)
    (place / "tokenizer.model").write_bytes(model)
    (place / "tokenizer_config.json").write_text(json.dumps(settings))
    return place


def opened(place, kind="sentencepiece", **options) -> base.Tokenizer:
    cfg = base.TokenizerConfig(kind=kind, path=str(place), **options)
    return base.build(cfg, [], "unused")


def texts() -> list[str]:
    rng = np.random.default_rng(1)
    alphabet = [*"ab the day \n\t.,é☃<>|_ xy", "the ", "<s>", "</s>", "<|x|>", "<|y|>"]
    alphabet += ["  ", "▁", "<start_of_turn>", "<end_of_turn>", "\n\n", "<|x|>  "]
    made = ["".join(rng.choice(alphabet, rng.integers(1, 25))) for _ in range(300)]
    return ["hi the day", " hi the", "  hi", "", " ", " \n the", "☃☃", *made]


CASES = {
    "llama": ("llama", LLAMA),
    "legacy": ("llama", LLAMA | {"legacy": True}),
    "not legacy": ("llama", LLAMA | {"legacy": False}),
    "no prefix": ("llama", LLAMA | {"add_prefix_space": False}),
    "added": ("llama", LLAMA | {"added_tokens_decoder": ADDED}),
    "added, legacy": ("llama", LLAMA | {"added_tokens_decoder": ADDED, "legacy": True}),
    "gemma": ("gemma", GEMMA),
}


@pytest.mark.parametrize("case", CASES)
def test_sentencepiece_has_the_ids_of_transformers(models, tmp_path, case):
    library = pytest.importorskip(
        "transformers", reason="compares with transformers itself"
    )
    model, settings = CASES[case]
    place = folder(tmp_path / "it", models[model], **settings)
    theirs, ours = library.AutoTokenizer.from_pretrained(place), opened(place)
    assert ours.vocab_size == len(theirs)
    assert (ours.bos_id, ours.eos_id) == (theirs.bos_token_id, theirs.eos_token_id)
    for text in texts():
        expected = theirs(text, add_special_tokens=False, return_offsets_mapping=True)
        (found,) = special_tokens.encode(ours, [text])
        assert found.ids.tolist() == expected["input_ids"], text
        places = list(zip(found.starts.tolist(), found.stops.tolist(), strict=True))
        assert places == [tuple(place) for place in expected["offset_mapping"]], text
        shown = theirs.decode(expected["input_ids"], skip_special_tokens=True)
        assert ours.decode(found.ids) == shown, text


@pytest.mark.parametrize("case", CASES)
def test_text_never_spells_a_control_token(models, tmp_path, case):
    model, settings = CASES[case]
    tok = opened(folder(tmp_path / "it", models[model], **settings))
    control = set(tok.control.values())
    assert len(control) >= 2 and not tok.token_bytes[list(control)].any()
    for text in [*texts(), *tok.control, "".join(tok.control)]:
        assert not set(tok.encode(text)) & control
        assert max(tok.encode(text), default=0) < tok.vocab_size
    assert all(
        special_tokens.encode(tok, [name])[0].ids[-1] == i
        for name, i in tok.control.items()
    )


@pytest.mark.parametrize(
    "case, first, after",
    [
        ("llama", "▁the", "the"),
        ("legacy", "▁the", "▁the"),
        ("no prefix", "the", "the"),
        ("gemma", "the", "the"),
    ],
)
def test_where_a_space_goes_before_a_text(models, tmp_path, case, first, after):
    sentencepiece = pytest.importorskip("sentencepiece")
    model, settings = CASES[case]
    tok = opened(folder(tmp_path / "it", models[model], **settings))
    library = sentencepiece.SentencePieceProcessor(model_proto=models[model])
    name = next(iter(tok.control))
    (found,) = special_tokens.encode(tok, [f"the{name}the"])
    pieces = [library.id_to_piece(int(i)) for i in found.ids]
    assert pieces == [first, name, after]
    assert tok.decode(tok.encode("the day")) == "the day"


def test_added_tokens_count_and_have_ids_of_their_own(models, tmp_path):
    place = folder(tmp_path / "it", models["llama"], **CASES["added"][1])
    tok = opened(place)
    assert tok.vocab_size == 402 == len(tok.token_bytes)
    assert tok.control["<|x|>"] == 400 and "<|y|>" not in tok.control
    assert 401 in tok.encode("the <|y|>") and 400 not in tok.encode("<|x|>")
    assert tok.decode([401, 400]) == "<|y|>"
    plain = LLAMA | {"additional_special_tokens": ["<|x|>"]}
    place = folder(tmp_path / "legacy", models["llama"], **plain)
    (place / "added_tokens.json").write_text('{"<|y|>": 401, "<|x|>": 400}')
    again = opened(place)
    assert again.vocab_size == 402 and again.control["<|x|>"] == 400
    for ids in ({"<|x|>": 402}, {"<|x|>": 5}):
        (place / "added_tokens.json").write_text(json.dumps(ids))
        with pytest.raises(errors.ConfigError, match="do not go together"):
            opened(place)


def test_all_files_are_kept_byte_for_byte(models, tmp_path):
    place = folder(tmp_path / "it", models["llama"], **LLAMA)
    beside = {
        "special_tokens_map.json": b'{"bos_token": "<s>" }\n',
        "generation_config.json": b'{"eos_token_id": [2, 7, 2]}',
        "chat_template.jinja": b"{{ bos_token }}{% for m in messages %}"
        b"{{ m.role + m.content + eos_token }}{% endfor %}",
        "added_tokens.json": b"{}",
    }
    for name, content in beside.items():
        (place / name).write_bytes(content)
    (place / "config.json").write_text("{}")  # the model's, not ours
    tok = opened(place)
    expected = {path.name: path.read_bytes() for path in place.iterdir()}
    del expected["config.json"]
    assert tok.files == expected
    tok.save(tmp_path / "saved")
    again = base.load(tmp_path / "saved")
    assert again.files == expected and again.identity == tok.identity
    assert again.stop_ids == (2, 7) == tuple(format.of(again, "tokenizer").stop_ids)
    assert again.encode("the day") == tok.encode("the day")
    (place / "generation_config.json").write_text('{"eos_token_id": 400}')
    with pytest.raises(errors.ConfigError, match=r"\[400\].* eos_token_id"):
        opened(place)
    (place / "generation_config.json").write_text("{")
    with pytest.raises(errors.DataError, match=r"generation_config\.json: .*JSON"):
        opened(place)


def test_a_model_alone_is_read_as_its_library_reads_it(models, tmp_path):
    sentencepiece = pytest.importorskip("sentencepiece")
    path = tmp_path / "some.model"
    path.write_bytes(models["llama"])
    tok = opened(path)
    library = sentencepiece.SentencePieceProcessor(model_proto=models["llama"])
    for text in texts():
        if "▁" not in text:
            assert tok.encode(text) == library.encode(text)


TEMPLATE = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + "
    "'<|im_end|>\n' }}{% endfor %}{% if add_generation_prompt %}"
    "{{ '<|im_start|>assistant\n' }}{% endif %}"
)


@pytest.fixture
def hub(tmp_path):
    """A tokenizer.json whose files say more than one thing that ends a text."""
    library = pytest.importorskip("tokenizers", reason="reads a tokenizer.json")
    model = library.Tokenizer(library.models.BPE())
    model.pre_tokenizer = library.pre_tokenizers.ByteLevel(add_prefix_space=False)
    model.decoder = library.decoders.ByteLevel()
    trainer = library.trainers.BpeTrainer(
        special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
        initial_alphabet=library.pre_tokenizers.ByteLevel.alphabet(),
        vocab_size=300,
        show_progress=False,
    )
    model.train_from_iterator(SYLLABLES, trainer)
    model.save(str(tmp_path / "tokenizer.json"))
    size = model.get_vocab_size()
    settings = dict(
        eos_token="<|im_end|>",
        bos_token=None,
        tokenizer_class="PreTrainedTokenizerFast",
        chat_template=[
            {"name": "default", "template": TEMPLATE},
            {"name": "tool_use", "template": "with tools:" + TEMPLATE},
        ],
        added_tokens_decoder={
            "1": dict(content="<|im_start|>", special=True, normalized=False),
            str(size): dict(content="<think>", special=False, normalized=False),
        },
    )
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    (tmp_path / "generation_config.json").write_text('{"eos_token_id": [2, 0]}')
    return tmp_path


def test_a_tokenizer_json_knows_what_is_beside_it(hub):
    tok = opened(hub, "huggingface")
    assert tok.bos_id is None and tok.eos_id == 2
    assert tok.stop_ids == (2, 0) == tuple(format.of(tok, "tokenizer").stop_ids)
    assert tok.names == {"eos_token": "<|im_end|>"}
    assert tok.encode("<think>") == [tok.vocab_size - 1]
    assert not {0, 1, 2} & set(tok.encode("<|endoftext|><|im_start|><|im_end|>"))
    (found,) = special_tokens.encode(tok, ["é<|im_end|>\n"])
    assert found.ids.tolist()[-2] == 2 and found.starts.tolist() == [0, 0, 1, 11]
    turns = (("user", "the day"),)
    ids = format.of(tok, "tokenizer").prompt_ids(turns, False)
    assert ids[0] == 1 and ids.count(2) == 1
    row = records.Chat((*turns, ("assistant", "a")), tools=({"name": "f"},))
    options = dict(format="tokenizer", train_on="all", bos=False)
    (found,) = dialogues.tokenize(tok, [row], **options)
    assert tok.decode(found.ids).startswith("with tools:")
    expected = {path.name: path.read_bytes() for path in hub.iterdir()}
    assert tok.files == expected
    assert set(expected) < set(tokenizer_files.KEPT)


def test_a_tokenizer_json_has_the_ids_of_transformers(hub):
    library = pytest.importorskip(
        "transformers", reason="compares with transformers itself"
    )
    theirs, ours = (
        library.AutoTokenizer.from_pretrained(hub),
        opened(hub, "huggingface"),
    )
    assert ours.vocab_size == len(theirs)
    for text in [*texts(), "<|im_start|>a<think> the<|im_end|>"]:
        (found,) = special_tokens.encode(ours, [text])
        assert found.ids.tolist() == theirs.encode(text, add_special_tokens=False)


def test_files_of_different_tokenizers_are_refused(hub):
    settings = json.loads((hub / "tokenizer_config.json").read_text())
    settings["added_tokens_decoder"] = {"900": dict(content="<other>")}
    (hub / "tokenizer_config.json").write_text(json.dumps(settings))
    with pytest.raises(errors.ConfigError, match="'<other>' is token 900"):
        opened(hub, "huggingface")
