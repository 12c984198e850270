# SPDX-License-Identifier: Apache-2.0
"""Folders to runs and back: whole or not at all, and what lies beside the weights."""

import json
import os
import pathlib
import shutil
import subprocess
import sys

import handmade
import jax
import numpy as np
import pytest

from alignjax import analysis, checkpoint, convert, errors, types
from alignjax.analysis import certificate, conversion
from alignjax.checkpoint import step_folders
from alignjax.data.tokenizers import base
from alignjax.huggingface import folder, save
from alignjax.storage import atomic, lazy, tensor_files

ROOT = pathlib.Path(__file__).resolve().parents[2]
SFT = {"data": {"chat": None, "bos": False}}


@pytest.fixture
def source(tmp_path):
    return handmade.write(tmp_path / "source", handmade.tensors("bfloat16"), files=3)


def imported(source, target):
    return conversion.import_folder(conversion.plan_import(source, target))


def exported(run, target, **options):
    return conversion.export_run(conversion.plan_export(run, target, **options))


def trained(path, tok=None, data=None, **model):
    """A run as training leaves it, of a model that was not trained."""
    import flax.linen as nn

    from alignjax import models

    size = dict(d_model=8, layers=2, heads=2, d_ff=12, max_length=16)
    size["vocab_size"] = tok.vocab_size if tok else 24
    section = {"family": "llama", "name": "nano", **size, **model}
    made = models.build(section, 1)
    params = jax.jit(lambda k: nn.unbox(made.init(k)))(jax.random.key(0))
    known = {"model": section, "data": data or SFT["data"]}
    with checkpoint.Checkpoints(
        path, config=known, data_identity={}, every=1
    ) as checkpoints:
        checkpoints.maybe_save(1, types.TrainState(jax.numpy.int32(1), params, ()))
    if tok is not None:
        tok.save(path / "tokenizer")
    return analysis.open_run(path)


@pytest.mark.parametrize("dtype", sorted(handmade.DTYPES))
@pytest.mark.parametrize("tied", [False, True])
def test_there_and_back_every_bit_is_the_same(dtype, tied, tmp_path):
    weights = handmade.tensors(dtype, tied)
    source = handmade.write(tmp_path / "x", weights, tie_word_embeddings=tied, files=2)
    run = imported(source, tmp_path / "run")
    assert {str(x.dtype) for x in run.leaves().values()} == {dtype}
    exported(run.path, tmp_path / "out", max_shard_bytes=800)
    assert handmade.equal(weights, handmade.read(tmp_path / "out"))
    assert (tmp_path / "out" / folder.INDEX).is_file()
    digests = [analysis.open_run(tmp_path / x).digest() for x in ("x", "run", "out")]
    assert len(set(digests)) == 1


def test_a_head_that_is_tied_and_there_twice_is_read_once(tmp_path):
    weights = handmade.tensors(tied=True)
    twice = weights | {"lm_head.weight": weights["model.embed_tokens.weight"]}
    handmade.write(tmp_path / "x", twice, tie_word_embeddings=True)
    exported(tmp_path / "x", tmp_path / "out")
    assert handmade.equal(weights, handmade.read(tmp_path / "out"))


def test_the_run_is_the_folder(source, tmp_path):
    run, there = imported(source, tmp_path / "run"), analysis.open_run(source)
    assert run.steps == there.steps == [0]
    assert run.config["model"] == there.config["model"]
    assert run.meta()["leaves"].keys() == there.meta()["leaves"].keys()
    np.testing.assert_array_equal(run.logits([1, 2, 3]), there.logits([1, 2, 3]))
    name = "layers/q/kernel"
    assert run.leaf(name).tobytes() == there.leaf(name).tobytes()
    assert run.leaf(name).shape == (2, 8, 4, 2)
    weights = handmade.read(source)
    theirs = weights["model.layers.1.self_attn.q_proj.weight"]
    np.testing.assert_array_equal(run.leaf(name)[1], theirs.T.reshape(8, 4, 2))


INDICES = [
    ...,
    0,
    -1,
    (1, 3),
    (slice(1, 2),),
    (slice(None), slice(2, 6), slice(0, 4, 3)),
    (slice(None), 5, ..., slice(1, None)),
    (0, slice(7, 2, -2), 3, 1),
    slice(2, 2),
]


@pytest.mark.parametrize("index", INDICES, ids=str)
def test_a_slice_is_what_numpy_would_give(index, source):
    for name in ("layers/q/kernel", "layers/o/kernel"):
        leaf = analysis.open_run(source).leaves()[name]
        whole = np.asarray(leaf)
        if name == "layers/o/kernel" and index not in (..., 0, -1):
            continue
        got = leaf[index]
        assert got.shape == whole[index].shape and got.dtype == whole.dtype
        np.testing.assert_array_equal(got, whole[index])
    with pytest.raises(IndexError):
        leaf[5]


def test_pieces_are_all_of_it_in_order(source):
    for leaf in analysis.open_run(source).leaves().values():
        whole = np.asarray(leaf)
        for limit in (1, 40, 10**6):
            parts = list(lazy.pieces(leaf, limit))
            flat = np.concatenate([x.reshape(-1) for x in parts])
            np.testing.assert_array_equal(flat, whole.reshape(-1))
        assert len(parts) == 1


def test_one_tensor_is_mapped_at_a_time(source, monkeypatch):
    seen = []
    view = tensor_files.Tensor.view
    monkeypatch.setattr(
        tensor_files.Tensor, "view", lambda self: seen.append(self.offset) or view(self)
    )
    leaf = analysis.open_run(source).leaves()["layers/mlp/up/kernel"]
    assert not seen
    leaf[1, 2:4]
    assert len(seen) == 1


def test_a_flipped_bit_of_an_imported_run_is_seen(source, tmp_path):
    run = imported(source, tmp_path / "run")
    file = run.directory / "0" / step_folders.TENSORS
    content = bytearray(file.read_bytes())
    content[-3] ^= 4
    file.write_bytes(content)
    broken = analysis.open_run(run.path)
    (last,) = list(tensor_files.open_file(file))[-1:]
    with pytest.raises(errors.CheckpointError, match=f"fingerprint: params/{last}"):
        broken.leaves()[last][0]
    with pytest.raises(errors.CheckpointError, match="fingerprint"):
        broken.params(0)
    with pytest.raises(errors.CheckpointError, match="fingerprint"):
        exported(run.path, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    file.write_bytes(content[:-9])
    with pytest.raises(errors.CheckpointError, match="truncated"):
        analysis.open_run(run.path, 0).params()


def test_dtype_that_was_asked_for(source, tmp_path):
    exported(source, tmp_path / "wide", dtype="float32")
    narrow, wide = handmade.read(source), handmade.read(tmp_path / "wide")
    assert handmade.equal({k: v.astype("f4") for k, v in narrow.items()}, wide)
    known = json.loads((tmp_path / "wide" / "config.json").read_text())
    assert known["torch_dtype"] == "float32" and known["eos_token_id"] == 2
    with pytest.raises(errors.ConfigError, match="dtype: 'int8'"):
        exported(source, tmp_path / "x", dtype="int8")


def test_float16_that_cannot_hold_a_weight_is_refused(tmp_path):
    weights = handmade.tensors()
    weights["model.norm.weight"][3] = 1e6
    handmade.write(tmp_path / "x", weights)
    with pytest.raises(errors.ConfigError, match="65504"):
        exported(tmp_path / "x", tmp_path / "out", dtype="float16")
    assert [x.name for x in tmp_path.iterdir()] == ["x"]


@pytest.mark.parametrize("text, count", [("5GB", 5 * 10**9), ("1.5MiB", 3 * 2**19)])
def test_sizes(text, count):
    assert save.parse_size(text) == count
    with pytest.raises(errors.ConfigError, match="max_shard_size"):
        save.parse_size(f"{text}s")


@pytest.mark.parametrize("text", ["inf", "infGB", "nan", "1e400", "-1", "0", "", "GB"])
def test_sizes_that_are_none(text, source, tmp_path, capsys):
    target = tmp_path / "out"
    flags = ["export", str(source), str(target), f"--max-shard-size={text}"]
    assert convert.main(flags) == errors.CONFIG
    assert "max_shard_size: " in capsys.readouterr().err
    assert not target.exists()


def test_a_target_with_content_is_left_alone(source, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "mine").write_text("x")
    with pytest.raises(errors.ConfigError, match="is there and not empty"):
        conversion.plan_import(source, tmp_path / "run")
    with pytest.raises(errors.ConfigError, match="is there and not empty"):
        conversion.plan_export(source, tmp_path / "run")
    assert [x.name for x in (tmp_path / "run").iterdir()] == ["mine"]
    (tmp_path / "empty").mkdir()
    assert imported(source, tmp_path / "empty").steps == [0]


def test_a_disk_that_is_too_full_is_noticed_before(source, tmp_path, monkeypatch):
    usage = lambda path: shutil._ntuple_diskusage(100, 90, 10)
    monkeypatch.setattr(atomic.shutil, "disk_usage", usage)
    with pytest.raises(errors.ConfigError, match="0 are free"):
        conversion.plan_import(source, tmp_path / "run")


KILLED = """
import os, signal, sys
from alignjax.analysis import conversion
plan = conversion.plan_import(*sys.argv[1:])
def stop(done, total):
    if done > total // 2:
        os.kill(os.getpid(), signal.SIGKILL)
conversion.import_folder(plan, stop)
"""


def test_one_that_is_killed_leaves_no_run_and_the_next_succeeds(source, tmp_path):
    target = tmp_path / "run"
    command = [sys.executable, "-c", KILLED, source, target]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    assert subprocess.run(command, env=environment).returncode == -9
    assert sorted(x.name for x in tmp_path.iterdir()) == ["run.partial", "source"]
    assert imported(source, target).digest() == analysis.open_run(source).digest()
    assert sorted(x.name for x in tmp_path.iterdir()) == ["run", "source"]


def test_one_that_fails_leaves_nothing(source, tmp_path):
    def fail(done, total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        conversion.import_folder(conversion.plan_import(source, tmp_path / "run"), fail)
    assert [x.name for x in tmp_path.iterdir()] == ["source"]


def test_two_at_once_are_refused(tmp_path):
    with (
        atomic.folder(tmp_path / "x", 0),
        pytest.raises(errors.ConfigError, match="another process"),
        atomic.folder(tmp_path / "x", 0),
    ):
        pass
    assert (tmp_path / "x").is_dir()


def test_a_run_of_orbax_is_exported_and_read_one_leaf_at_a_time(tmp_path, monkeypatch):
    run = trained(tmp_path / "run")
    read, verify = [], step_folders.verify

    def one(path, meta, digits):
        read.append([*digits])
        return verify(path, meta, digits)

    monkeypatch.setattr(step_folders, "verify", one)
    exported(run.path, tmp_path / "out")
    names = sorted(run.leaves())
    assert sorted(read) == [[f"params/{name}"] for name in names]
    opened = analysis.open_run(tmp_path / "out")
    assert opened.digest() == run.digest()
    np.testing.assert_array_equal(opened.logits([3, 4]), run.logits([3, 4]))


def test_a_model_for_scores_and_back(tmp_path):
    run = trained(tmp_path / "run", score_heads=3, tied=False)
    made = conversion.plan_export(run.path, tmp_path / "out")
    assert any("head for tokens is left out" in note for note in made.plan.notes)
    conversion.export_run(made)
    known = json.loads((tmp_path / "out" / "config.json").read_text())
    assert known["architectures"] == ["LlamaForSequenceClassification"]
    assert len(known["id2label"]) == known["num_labels"] == 3
    found = handmade.read(tmp_path / "out")
    np.testing.assert_array_equal(found["score.weight"], run.leaf("score/kernel").T)
    back = analysis.open_run(tmp_path / "out")
    assert back.model.config.score_heads == 3 and "head" not in back.leaves()
    assert back.leaf("score/kernel").tobytes() == run.leaf("score/kernel").tobytes()


def test_a_certificate_tells_equal_from_changed(source, tmp_path):
    run = imported(source, tmp_path / "run")
    weights = handmade.read(source)
    weights["model.layers.1.mlp.up_proj.weight"][0, 0] += 1
    there = analysis.open_run(source)
    other = analysis.open_run(handmade.write(tmp_path / "other", weights))
    same = json.loads(json.dumps(certificate.make(there, run)))
    assert same["same_parameters"] and same["logits"]["kl_max"] == 0
    assert [x["layer"] for x in same["layers"]] == ["embedding", 0, 1]
    assert {x["max_abs_delta"] for x in same["layers"]} == {0}
    assert min(x["max_abs"] for x in same["layers"]) > 0
    changed = certificate.make(there, other)
    assert not changed["same_parameters"]
    deltas = [x["max_abs_delta"] for x in changed["layers"]]
    assert deltas[:2] == [0, 0] and deltas[2] > 0
    assert changed["logits"]["kl_max"] > 0
    # The states of all layers and the norm at the end are what the model computes.
    x_LBTD, last_BTD, _ = certificate._computed(
        certificate._model(run, "float32"), run, certificate._rows(run.model)
    )
    x_BTD = x_LBTD[-1] / np.sqrt((x_LBTD[-1] ** 2).mean(-1, keepdims=True) + 1e-6)
    scale = np.float32(run.leaf("norm/scale"))
    np.testing.assert_allclose(x_BTD * scale, last_BTD, atol=1e-5)


def test_files_of_a_tokenizer_come_back_byte_for_byte(source, tmp_path):
    pytest.importorskip("tokenizers")
    handmade.words(source)
    beside = {
        "chat_template.jinja": "{{ messages[0].content }}</s>",
        "generation_config.json": '{"eos_token_id": [2, 5],   "top_k": 3}',
        "special_tokens_map.json": '{"bos_token": "<s>"}',
    }
    for name, text in beside.items():
        (source / name).write_text(text)
    run = imported(source, tmp_path / "run")
    assert run.config["data"] == {"chat": "tokenizer", "bos": True}
    assert run.tokenizer.stop_ids == (2, 5)
    exported(run.path, tmp_path / "out")
    for name in (*beside, "tokenizer.json", "tokenizer_config.json"):
        assert (tmp_path / "out" / name).read_bytes() == (source / name).read_bytes()
    known = json.loads((tmp_path / "out" / "config.json").read_text())
    assert known["bos_token_id"] == 1 and known["eos_token_id"] == [2, 5]


def test_a_tokenizer_without_a_form_of_theirs_is_said_to_be(tmp_path):
    tok = base.build(base.TokenizerConfig(kind="bytes"), (), tmp_path)
    run = trained(tmp_path / "run", tok)
    made = conversion.plan_export(run.path, tmp_path / "out")
    assert any("'bytes' has no form" in note for note in made.plan.notes)
    conversion.export_run(made)
    known = json.loads((tmp_path / "out" / "generation_config.json").read_text())
    assert known["eos_token_id"] == [tok.eos_id]


def test_special_tokens_beyond_the_embedding_are_left_out(source, tmp_path):
    pytest.importorskip("tokenizers")
    handmade.words(source)
    file = source / "tokenizer.json"
    known = json.loads(file.read_text())
    image = {**known["added_tokens"][0], "id": handmade.V, "content": "<image>"}
    file.write_text(
        json.dumps({**known, "added_tokens": [*known["added_tokens"], image]})
    )
    run = imported(source, tmp_path / "run")
    assert run.tokenizer.vocab_size == handmade.V == len(run.tokenizer.token_bytes)
    assert "<image>" not in run.tokenizer.control
    assert max(run.tokenizer.encode("w1 <image> w2")) < handmade.V
    exported(run.path, tmp_path / "out")
    assert (tmp_path / "out" / "tokenizer.json").read_bytes() == file.read_bytes()
    assert not (tmp_path / "out" / "rows.json").exists()
