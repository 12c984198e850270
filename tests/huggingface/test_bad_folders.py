# SPDX-License-Identifier: Apache-2.0
"""Folders that are refused: one clear error each, before anything is written."""

import codecs
import json
import re
import types

import handmade
import numpy as np
import pytest
import safetensors.numpy

from alignjax import analysis, errors
from alignjax.analysis import conversion
from alignjax.analysis import run as runs
from alignjax.experiment import initial
from alignjax.experiment.sections import InitConfig
from alignjax.huggingface import folder

SHARD = "model-00002-of-00003.safetensors"


def change(path, name, **fields):
    file = path / name
    known = json.loads(file.read_text()) if file.exists() else {}
    file.write_text(json.dumps({**known, **fields}))


def without(*names):
    return {k: v for k, v in handmade.tensors().items() if k not in names}


def missing(path):
    handmade.write(path, without("model.norm.weight", "lm_head.weight"))


def many_missing(path):
    names = [name for name in handmade.tensors() if "mlp" in name]
    handmade.write(path, without(*names))


def extra(path):
    handmade.write(path, handmade.tensors() | {"model.layers.0.nose": np.ones(3, "f4")})


def wrong_shape(path):
    odd = {"model.layers.1.mlp.up_proj.weight": np.ones((8, 12), "f4")}
    handmade.write(path, handmade.tensors() | odd)


def truncated(path):
    handmade.write(path)
    file = path / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-5])


def no_header(path):
    handmade.write(path)
    (path / "model.safetensors").write_bytes(b"\xff" * 200)


def lying_header(path):
    handmade.write(path)
    file = path / "model.safetensors"
    file.write_bytes(file.read_bytes().replace(b'"shape":[24,8]', b'"shape":[24,9]'))


def with_header(path, change):
    """A folder whose header says something else of the same bytes."""
    file = handmade.write(path) / "model.safetensors"
    content = file.read_bytes()
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    change(header)
    text = json.dumps(header).encode()
    size = len(text).to_bytes(8, "little")
    file.write_bytes(size + text + content[8 + length :])


def overlapping(path):
    first, second = (f"model.layers.{i}.self_attn.q_proj.weight" for i in (0, 1))
    with_header(path, lambda h: h[first].update(data_offsets=h[second]["data_offsets"]))


def gapped(path):
    with_header(path, lambda h: h.pop("model.layers.0.self_attn.v_proj.weight"))


def unclaimed(path):
    file = handmade.write(path) / "model.safetensors"
    file.write_bytes(file.read_bytes() + b"more")


def short_header(path):
    file = handmade.write(path) / "model.safetensors"
    file.write_bytes(file.read_bytes()[:100])


def pickled(path):
    handmade.write(path)
    (path / "model.safetensors").rename(path / "pytorch_model.bin")


def code(path):
    handmade.write(path, auto_map={"AutoModelForCausalLM": "modeling_x.XForCausalLM"})


def code_of_the_tokenizer(path):
    handmade.write(path)
    change(path, "tokenizer_config.json", auto_map={"AutoTokenizer": ["x.X", None]})


def unknown(path):
    handmade.write(path, model_type="lama")


def relu(path):
    handmade.write(path, hidden_act="relu")


def quantised(path):
    handmade.write(path, quantization_config={"quant_method": "gptq"})


def integers(path):
    odd = {"model.norm.weight": np.ones(8, "i1")}
    handmade.write(path, handmade.tensors() | odd)


def two_dtypes(path):
    odd = {"model.layers.1.mlp.up_proj.weight": np.ones((12, 8), "f2")}
    handmade.write(path, handmade.tensors() | odd)


def large_tokenizer(path):
    handmade.words(handmade.write(path), 30)


def lost_file(path):
    (handmade.write(path, files=3) / SHARD).unlink()


def lost_tensor(path):
    handmade.write(path, files=3)
    kept = safetensors.numpy.load_file(path / SHARD)
    safetensors.numpy.save_file(dict(list(kept.items())[1:]), path / SHARD)


def escaping(path):
    handmade.write(path, files=2)
    change(path, folder.INDEX, weight_map={"model.norm.weight": "../x.safetensors"})


def other_head(path):
    handmade.write(path, tie_word_embeddings=True)


def broken_json(path):
    (handmade.write(path) / "config.json").write_text("{")


def no_config(path):
    (handmade.write(path) / "config.json").unlink()


def adapters(path):
    no_config(path)
    change(path, "adapter_config.json", base_model_name_or_path="base/model")


def other_head_class(path):
    handmade.write(path, architectures=["LlamaForTokenClassification"])


BAD = {
    missing: r"missing tensors: model\.norm\.weight, lm_head\.weight;",
    many_missing: r"missing tensors: .*mlp\.gate_proj\.weight, .* and 3 more",
    extra: r"no part of a llama model .*: model\.layers\.0\.nose",
    wrong_shape: r"layers\.1\.mlp\.up_proj\.weight is \(8, 12\), not \(12, 8\)",
    truncated: r"model\.safetensors: no safetensors file, or a damaged or truncated",
    no_header: r"model\.safetensors: no safetensors file, or a damaged or truncated",
    lying_header: r"model\.safetensors: no safetensors file, or a damaged or truncated",
    overlapping: r"model\.safetensors: no safetensors file, or a damaged or truncated",
    gapped: r"model\.safetensors: no safetensors file, or a damaged or truncated",
    unclaimed: r"model\.safetensors: no safetensors file, or a damaged or truncated",
    short_header: r"model\.safetensors: no safetensors file, or a damaged or truncated",
    pickled: r"pickled \(pytorch_model\.bin\).*save_pretrained",
    code: r"config\.json: auto_map .*modeling_x.* never runs",
    code_of_the_tokenizer: r"tokenizer_config\.json: auto_map",
    unknown: r"no family reads 'lama'.*llama",
    relu: r"hidden_act.*relu",
    quantised: r"quantization_config",
    integers: r"model\.norm\.weight of int8",
    two_dtypes: r"layers/mlp/up/kernel are float16 and float32 in different layers",
    large_tokenizer: r"tokenizer has 30 tokens and its embedding 24 rows",
    lost_file: rf"names {SHARD}, which is not there",
    lost_tensor: r"not in the files that it names for them",
    escaping: r"'\.\./x\.safetensors' is no plain name",
    other_head: r"lm_head\.weight is not model\.embed_tokens\.weight",
    broken_json: r"config\.json: cannot be read as JSON",
    no_config: r"has no config\.json",
    adapters: r"adapters of PEFT and no model.*base/model",
    other_head_class: r"LlamaForTokenClassification",
}


@pytest.mark.parametrize("make", BAD, ids=lambda f: f.__name__)
def test_it_is_refused_and_nothing_is_left(make, tmp_path):
    if make is large_tokenizer:
        pytest.importorskip("tokenizers")
    path = tmp_path / "folder"
    make(path)
    with pytest.raises(errors.ConfigError, match=BAD[make]):
        analysis.open_run(f"hf:{path}")
    # One that looks like a folder of theirs needs no prefix; the rest is no run.
    if folder.is_folder(path):
        with pytest.raises(errors.ConfigError, match=BAD[make]):
            conversion.plan_import(path, tmp_path / "run")
    assert [x.name for x in tmp_path.iterdir()] == ["folder"]


VALUES = {
    "hidden_size": ("32", "'32' is str, not int"),
    "num_attention_heads": (3, "num_key_value_heads: 2 do not divide num_attention_"),
    "num_hidden_layers": (0, "0 is not at least 1"),
    "vocab_size": (None, "null is not int; give it, or leave it out"),
    "rms_norm_eps": (None, "null is not float"),
    "rope_theta": ("x", "'x' is str, not float"),
    "rope_scaling": ("linear", "'linear' is str, not dict"),
    "rope_parameters": ([1], r"\[1\] is list, not dict"),
    "hidden_act": (["silu"], r"\['silu'\] is not computed here"),
    "attention_bias": ("no", "'no' is str, not bool"),
    "model_type": (["llama"], r"no family reads \['llama'\]"),
    "architectures": (3, "3 is int, not list"),
}


@pytest.mark.parametrize("key", VALUES)
def test_a_value_of_config_json_is_refused_by_the_key_that_it_has_there(key, tmp_path):
    value, reason = VALUES[key]
    change(handmade.write(tmp_path / "x"), "config.json", **{key: value})
    with pytest.raises(errors.ConfigError) as caught:
        analysis.open_run(f"hf:{tmp_path / 'x'}")
    assert re.search(rf"/x.*config\.json\W+({key}: )?{reason}", str(caught.value))


@pytest.mark.parametrize("text", ["null", "{}", "{"])
def test_a_tokenizer_that_is_none_is_named_with_its_folder(text, tmp_path):
    pytest.importorskip("tokenizers")
    handmade.words(handmade.write(tmp_path / "x"))
    (tmp_path / "x" / "tokenizer.json").write_text(text)
    with pytest.raises((errors.ConfigError, errors.DataError)) as caught:
        analysis.open_run(tmp_path / "x")
    said = str(caught.value)
    assert said.count(f"{tmp_path}/x") == 1 and "tokenizer.json: " in said


def test_byte_order_marks_are_no_part_of_a_tokenizer(tmp_path):
    folder = handmade.write(tmp_path)
    handmade.words(folder)
    tokens = analysis.open_run(folder).tokenizer.encode("w1 w2")
    for name in ("tokenizer.json", "tokenizer_config.json", "config.json"):
        content = (folder / name).read_bytes()
        (folder / name).write_bytes(codecs.BOM_UTF8 + content)
    assert analysis.open_run(folder).tokenizer.encode("w1 w2") == tokens


def test_a_tokenizer_without_an_end_says_where_to_name_it(tmp_path):
    pytest.importorskip("tokenizers")
    handmade.words(handmade.write(tmp_path / "x"))
    change(tmp_path / "x", "tokenizer_config.json", eos_token=None)
    change(tmp_path / "x", "config.json", eos_token_id=None)
    message = rf"^{tmp_path / 'x'}: .*as eos_token in tokenizer_config\.json"
    with pytest.raises(errors.ConfigError, match=message):
        analysis.open_run(tmp_path / "x")


def test_a_template_that_is_not_read_is_not_there(tmp_path):
    pytest.importorskip("tokenizers")
    handmade.words(handmade.write(tmp_path / "x"))
    change(tmp_path / "x", "chat_template.json", chat_template="{{ messages }}")
    run = analysis.open_run(tmp_path / "x")
    with pytest.raises(errors.ConfigError, match="did not learn dialogues"):
        run.reply(["w1"])
    change(tmp_path / "x", "tokenizer_config.json", chat_template="{{ messages }}")
    assert analysis.open_run(tmp_path / "x").chats == "tokenizer"


def test_all_problems_of_the_tensors_are_told_together(tmp_path):
    weights = without("model.norm.weight") | {"nose": np.ones(3, "f4")}
    weights["lm_head.weight"] = weights["lm_head.weight"][:5]
    with pytest.raises(errors.ConfigError) as caught:
        folder.open_folder(handmade.write(tmp_path / "x", weights))
    assert len(caught.value.problems) == 3


@pytest.mark.parametrize("name", ["hf:/no/such/folder", "hf:a/b/c", "hf:../x"])
def test_a_path_that_is_neither_folder_nor_repository(name):
    with pytest.raises(errors.ConfigError, match="no such folder"):
        analysis.open_run(name)


def test_a_repository_that_cannot_be_reached(monkeypatch):
    hub = pytest.importorskip("huggingface_hub")

    def fetch(name, *, allow_patterns, ignore_patterns, local_files_only):
        assert not local_files_only
        assert not any("bin" in p or "py" in p for p in allow_patterns)
        raise ConnectionError("no route")

    monkeypatch.setattr(hub, "snapshot_download", fetch)
    with pytest.raises(errors.ConfigError, match=r"hf:who/what.*no route.*network"):
        analysis.open_run("hf:who/what", network=True)


def test_nothing_is_fetched_unasked(monkeypatch):
    hub = pytest.importorskip("huggingface_hub")
    asked = []

    def fetch(name, *, local_files_only, **options):
        asked.append(local_files_only)  # an assertion would pass for the hub's error
        raise OSError("not in the cache")

    monkeypatch.setattr(hub, "snapshot_download", fetch)
    with pytest.raises(errors.ConfigError, match=r"hf:who/what.*--network"):
        analysis.open_run("hf:who/what")
    with pytest.raises(errors.ConfigError, match=r"^init\.run: hf:who/what"):
        initial.find_run(InitConfig(run="hf:who/what"), "init")
    config = {"trainable": "x", "init": {"run": "hf:who/what", "step": None}}
    step = types.SimpleNamespace(meta={"data": {"init": ""}}, leaves=lambda item: {})
    store = types.SimpleNamespace(
        path="a strange run",
        config=lambda _: config,
        from_step=lambda _, read: read(step),
    )
    with pytest.raises(errors.CheckpointError, match=r"a strange run.*hf:who/what"):
        analysis.Run(store).leaves()
    assert asked == [True] * 3


def test_a_run_that_starts_from_itself_is_refused(monkeypatch, tmp_path):
    start = {"run": str(tmp_path), "step": None}
    config = {"trainable": "x", "init": start, "model": {}}
    step = types.SimpleNamespace(
        meta={"step": 0, "data": {"init": ""}}, leaves=lambda item: {}
    )
    store = types.SimpleNamespace(
        path=tmp_path,
        steps=lambda: [0],
        config=lambda _: config,
        from_step=lambda _, read: read(step),
    )
    monkeypatch.setattr(runs, "open_run", lambda *_, **__: analysis.Run(store))
    with pytest.raises(errors.CheckpointError, match="starts from itself"):
        analysis.Run(store).leaves()
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert conversion._base_of(analysis.Run(store)) is None


@pytest.mark.parametrize("name", ["", " ", "hf:", "hf: "])
def test_no_name_is_not_the_current_folder(name, tmp_path, monkeypatch):
    handmade.words(handmade.write(tmp_path))
    monkeypatch.chdir(tmp_path)
    assert analysis.open_run(".").steps == [0]
    with pytest.raises((errors.CheckpointError, errors.ConfigError)):
        analysis.open_run(name)


def test_a_name_that_no_file_can_have_is_refused():
    for prefix in ("", "hf:"):
        with pytest.raises(errors.CheckpointError, match="too long"):
            analysis.open_run(prefix + "x" * 5000)


def test_a_config_of_more_layers_than_there_are_tensors_is_refused(tmp_path):
    handmade.write(tmp_path / "x", num_hidden_layers=65_536)
    with pytest.raises(errors.ConfigError, match=r"config\.json.*tensors"):
        folder.open_folder(tmp_path / "x")


def test_a_repository_is_opened_where_the_hub_puts_it(monkeypatch, tmp_path):
    hub = pytest.importorskip("huggingface_hub")
    path = handmade.write(tmp_path / "snapshot")
    monkeypatch.setattr(hub, "snapshot_download", lambda name, **options: str(path))
    assert analysis.open_run("hf:who/what").path == path


def test_the_config_says_which_field_named_it(tmp_path):
    truncated(tmp_path / "x")
    section = InitConfig(run=f"hf:{tmp_path / 'x'}")
    with pytest.raises(errors.ConfigError, match=r"^init\.run: .*truncated"):
        initial.find_run(section, "init")


def test_there_is_but_one_step(tmp_path):
    handmade.write(tmp_path / "x")
    assert analysis.open_run(tmp_path / "x", 0).steps == [0]
    with pytest.raises(errors.CheckpointError, match=r"no step 5; it has \[0\]"):
        analysis.open_run(tmp_path / "x", 5)


def test_a_family_is_not_read_as_another(tmp_path):
    handmade.write(tmp_path / "x")
    begun = initial.find_run(InitConfig(run=str(tmp_path / "x")), "init")
    complete = lambda **fields: initial.inherit_model({"model": fields}, begun)["model"]
    assert complete(family=None, max_length=8)["max_length"] == 8
    assert complete(family="llama")["d_model"] == handmade.D
    with pytest.raises(errors.ConfigError, match=r"model\.family: 'gpt2'"):
        complete(family="gpt2")
    with pytest.raises(errors.ConfigError, match=r"model\.name: 'nano'"):
        complete(family="llama", name="nano")
