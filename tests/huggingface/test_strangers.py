# SPDX-License-Identifier: Apache-2.0
"""Whatever a stranger's file holds, it is read or refused by name, within a time.

Files that are sound are changed at random, one kind of file a test. A seeded sample is
in the fast set, all of it in the slow one.
"""

import base64
import json
import types

import handmade
import pytest
from hypothesis import strategies as st

from alignjax import errors, models, patterns, workers
from alignjax.data.chat import rendering
from alignjax.data.tokenizers import base, tokenizer_files
from alignjax.huggingface import config_json, folder, peft, peft_config
from alignjax.models import families
from alignjax.storage import tensor_files
from tests.fixtures import strange

# Tokenizers.
PLAIN = {
    "version": "1.0",
    "truncation": None,
    "padding": None,
    "normalizer": None,
    "pre_tokenizer": None,
    "post_processor": None,
    "decoder": None,
}
ADDED = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
ENDS = [
    {"id": i, "content": x, "special": True, **ADDED}
    for i, x in enumerate(["<s>", "<e>"])
]
SPECIAL = {"<s>": 0, "<e>": 1}
LETTERS = SPECIAL | {x: i for i, x in enumerate("abcdefghi \u2581", 2)}
BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True}
BYTE_LEVEL["use_regex"] = True
TOKENIZERS = {
    "bpe": {
        "model": {"type": "BPE", "vocab": LETTERS, "merges": [], "unk_token": "a"},
        "pre_tokenizer": BYTE_LEVEL,
        "decoder": BYTE_LEVEL,
    },
    "unigram": {
        "model": {
            "type": "Unigram",
            "unk_id": 2,
            "vocab": [[x, -1.0] for x in LETTERS],
        },
        "normalizer": {"type": "Lowercase"},
        "pre_tokenizer": {
            "type": "Split",
            "pattern": {"Regex": " "},
            "behavior": "Isolated",
            "invert": False,
        },
    },
    "words": {"model": {"type": "WordLevel", "vocab": LETTERS, "unk_token": "a"}},
}
DESCRIPTION = {
    "bos_token": "<s>",
    "eos_token": {"content": "<e>"},
    "add_bos_token": True,
    "additional_special_tokens": ["<s>"],
    "extra_special_tokens": {"image_token": "<e>"},
    "added_tokens_decoder": {
        "0": {"content": "<s>", "special": True},
        "1": {"content": "<e>", "special": True},
    },
}


def tokenize(path) -> None:
    """Reads a tokenizer as a config that names it does, and uses it."""
    config = base.TokenizerConfig(kind="huggingface", path=str(path))
    tok = base.build(config, (), path / "cache")
    tok.decode(tok.encode("a bad cafe"))
    if tok.encode_placed is not None:
        tok.encode_placed(["<s>a bad<e> z"])
    copied = path / "copy"
    tok.save(copied)
    assert base.load(copied).identity == tok.identity


@strange.trials(30, 500)
@pytest.mark.parametrize("kind", TOKENIZERS)
def test_a_tokenizer(kind, count, tmp_path):
    sound = {**PLAIN, "added_tokens": ENDS, **TOKENIZERS[kind]}
    files = strange.changed(
        {"tokenizer.json": sound, tokenizer_files.CONFIG: DESCRIPTION}
    )

    def check(files):
        if not isinstance(files, dict):
            return
        for name in ("tokenizer.json", tokenizer_files.CONFIG):
            content = json.dumps(files.get(name, {}))
            (tmp_path / name).write_text(content)
        tokenize(tmp_path)

    check({"tokenizer.json": sound, tokenizer_files.CONFIG: DESCRIPTION})
    strange.try_all(count, files, check)


def test_a_text_that_is_no_unicode_is_not_blamed_on_the_files(tmp_path):
    handmade.words(tmp_path)
    config = base.TokenizerConfig(kind="huggingface", path=str(tmp_path))
    tok = base.build(config, (), tmp_path)
    with pytest.raises(errors.DataError, match="no Unicode"):
        tok.encode("w1 \udcff")


ENDLESS = bytes([0, 4, 0, 0]) + b"\xff" * 1024 + b"zz\0"


@pytest.mark.parametrize("table", [b"", b"junk", bytes(400), ENDLESS])
def test_a_table_of_characters_that_is_junk_is_refused(table, tmp_path, capfd):
    """The library panics of it: at once, or at the first text."""
    junk = base64.b64encode(table).decode()
    normalizer = {"type": "Precompiled", "precompiled_charsmap": junk}
    sound = {**PLAIN, "added_tokens": ENDS, **TOKENIZERS["bpe"]}
    (tmp_path / "tokenizer.json").write_text(
        json.dumps(sound | {"normalizer": normalizer})
    )
    (tmp_path / tokenizer_files.CONFIG).write_text(json.dumps(DESCRIPTION))
    with pytest.raises(errors.DataError, match="precompiled_charsmap"):
        tokenize(tmp_path)
    assert "panicked" not in capfd.readouterr().err


VOCABULARIES = {
    "empty": {},
    "an id of 3e8": LETTERS | {"z": 3 * 10**8},
    "an id of 32 bits": LETTERS | {"z": 2**32 - 1},
    "negative": LETTERS | {"z": -1},
}


@pytest.mark.parametrize("vocabulary", VOCABULARIES.values(), ids=VOCABULARIES)
def test_a_vocabulary_of_impossible_ids_is_refused(vocabulary, tmp_path):
    model = {"type": "BPE", "vocab": vocabulary, "merges": []}
    content = {**PLAIN, "added_tokens": [], "model": model}
    (tmp_path / "tokenizer.json").write_text(json.dumps(content))
    (tmp_path / tokenizer_files.CONFIG).write_text('{"eos_token": "a"}')
    with pytest.raises(errors.AlignError, match="tokenizer"):
        tokenize(tmp_path)


@pytest.mark.parametrize("digits", [10, 4000, 5000])
@pytest.mark.parametrize("where", ["added_tokens_decoder", "eos_token_id"])
def test_ids_of_many_digits_are_refused(where, digits, tmp_path):
    handmade.words(tmp_path)
    number = "9" * digits
    if where == "eos_token_id":
        file, text = "generation_config.json", f'{{"eos_token_id": {number}}}'
    else:
        file = tokenizer_files.CONFIG
        text = json.dumps({where: {number: {"content": "x"}}, "eos_token": "</s>"})
    (tmp_path / file).write_text(text)
    with pytest.raises(errors.AlignError, match=file.replace(".", r"\.")) as refused:
        tokenize(tmp_path)
    assert len(errors.shown(refused.value)) < 1000


# Files of a run's tokenizer, which its manifest names with their digests.
@strange.trials(30, 500)
@pytest.mark.parametrize("kind", ["bytes", "chars"])
def test_a_saved_tokenizer(kind, count, tmp_path):
    sound = {"control": ["<user>"], "chars": "abc "}

    def check(content):
        tok = base.from_files(kind, {f"{kind}.json": json.dumps(content).encode()})
        tok.save(tmp_path)
        base.load(tmp_path).encode("a")

    check(sound)
    strange.try_all(count, strange.changed(sound), check)


# Chat templates.
PIECES = [
    "{{ messages[0].content }}",
    "{{ messages }}",
    "{{ messages[0].nothing.more }}",
    "{% for m in messages %}{{ m.role }}{% endfor %}",
    "{% for i in range(10**6) %}{% for j in range(10**6) %}{% endfor %}{% endfor %}",
    "{{ 'x' * 10**9 }}",
    "{{ ('x' * 10**6) * 10**6 }}",
    "{{ 10 ** (10 ** 7) }}",
    "{% set x = 'ab' * 10**7 %}{% for i in range(99) %}{{ x[::-1] in x }}{% endfor %}",
    "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
    "{{ ''.__class__.__mro__ }}",
    "{{ cycler.__init__.__globals__ }}",
    "{% include 'x' %}",
    "{% generation %}a{% endgeneration %}",
    "{{ raise_exception('no') }}",
    "{{ messages | tojson(indent=10**9) }}",
    "{{ '%s' | format(messages) }}",
    "{{ '{:>999999999999}'.format(1) }}",
    "{{ (messages | map(attribute='content') | list)[7] }}",
    "{% if",
    "{{ 1 / 0 }}",
    "{% for m in messages recursive %}{{ loop(messages) }}{% endfor %}",
    "\ud800",
]


@strange.trials(8, 100)
def test_a_template(count):
    worker = workers.Worker(
        "alignjax.data.chat.rendering:answer", workers.Limits(cpu_seconds=1)
    )
    dialogue = [{"role": "user", "content": "hello"}]
    texts = st.lists(st.sampled_from(PIECES) | st.text(max_size=9), max_size=4)

    def check(pieces):
        rendering.render([rendering.Dialogue("".join(pieces), dialogue)], worker=worker)

    try:
        check(["{{ messages[0].content }}"])
        strange.try_all(count, texts, check)
    finally:
        worker.close()


# Headers of safetensors files.
def raw(header: bytes, content: bytes = bytes(24), length: int | None = None) -> bytes:
    size = len(header) if length is None else length
    return size.to_bytes(8, "little") + header + content


HEADER = {
    "__metadata__": {"format": "pt"},
    "a": {"dtype": "F32", "shape": [2, 2], "data_offsets": [0, 16]},
    "b": {"dtype": "U8", "shape": [8], "data_offsets": [16, 24]},
}
BAD_HEADERS = {
    "an infinity": b'{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,Infinity]}}',
    "no number": b'{"a":{"dtype":"F32","shape":[NaN],"data_offsets":[0,8]}}',
    "beyond a float": b'{"a":{"dtype":"F32","shape":[1e999],"data_offsets":[0,8]}}',
    "a negative offset": b'{"a":{"dtype":"F32","shape":[2],"data_offsets":[-8,0]}}',
    "a negative size": b'{"a":{"dtype":"F32","shape":[-2],"data_offsets":[0,8]}}',
    "an overlap": b'{"a":{"dtype":"U8","shape":[24],"data_offsets":[0,24]},'
    b'"b":{"dtype":"U8","shape":[8],"data_offsets":[16,24]}}',
    "a gap": b'{"a":{"dtype":"U8","shape":[8],"data_offsets":[16,24]}}',
    "too large": b'{"a":{"dtype":"U8","shape":[18446744073709551615,2],'
    b'"data_offsets":[0,24]}}',
    "deep": b'{"a":' * 100_000,
    "a list": b"[]",
    "nothing": b"",
}


@pytest.mark.parametrize("header", BAD_HEADERS.values(), ids=BAD_HEADERS)
def test_a_header_that_cannot_be_is_refused(header, tmp_path):
    file = tmp_path / "model.safetensors"
    file.write_bytes(raw(header))
    with pytest.raises(errors.ConfigError, match="safetensors"):
        tensor_files.open_file(file)


@strange.trials(60, 1000)
def test_a_header(count, tmp_path):
    file = tmp_path / "model.safetensors"
    lengths = st.none() | st.sampled_from([0, 1, 2**20, 2**63, 2**64 - 1])

    def check(drawn):
        header, length = drawn
        text = json.dumps(header, ensure_ascii=True).encode()
        file.write_bytes(raw(text, length=length))
        for tensor in tensor_files.open_file(file).values():
            if not isinstance(tensor.dtype, str):
                assert tensor[...].nbytes == tensor.nbytes <= 24

    check((HEADER, None))
    strange.try_all(count, st.tuples(strange.changed(HEADER), lengths), check)


# Hugging Face's config.json.
CONFIGS = {
    "llama": handmade.CONFIG
    | {
        "rope_scaling": {
            "rope_type": "llama3",
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 8,
        }
    }
}
FAMILIES = ("gemma3", "gpt2", "phi3", "qwen2", "qwen3_moe")


def family_config(name: str) -> dict:
    """The config.json of a small model of a family."""
    if name in CONFIGS:
        return CONFIGS[name]
    family = families.find(name)
    sizes = dict(d_model=16, layers=2, heads=2, d_ff=16, max_length=16, head_dim=8)
    if name.endswith("_moe"):
        sizes |= {"experts": 2, "experts_per_token": 2, "expert_d_ff": 8}
    if family.windows is not None and not family.windows.gated:
        sizes["window"] = 4
    c = models.build({"family": name, "vocab_size": 24, **sizes}, 1).config
    return config_json.write(c, family)


@strange.trials(40, 800)
@pytest.mark.parametrize("name", ["llama", *FAMILIES])
def test_a_config(name, count, tmp_path):
    sound = family_config(name)

    def check(hf):
        if not isinstance(hf, dict):
            return
        family = config_json.family_of(hf)
        section = config_json.read(hf, family)
        models.build({**section, "family": family.name}, 1)

    check(sound)
    strange.try_all(count, strange.changed(sound), check)


@strange.trials(12, 300)
def test_a_folder(count, tmp_path):
    path = handmade.write(tmp_path / "model", files=2)
    handmade.words(path)
    names = ("config.json", folder.INDEX, tokenizer_files.CONFIG)
    sound = {name: json.loads((path / name).read_text()) for name in names}

    def check(files):
        if not isinstance(files, dict):
            return
        for name in names:
            (path / name).write_text(json.dumps(files.get(name)))
        folder.open_folder(path)

    check(sound)
    strange.try_all(count, strange.changed(sound), check)


# PEFT's adapter_config.json.
ADAPTERS = {
    "peft_type": "LORA",
    "r": 4,
    "lora_alpha": 8,
    "lora_dropout": 0.0,
    "target_modules": ["q_proj", "v_proj"],
    "exclude_modules": None,
    "rank_pattern": {"q_proj": 2, r"layers\.0\.self_attn\.v_proj": 3},
    "alpha_pattern": {"q_proj": 4},
    "bias": "none",
    "use_dora": False,
}
MODULES = [
    f"model.layers.{i}.self_attn.{x}_proj" for i in range(12) for x in ("q", "v")
]
SLOW = ["(((.+)+)+)+x", "(.*)*(.*)*x", "(a|a|b|.)*" * 8 + "x", ".*" * 30 + "x"]


@strange.trials(40, 1000)
def test_adapters(count, tmp_path):
    file = tmp_path / peft.CONFIG

    def check(hf):
        file.write_text(json.dumps(hf))
        settings = peft_config.read(file)
        settings.numbers(MODULES)
        settings.check_modules(MODULES[:4], MODULES, peft.WEIGHTS)

    check(ADAPTERS)
    strange.try_all(count, strange.changed(ADAPTERS), check)


@pytest.mark.parametrize(
    "pattern",
    [*SLOW, ".?" * 30 + "." * 25 + "x", ".*?.*?.*?x", "(a?)+x", "a{9}b{9}c{9}"],
)
def test_patterns_that_may_take_long_are_matched_in_the_worker(pattern, monkeypatch):
    call = lambda request: {pattern: ["from the worker"] for pattern in request[0]}
    monkeypatch.setattr(patterns, "WORKER", types.SimpleNamespace(call=call))
    assert patterns.matching([pattern], ["q"], "file") == [["from the worker"]]


@pytest.mark.parametrize(
    "field, pattern",
    [
        ("alpha_pattern", SLOW[0]),
        ("rank_pattern", SLOW[1]),
        *(
            pytest.param("rank_pattern", pattern, marks=pytest.mark.slow)
            for pattern in SLOW[2:]
        ),
    ],
)
def test_patterns_that_take_for_ever_are_stopped(field, pattern, tmp_path, monkeypatch):
    worker = workers.Worker("alignjax.patterns:answer", workers.Limits(cpu_seconds=1))
    monkeypatch.setattr(patterns, "WORKER", worker)
    file = tmp_path / peft.CONFIG
    file.write_text(json.dumps({**ADAPTERS, field: {pattern: 2}}))
    with strange.refused_or_read(), pytest.raises(errors.ConfigError, match=field):
        peft_config.read(file).numbers(MODULES)
    worker.close()
