# SPDX-License-Identifier: Apache-2.0
"""GGUF files in and out: values, tokens, and files that are bad."""

import re
import resource
import struct
import time

import numpy as np
import pytest

pytest.importorskip("gguf")
pytest.importorskip("tokenizers")

import files
import gguf

from alignjax import analysis, convert, errors, models
from alignjax.analysis import conversion
from alignjax.gguf import metadata, opening
from alignjax.huggingface import layout
from alignjax.models import families
from tests.huggingface import recipes

VALUE = "blk.0.attn_v.weight"
GOLDEN = ["gemma", "llama_tied", "phi3", "phi3_longrope", "qwen2", "qwen3"]
BITS = {"f32": np.uint32, "f16": np.uint16, "bf16": np.uint16}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    path = tmp_path_factory.mktemp("gguf") / "tiny.gguf"
    files.write(path)
    return path


@pytest.mark.parametrize("kind", files.quantisations(), ids=lambda kind: kind.name)
def test_values_are_the_librarys_bit_for_bit(kind, tmp_path):
    written = files.write(tmp_path / "x.gguf", {VALUE: kind})
    stored, _ = written[VALUE]
    expected = gguf.quants.dequantize(stored, kind)
    leaf = opening.open_file(tmp_path / "x.gguf").leaves["layers/v/kernel"][0]
    values = np.asarray(leaf).reshape(files.D, -1).T.astype(np.float32)
    np.testing.assert_array_equal(values.view(np.uint32), expected.view(np.uint32))


def test_rows_of_queries_and_keys_are_in_halves_again(tmp_path):
    written = files.write(tmp_path / "x.gguf")
    leaves = opening.open_file(tmp_path / "x.gguf").leaves
    H = files.D // files.N
    for name, heads in (("q", files.N), ("k", files.K)):
        stored, _ = written[f"blk.0.attn_{name}.weight"]
        values = leaves[f"layers/{name}/kernel"][0]
        for head in range(heads):
            for i in range(H // 2):
                pair = stored[head * H + 2 * i], stored[head * H + 2 * i + 1]
                np.testing.assert_array_equal(values[:, head, i], pair[0])
                np.testing.assert_array_equal(values[:, head, i + H // 2], pair[1])


@pytest.mark.parametrize("name", GOLDEN)
def test_an_export_reads_as_the_same_model(name, tmp_path):
    run = analysis.open_run(recipes.GOLDEN / name)
    conversion.export_run(conversion.plan_gguf(run.path, tmp_path / "x.gguf"))
    again = analysis.open_run(f"gguf:{tmp_path / 'x.gguf'}")
    tokens = np.arange(40)[None] * 3 % 250
    before, after = run.logits(tokens), again.logits(tokens)
    np.testing.assert_allclose(after, before, rtol=0, atol=2e-6)
    if run.full_tokenizer is not None:
        texts = files.texts(60)
        before = run.full_tokenizer.encode_batch(texts)
        assert again.full_tokenizer.encode_batch(texts) == before


@pytest.mark.parametrize("dtype", BITS)
@pytest.mark.parametrize("name", ["llama_tied", "phi3"])
def test_an_import_of_an_export_is_equal_bit_for_bit(name, dtype, tmp_path):
    run = analysis.open_run(recipes.GOLDEN / name)
    out = tmp_path / "x.gguf"
    export = ["export", str(run.path), str(out), f"--dtype={dtype}"]
    assert convert.main(export) == errors.DONE
    assert convert.main(["import", str(out), str(tmp_path / "run")]) == errors.DONE
    again = analysis.open_run(tmp_path / "run")
    before, after = layout.merge(run.leaves(), run.model.config), again.leaves()
    assert before.keys() == after.keys()
    for path, leaf in before.items():
        values, imported = np.asarray(leaf[...]), after[path][...]
        values = values.astype(np.float32).astype(imported.dtype)
        bits = np.dtype(f"u{imported.dtype.itemsize}")
        np.testing.assert_array_equal(imported.view(bits), values.view(bits))
        vector = "norm" in path
        assert imported.dtype.itemsize == (4 if vector or dtype == "f32" else 2)


def test_q8_0_is_the_librarys(tiny, tmp_path):
    assert (
        convert.main(["export", str(tiny), str(tmp_path / "x.gguf"), "--dtype=q8_0"])
        == errors.DONE
    )
    run, again = analysis.open_run(tiny), analysis.open_run(tmp_path / "x.gguf")
    before = np.asarray(run.leaves()["layers/v/kernel"][0]).reshape(files.D, -1).T
    kind = gguf.GGMLQuantizationType.Q8_0
    expected = gguf.quants.dequantize(gguf.quants.quantize(before, kind), kind)
    after = np.asarray(again.leaves()["layers/v/kernel"][0]).reshape(files.D, -1).T
    np.testing.assert_array_equal(after, expected)


def test_adapters_are_merged(tmp_path):
    run = analysis.open_run(recipes.GOLDEN.parent / "runs" / "lora")
    assert all(x[...].any() for path, x in run.leaves().items() if "lora_b" in path)
    conversion.export_run(conversion.plan_gguf(run.path, tmp_path / "x.gguf"))
    merged = analysis.open_run(tmp_path / "x.gguf")
    assert not any("lora" in path for path in merged.leaves())
    tokens = np.arange(20)[None] * 3 % 250
    before, after = run.logits(tokens), merged.logits(tokens)
    np.testing.assert_allclose(after, before, rtol=0, atol=1e-5)


def test_tokens_and_template_are_those_of_the_metadata(tiny):
    folder = opening.open_file(tiny)
    tok = folder.tokenizer
    ids = {token: i for i, token in enumerate(files.TOKENS)}
    expected = [ids[x] for x in ("the", "Ġthe", "Ġ", "1", "2", "in")]
    assert tok.encode("the the 12in") == expected
    assert tok.decode(expected) == "the the 12in"
    assert tok.eos_id == 2 and tok.vocab_size < files.V and not folder.bos
    # What a text spells is no control token.
    assert 2 not in tok.encode("<|im_end|>")
    assert analysis.open_run(tiny).chats == "tokenizer"


@pytest.mark.parametrize("prefix", [True, False])
def test_tokens_of_pieces_are_those_of_sentencepiece(prefix, tmp_path):
    """Of the file, and of what is exported of it."""
    library = files.write_pieces(tmp_path / "x.gguf", prefix)
    out = tmp_path / "again.gguf"
    conversion.export_run(conversion.plan_gguf(tmp_path / "x.gguf", out))
    texts = files.texts(2000)
    expected = library.encode(texts)
    for path in (tmp_path / "x.gguf", out):
        tok = opening.open_file(path).tokenizer
        assert [tok.encode(text) for text in texts] == expected
        assert tok.decode(expected[-1]) == texts[-1]


def test_a_run_without_tokenizer_is_exported_and_takes_no_text(tmp_path, capsys):
    paths = recipes.GOLDEN / "gemma", recipes.GOLDEN.parent / "runs" / "sft"  # of bytes
    for i, path in enumerate(paths):
        out = tmp_path / f"{i}.gguf"
        assert convert.main(["export", str(path), str(out)]) == errors.DONE
        assert "no tokenizer goes with it" in capsys.readouterr().out
        run = analysis.open_run(out)
        assert np.isfinite(run.logits([[5, 9]])).all()
        with pytest.raises(errors.DataError, match=f"{out} has no tokenizer"):
            run.reply(["hello"], max_tokens=1)


def test_factors_of_llama_3_are_read_as_its_scaling_and_others_refused():
    family = families.find("llama")
    for size in ("3.1-8b", "3.2-1b"):
        c = models.build({"family": "llama", "name": size}, 1).config
        entries, settings = metadata.write(c, family)
        plain = {key: value for key, (_, value) in entries.items()}
        read = lambda plain, values: metadata.read(
            plain, values, values.get, family, ""
        )
        (name,) = settings
        scaling = read(plain, settings)["rope_scaling"]
        assert scaling["factor"] == c.rope_scaling.factor
        with pytest.raises(errors.ConfigError, match=name):
            read(plain, {name: 2 * settings[name]})
    with pytest.raises(errors.ConfigError, match="rope_freqs"):
        conversion.plan_gguf(recipes.GOLDEN / "llama3", "none.gguf")


def refused(path, field=None) -> str:
    """The message of the refusal of a file, which is quick and takes no memory."""
    began = time.monotonic()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(errors.AlignError) as error:
        opening.open_file(path)
    assert error.value.exit_code in (errors.CONFIG, errors.DATA)
    assert time.monotonic() - began < 5
    spent = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert spent < 100 * 1024  # kilobytes
    assert str(path) in str(error.value)
    assert field is None or field in str(error.value)
    beside = sorted(path.parent.iterdir())
    code = convert.main(["import", str(path), str(path.parent / "run")])
    assert code == error.value.exit_code
    assert sorted(path.parent.iterdir()) == beside  # nothing is written
    return str(error.value)


HUGE = 2**63
# pickle.dumps(print)
PICKLE = (
    b"\x80\x04\x95\x16" + bytes(7) + b"\x8c\x08builtins\x94\x8c\x05print\x94\x93\x94."
)
BAD = {
    "empty": b"",
    "other": b"PK\3\4" + b"\0" * 100,
    "version": b"GGUF" + struct.pack("<IQQ", 99, 0, 0),
    "big-endian": b"GGUF" + struct.pack(">IQQ", 3, 0, 0),
    "tensors": files.header(HUGE),
    "entries": files.header(0, HUGE),
    "key": files.header(0, 1, struct.pack("<Q", HUGE)),
    "string": files.header(0, 1, files.string("a") + struct.pack("<IQ", 8, HUGE)),
    "strings": files.header(0, 1, files.string("a") + struct.pack("<IIQ", 9, 8, HUGE)),
    "numbers": files.header(0, 1, files.string("a") + struct.pack("<IIQ", 9, 4, HUGE)),
    "lists": files.header(0, 1, files.string("a") + struct.pack("<IIQ", 9, 9, 1)),
    "type": files.header(0, 1, files.string("a") + struct.pack("<I", 77)),
    "twice": files.header(0, 2, 2 * (files.string("a") + struct.pack("<IB", 0, 1))),
    "text": files.header(0, 1, struct.pack("<Q", 2) + b"\xff\xff" + b"\0" * 9),
    "dims": files.header(1, 0, files.string("a") + struct.pack("<I", 2**31)),
    "sizes": files.header(
        1, 0, files.string("a") + struct.pack("<IQQIQ", 2, HUGE, 4, 0, 0)
    ),
    "offset": files.header(
        1, 0, files.string("a") + struct.pack("<IQIQ", 1, 4, 0, HUGE)
    ),
    "quantisation": files.header(
        1, 0, files.string("a") + struct.pack("<IQIQ", 1, 4, 999, 0)
    ),
    "integers": files.header(
        1, 0, files.string("a") + struct.pack("<IQIQ", 1, 4, 26, 0)
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_a_header_that_lies_is_refused(name, tmp_path):
    (tmp_path / "x.gguf").write_bytes(BAD[name])
    refused(tmp_path / "x.gguf")


@pytest.mark.parametrize("share", [0.01, 0.3, 0.999])
def test_a_truncated_file_is_refused_and_nothing_is_written(share, tiny, tmp_path):
    content = tiny.read_bytes()
    cut = tmp_path / "x.gguf"
    cut.write_bytes(content[: int(len(content) * share)])
    refused(cut)


REFUSED = {
    "general.architecture": dict(general__architecture="mamba"),
    "llama.expert_count": dict(llama__expert_count=8),
    "llama.logit_scale": dict(llama__logit_scale=8.0),
    "llama.rope.scaling.type": dict(llama__rope__scaling__type="magic"),
    "llama.attention.head_count": dict(llama__attention__head_count="four"),
    "llama.rope.dimension_count": dict(llama__rope__dimension_count=32),
    "llama.block_count": dict(llama__block_count=2**31),
    "llama.context_length": dict(llama__context_length=0),
    "llama.attention.head_count_kv": dict(llama__attention__head_count_kv=3),
    "llama.attention.key_length": dict(llama__attention__key_length=63),
    "llama.rope.scaling.factor": dict(
        llama__rope__scaling__type="linear", llama__rope__scaling__factor=-2.0
    ),
    "split.count": dict(split__count=3),
    "split.count: one": dict(split__count=[1, 1]),
    "general.quantization_version": dict(general__quantization_version=[1, 2]),
    "llama.attention.value_length": dict(llama__attention__value_length=[4, 5]),
    "general.numbers": dict(general__numbers=[0] * 70_000),
    "general.type": dict(general__type="adapter"),
    "tokenizer.ggml.pre": dict(tokenizer__ggml__pre="default"),
    "tokenizer.ggml.model": dict(tokenizer__ggml__model="rwkv"),
    "tokenizer.ggml.add_bos_token": dict(tokenizer__ggml__add_bos_token=[1, 2]),
    "tokenizer.ggml.bos_token_id": dict(tokenizer__ggml__bos_token_id=True),
    "tokenizer.ggml.odd": dict(tokenizer__ggml__odd=True),
    "tokenizer.ggml.eos_token_id": dict(tokenizer__ggml__eos_token_id=10**6),
    "tokenizer.ggml.merges": dict(tokenizer__ggml__merges=["ab"]),
    "tokenizer.ggml.tokens": dict(tokens=files.TOKENS[:-7]),
    "tokenizer.chat_template": dict(tokenizer__chat_template="x" * 10_000_000),
    "chat_template: no template": dict(tokenizer__chat_template=[*PICKLE]),
    "../../evil": {"tokenizer__chat_template__../../evil": "x"},
}


@pytest.mark.parametrize("field", REFUSED)
def test_metadata_that_is_not_understood_is_refused_by_name(field, tmp_path):
    entries = dict(REFUSED[field])
    architecture = entries.pop("general__architecture", None)
    files.write(tmp_path / "x.gguf", **entries)
    if architecture:
        path = tmp_path / "x.gguf"
        content = path.read_bytes()
        path.write_bytes(
            content.replace(b"\5\0\0\0\0\0\0\0llama", b"\5\0\0\0\0\0\0\0mamba", 1)
        )
    refused(tmp_path / "x.gguf", field)


def test_notes_and_names_with_paths_are_no_paths(tmp_path):
    files.write(
        tmp_path / "x.gguf", general__name="../../etc/passwd", mradermacher__by="me"
    )
    folder = opening.open_file(tmp_path / "x.gguf")
    assert folder.path == tmp_path / "x.gguf"


MISTAKES = {
    "export tiny.gguf out --dtype=q8_0": r"dtype: 'q8_0', .* folder .*\.gguf",
    "export tiny.gguf out.gguf --dtype=float32": "dtype: 'float32', .* a folder has it",
    "export tiny.gguf out.GGUF --dtype=BF16": "dtype: 'BF16', .* small letters",
    "export tiny.gguf out.gguf --dtype=q4_k_m": "dtype: 'q4_k_m', .* llama-quantize",
    "import folder.gguf out": r"folder\.gguf: .* folder, .*; name a GGUF file",
    "import nothing.GGUF out": r"nothing\.GGUF: No such file .*; name a GGUF file",
    "import folder out": r"folder: has no config\.json, .* ends in \.gguf",
    "import notes.gguf out": r"notes\.gguf: no GGUF file, .* download it again",
    "export notes.gguf out": r"notes\.gguf: no GGUF file",
}


@pytest.mark.parametrize("words", MISTAKES)
def test_a_mistake_is_told_with_its_remedy(words, tiny, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny.gguf").symlink_to(tiny)
    (tmp_path / "notes.gguf").write_text("what this model is for")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder.gguf").mkdir()
    assert convert.main(words.split()) == errors.CONFIG
    assert re.fullmatch(
        f"ConfigError: .*{MISTAKES[words]}.*\n", capsys.readouterr().err
    )
    assert not list(tmp_path.glob("out*"))


def test_an_export_is_written_over_nothing(tiny, tmp_path):
    target = tmp_path / "x.gguf"
    target.write_text("notes")
    assert convert.main(["export", str(tiny), str(target)]) == errors.CONFIG
    assert target.read_text() == "notes"
    for options in (["--dtype=float32"], ["--max-shard-size=1GB"], ["--adapters"]):
        out = str(tmp_path / "y.gguf")
        assert convert.main(["export", str(tiny), out, *options]) == errors.CONFIG
    assert not (tmp_path / "y.gguf").exists()
