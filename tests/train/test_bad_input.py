# SPDX-License-Identifier: Apache-2.0
"""What cannot be trained is refused before the first step, in words that help.

Each refusal has its exit code and one message without a traceback; and it leaves
nothing behind over which a correct start would trip.
"""

import gzip
import json
import os
import resource
import shutil
import signal

import launch
import pytest

from alignjax import analysis, cli, errors, train
from tests.train import small

FIELD = "--config.{}"
SOURCE = "--config.data.sources.text.{}"


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    """All refused starts share it, and a correct one follows."""
    return tmp_path_factory.mktemp("refused") / "run"


@pytest.fixture
def refuse(workdir, corpus, cache, capfd, monkeypatch):
    """A function that starts the command with more flags and returns its output."""
    monkeypatch.setattr(cli, "keep_programs", lambda folder: None)

    def refuse(code, *more, workdir=workdir, config=launch.SMALL):
        flags = launch.flags(workdir, corpus, cache, *more, config=config)
        capfd.readouterr()
        assert train.main(flags) == code
        output = "".join(capfd.readouterr())
        assert "step 1/" not in output, output
        return output

    return refuse


@pytest.fixture
def refuse_alone(tmp_path, workdir, corpus, cache):
    """The same in a process of its own, with one device."""

    def refuse(code, *more, workdir=workdir, config=launch.SMALL):
        flags = launch.flags(workdir, corpus, cache, *more, config=config)
        exit_code, output = launch.run(flags, tmp_path / "output")
        assert exit_code == code, output
        assert "Traceback" not in output, output
        assert "step 1/" not in output, output
        return output

    return refuse


@pytest.mark.parametrize(
    "flag, words",
    [
        ("optimizer.lerning_rate=1", ["optimizer.lerning_rate", "'learning_rate'"]),
        ("optimzer.learning_rate=1", ["optimzer.learning_rate", "'optimizer'"]),
        ("mesh.tensr=2", ["mesh.tensr", "'tensor'"]),
        ("steps=many", ["steps: 'many'", "int"]),
        ("microbatches=1.5", ["microbatches: 1.5", "int"]),
        ("optimizer=5", ["optimizer: a section"]),
        ("steps=0", ["steps: 0"]),
        ("seed=4294967295", ["seed: 4294967295"]),
        ("seed=99999999999999999999", ["seed: 99999999999999999999"]),
        ("cache_dir=", ["cache_dir: empty; name a folder"]),
        ("cache_dir=README.md", ["cache_dir: README.md/tokens: ", "can be written"]),
        ("optimizer.learning_rate=nan", ["optimizer.learning_rate: nan"]),
        ("optimizer.learning_rate=-1.0", ["optimizer.learning_rate: -1.0"]),
        ("optimizer.name=adamx", ["optimizer.name", "'adamx'", "'adamw'"]),
        ("optimizer.momentum=0.9", ["optimizer.momentum: unknown field", "b1, b2"]),
        ("optimizer.decay=nothing", ["optimizer.decay", "'nothing'", "embed"]),
        ("optimizer.decay=(", ["optimizer.decay", "'('"]),
        ("optimizer.ema=1.0", ["optimizer.ema: 1.0"]),
        ("optimizer.ema=0.0", ["optimizer.ema: 0.0"]),
        ("optimizer.ema=-1.0", ["optimizer.ema: -1.0"]),
        ("schedule.name=cosin", ["schedule.name", "'cosin'", "'cosine'"]),
        ("schedule.decay=0.5", ["schedule.decay: unknown field", "final"]),
        ("schedule.warmup_steps=99", ["schedule.warmup_steps: 99", "steps = 24"]),
        ("objective.name=lm", ["objective.name", "'lm'", "language_model"]),
        ("objective.name=no_such:thing", ["objective.name", "no_such"]),
        ("objective.chunk=0", ["objective.chunk: 0"]),
        ("objective.z_loss=-1.0", ["objective.z_loss: -1.0"]),
        ("model.family=lama", ["model.family", "'lama'", "'llama'"]),
        ("model.heads=5", ["model.heads: 5 do not divide d_model = 32"]),
        ("model.attention=cudnn", ["model.attention: cudnn", "float32"]),
        ("model.attention=splash", ["model.attention: splash", "of 16;"]),
        ("model.activation=relu", ["model.activation: 'relu'", "'swiglu'"]),
        ("model.vocab_size=100", ["model.vocab_size: 100", "258 tokens"]),
        ("length=65", ["length: 65", "model.max_length = 64"]),
        ("microbatches=3", ["microbatches: 3 do not divide batch_size = 8"]),
        ("tokenizer.kind=byte", ["tokenizer.kind", "'byte'", "'bytes'"]),
        ("tokenizer.vocab_size=512", ["tokenizer.vocab_size", "bytes"]),
        ("data.pack=best", ["data.pack: 'best'", "'best_fit'"]),
        ("data.validation_fraction=0.0", ["data.validation_fraction: 0"]),
        ("data.sources.text.kind=txt", ["data.sources.text.kind", "'text'"]),
        ("data.sources.text.document=page", ["data.sources.text.document: 'page'"]),
        ("evaluation.every=0", ["evaluation.every: 0"]),
        ("checkpoint.every=0", ["checkpoint.every: 0"]),
        ("checkpoint.keep_best=('eval/loss','min')", None),
        ("checkpoint.keep_best=('eval/loss','least')", ["checkpoint.keep_best"]),
        ("log.every=0", ["log.every: 0"]),
        ("watchdog=0.0", ["watchdog: 0.0"]),
        ("mesh.fsdp=3", ["mesh", "3 devices", "there are 8"]),
        ("mesh.data=0", ["mesh", "'data': 0", "positive"]),
        ("steps=1000000000000", ["steps: 1000000000000", "999,999,999"]),
        ("batch_size=1000000000000", ["batch_size: 1000000000000"]),
        ("batch_size=2000000000", ["batch_size: ", "GiB"]),
        ("prefetch=1000000000000", ["prefetch", "GiB"]),
        ("length=1000000000000", ["length: 1000000000000"]),
        ("data.workers=1000000", ["data.workers: 1000000"]),
        ("model.layers=1000000000000", ["model.layers: 1000000000000"]),
        ("model.head_dim=1000000000", ["model.head_dim: 1000000000"]),
        ("model.vocab_size=1000000000000", ["model.vocab_size: 1000000000000"]),
        ("model.vocab_size=2000000000", ["model: ", "GiB"]),
        ("model.max_length=1000000000000", ["model.max_length: 1000000000000"]),
        ("tokenizer.vocab_size=1000000000000", ["tokenizer.vocab_size: 10000000000"]),
    ],
)
def test_field(refuse, flag, words):
    more = ["--config.evaluation.every=5"] if words is None else []
    output = refuse(errors.CONFIG, FIELD.format(flag), *more)
    for word in words or ["checkpoint.keep_best", "8", "multiple", "5"]:
        assert word in output, output
    assert len(output.splitlines()) <= 3, output


@pytest.mark.parametrize(
    "flags, words",
    [
        (["max_tokens=64"], ["sample.prompts[0]: 5 tokens", "max_length = 64"]),
        (["prompts=('',)", "bos=False"], ["sample.prompts[0]: empty"]),
        (["temperature=-1.0"], ["sample.temperature: -1.0"]),
        (["top_p=2.0"], ["sample.top_p: 2.0"]),
    ],
)
def test_samples_that_cannot_be(refuse, flags, words):
    names = {"bos=False": "data.bos=False"}
    more = [FIELD.format(names.get(f, f"sample.{f}")) for f in flags]
    output = refuse(errors.CONFIG, FIELD.format("sample.every=12"), *more)
    assert all(word in output for word in words), output


def test_everything_wrong_is_said_at_once(refuse):
    flags = ["log.every=0", "data.pack=best", "checkpoint.every=0"]
    output = refuse(errors.CONFIG, *map(FIELD.format, flags))
    assert all(f in output for f in ("log.every", "data.pack", "checkpoint.every"))


def test_what_the_mesh_does_not_divide(refuse):
    flags = ["batch_size=12", "mesh.fsdp=8"]
    output = refuse(errors.CONFIG, *map(FIELD.format, flags))
    assert "batch_size: 12 is not a multiple of 8" in output and "16" in output
    flags = ["batch_size=8", "mesh.fsdp=4", "mesh.tensor=2", "microbatches=4"]
    output = refuse(errors.CONFIG, *map(FIELD.format, flags))
    assert "4 microbatches on 4 devices" in output and "16" in output
    flags = ["mesh.fsdp=2", "mesh.tensor=4"]
    output = refuse(errors.CONFIG, *map(FIELD.format, flags))
    assert "does not divide layers/q/kernel" in output and "sharding_rules" in output


def test_attention_that_the_devices_do_not_have(refuse):
    flags = ["model.attention=splash", "model.head_dim=64"]
    output = refuse(errors.CONFIG, *map(FIELD.format, flags))
    assert "model.attention: splash" in output and "cpu" in output


def damaged(path, kind: str):
    """A file that is no text, and what the message has to say of it."""
    if kind == "empty":
        path.write_bytes(b"")
        return "the file is empty"
    if kind == "blank":
        path.write_bytes(b"\n \n\n")
        return "blank"
    if kind == "binary":
        path.write_bytes(b"words\nmore\0words\n" * 100)
        return f"{path}:2"
    if kind == "latin-1":
        path.write_bytes("one\ntwo\nth\xe9\n".encode("latin-1"))
        return f"{path}:3"
    path = path.with_suffix(".txt.gz")
    path.write_bytes(gzip.compress(os.urandom(4096).hex().encode())[:-100])
    return "cut off"


@pytest.mark.parametrize("kind", ["empty", "blank", "binary", "latin-1", "truncated"])
def test_corpus(refuse, tmp_path, kind):
    said = damaged(tmp_path / "bad.txt", kind)
    (path,) = tmp_path.glob("bad.txt*")
    output = refuse(errors.DATA, SOURCE.format(f"path={path}"))
    assert said in output and str(path) in output, output


def test_no_corpus(refuse):
    output = refuse(errors.DATA, SOURCE.format("path=/no/such/file.txt"))
    assert "data.sources.text" in output and "/no/such/file.txt" in output


def test_row_without_the_field(refuse_alone, tmp_path, corpus, cache):
    texts = [text for text in corpus.read_text().split("\n\n") if text]
    rows = [json.dumps({"text": text}) for text in texts]
    rows[4] = json.dumps({"words": "not here"})
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(rows))
    config = launch.SMALL.with_name("rows.py")
    at = SOURCE.format(f"path={path}")
    output = refuse_alone(errors.DATA, at, config=config)
    assert f"{path}:5" in output and "'text'" in output and "on_bad_row" in output
    skip = FIELD.format("data.on_bad_row=skip")
    flags = launch.flags(tmp_path / "run", path, cache, skip, config=config)
    code, output = launch.run(flags, tmp_path / "output")
    assert code == errors.DONE, output
    assert "1 bad row skipped" in output and f"{path}:5" in output


def test_document_longer_than_the_context(refuse):
    output = refuse(errors.DATA, FIELD.format("data.long_documents=error"))
    assert "corpus.txt:" in output and "long_documents" in output, output


def test_workdir_that_cannot_be(refuse_alone, tmp_path):
    (tmp_path / "file").write_text("")
    output = refuse_alone(errors.CHECKPOINT, workdir=tmp_path / "file" / "run")
    assert str(tmp_path / "file") in output
    output = refuse_alone(errors.CONFIG, workdir="gs://bucket/run")
    assert "gs:/bucket/run" in output and "mount" in output
    output = refuse_alone(errors.CONFIG, workdir="")
    assert "workdir: empty; name a file or folder" in output


def test_wandb_that_is_not_installed(refuse):
    output = refuse(errors.CONFIG, FIELD.format("log.wandb=project"))
    assert "wandb" in output and "pip install" in output


def test_flags(refuse_alone, tmp_path):
    assert "--confg" in refuse_alone(errors.CONFIG, "--confg=x")
    assert "extra" in refuse_alone(errors.CONFIG, "extra")
    assert "nope.py" in refuse_alone(errors.CONFIG, "--config=nope.py")
    done = launch.fresh([f"--workdir={tmp_path}"])
    assert done.returncode == errors.CONFIG and "--config" in done.stderr


@pytest.fixture(scope="module")
def correct(workdir, corpus, cache):
    """The correct start, after all the refused ones."""
    flags = launch.flags(workdir, corpus, cache)
    code, output = launch.run(flags, workdir.parent / "output")
    assert code == errors.DONE, output
    assert "starting at step 0" in output and "missing" not in output
    return workdir


def test_other_run(correct, refuse_alone):
    more = ["--config.optimizer.learning_rate=1e-3", "--config.microbatches=2"]
    before = (correct / "config.json").read_text()
    output = refuse_alone(errors.CONFIG, *more)
    assert "optimizer.learning_rate: 0.003 -> 0.001" in output
    assert "microbatches" not in output.split("another run")[1]  # that may differ
    assert (correct / "config.json").read_text() == before


def test_workdir_in_the_home(corpus, cache, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(errors.CheckpointError, match=f"{tmp_path}/file"):
        train.train(small.section(corpus, cache), "~/file")


def test_other_data(refuse_alone, tmp_path, cache):
    """The same config over a corpus that has changed; what is there stays usable."""
    mine, workdir = small.write_corpus(tmp_path / "corpus.txt"), tmp_path / "run"
    chars = ["--config.tokenizer.kind=chars", "--config.steps=2"]
    chars += ["--config.schedule.warmup_steps=0", SOURCE.format(f"path={mine}")]
    flags = launch.flags(workdir, mine, cache, *chars)
    code, output = launch.run(flags, tmp_path / "output")
    assert code == errors.DONE, output
    before = analysis.open_run(workdir)
    expected, size = before.logits([1, 2, 3]), before.tokenizer.vocab_size
    mine.write_text(mine.read_text() + "\n\nwith an X, which none had before")
    (tmp_path / "output").unlink()
    config_text = (workdir / "config.json").read_bytes()
    output = refuse_alone(errors.CONFIG, *chars, workdir=workdir)
    assert "data_identity" in output and "another workdir" in output
    assert (workdir / "config.json").read_bytes() == config_text
    after = analysis.open_run(workdir)
    assert after.tokenizer.vocab_size == size
    assert (after.logits([1, 2, 3]) == expected).all()


@pytest.mark.parametrize(
    "flag,words",
    [
        ("model.d_model=64", ["does not fit this model"]),
        ("steps=16", ["steps: 16", "checkpoints/24", "another workdir"]),
    ],
)
def test_accepted_and_yet_impossible(refuse_alone, correct, flag, words):
    """What the workdir holds stays what its config.json says."""
    before = (correct / "config.json").read_bytes()
    accept = FIELD.format("checkpoint.accept=('model.*','steps')")
    output = refuse_alone(errors.CONFIG, FIELD.format(flag), accept, workdir=correct)
    for word in words:
        assert word in output, output
    assert (correct / "config.json").read_bytes() == before


def test_same_run_again_has_nothing_to_do(correct, corpus, cache, tmp_path):
    before = (correct / "metrics.jsonl").read_bytes()
    flags = launch.flags(correct, corpus, cache)
    code, output = launch.run(flags, tmp_path / "output")
    assert code == errors.DONE and "step 24, of 24" in output, output
    assert (correct / "metrics.jsonl").read_bytes() == before


def test_incomplete_checkpoint_falls_back(correct, corpus, cache, tmp_path):
    workdir = tmp_path / "run"
    shutil.copytree(correct, workdir)
    newest = workdir / "checkpoints/24/params/d"
    for file in newest.iterdir():
        file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    flags = launch.flags(workdir, corpus, cache)
    code, output = launch.run(flags, tmp_path / "output")
    assert code == errors.DONE, output
    assert "the checkpoint of step 24 is broken, moved aside" in output
    assert "going on from the checkpoint of step 16" in output
    mine, expected = analysis.open_run(workdir), analysis.open_run(correct)
    assert mine.meta(24)["leaves"] == expected.meta(24)["leaves"]
    assert os.listdir(workdir / "quarantine")


def test_all_arrays_damaged_is_the_last_word(correct, corpus, cache, tmp_path):
    """Nothing of what reads them prints after our message, nor any traceback."""
    workdir = tmp_path / "run"
    shutil.copytree(correct, workdir)
    for file in workdir.glob("checkpoints/*/*/d/*"):
        file.write_bytes(b"\1" * file.stat().st_size)
    code, output = launch.run(launch.flags(workdir, corpus, cache), tmp_path / "output")
    assert code == errors.CHECKPOINT and "Traceback" not in output, output
    last = output.splitlines()[-1]
    assert last.startswith("CheckpointError: no sound checkpoint is left"), output
    assert "step 16: " in last and "step 24: " in last and "another workdir" in last


def small_files() -> None:
    """No file may grow beyond 8 KiB: what a full disk does, to this process alone."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (8192, 8192))


def test_full_disk(corpus, cache, tmp_path):
    """The tokens are in the cache by now; it is the checkpoint that does not fit."""
    workdir = tmp_path / "run"
    flags = launch.flags(workdir, corpus, cache, "--config.checkpoint.every=4")
    code, output = launch.run(flags, tmp_path / "output", before=small_files)
    assert code == errors.CHECKPOINT, output
    assert "Traceback" not in output and str(workdir) in output, output
    code, output = launch.run(flags, tmp_path / "again")
    assert code == errors.DONE, output


def test_second_writer(refuse_alone, corpus, cache, tmp_path):
    workdir = tmp_path / "run"
    flags = launch.flags(workdir, corpus, cache, "--config.steps=100000")
    process = launch.start(flags, tmp_path / "first")
    launch.wait_for((workdir / "metrics.jsonl").exists, process)
    try:
        output = refuse_alone(errors.CONFIG, "--config.steps=100000", workdir=workdir)
        assert f"process {process.pid}" in output and "another workdir" in output
    finally:
        process.kill()
        process.join()


def test_token_outside_the_vocabulary(correct):
    run = analysis.open_run(correct)
    with pytest.raises(ValueError, match="258"):
        run.logits([1, 258])
