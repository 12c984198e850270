# SPDX-License-Identifier: Apache-2.0
"""A run opened by somebody who has only its directory."""

import functools
import json
import pathlib
import re
import shutil
import subprocess
import sys

import flax.linen as nn
import jax
import numpy as np
import pytest

from alignjax import analysis, errors, models, types
from alignjax.checkpoint import step_folders
from alignjax.data.tokenizers import base
from alignjax.objectives import logprobs
from tests.fixtures import tiny

ROOT = pathlib.Path(__file__).resolve().parents[2]
STEPS = (5, 10)
VOCABULARY = 258
SIZE = dict(d_model=16, layers=2, heads=2, d_ff=24, max_length=32, remat="full")
CONFIG = {"steps": 10, "model": {"family": "llama", "name": "nano", **SIZE}}
WORDS = [72, 101, 108, 108, 111]


@functools.cache
def weights(seed: int):
    model = models.build(CONFIG["model"], VOCABULARY)
    return jax.jit(lambda key: nn.unbox(model.init(key)))(jax.random.key(seed))


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    """A workdir as `train` leaves it, of a model that was not trained."""
    workdir = tmp_path_factory.mktemp("trained") / "run"
    tokens = base.build(base.TokenizerConfig(kind="bytes"), (), workdir)
    assert tokens.vocab_size == VOCABULARY
    with tiny.checkpoints_of(workdir, config=CONFIG) as checkpoints:
        tokens.save(workdir / "tokenizer")
        for step in STEPS:
            params = weights(step)
            extra = {"average": weights(100 + step)}
            state = types.TrainState(jax.numpy.int32(step), params, (), extra)
            checkpoints.maybe_save(step, state)
    rows = '{"step": 0, "loss": 5.5}\n{"step": 1, "loss": "NaN"}\n{"step": 2, "lo'
    (workdir / "metrics.jsonl").write_text(rows)
    return workdir


@pytest.fixture
def workdir(original, tmp_path):
    """A copy of it, to which nothing else refers."""
    shutil.copytree(original, tmp_path / "copied")
    return tmp_path / "copied"


@pytest.fixture
def run(workdir):
    return analysis.open_run(workdir)


def same(a, b) -> bool:
    return tiny.bits(a) == tiny.bits(b)


def test_what_there_is(run):
    assert run.steps == list(STEPS)
    assert run.config == CONFIG
    assert run.tokenizer.kind == "bytes"
    assert run.model.config.d_model == 16
    assert run.meta(5)["step"] == 5 and run.meta()["step"] == 10
    assert [row["step"] for row in run.metrics()] == [0, 1]
    assert np.isnan(run.metrics()[1]["loss"])


def test_parameters_are_those_that_were_saved(run):
    for step in STEPS:
        params = run.params(step)
        assert same(params, weights(step))
        assert {type(x) for x in jax.tree.leaves(params)} == {np.ndarray}
    assert same(run.params(), run.params(10))
    assert same(analysis.open_run(run.path, 5).params(), run.params(5))


def test_average_of_the_weights(run):
    assert same(run.params(5, average=True), weights(105))


def test_run_without_an_average(tmp_path):
    test = tiny.abstract(tiny.mesh_of(1))
    with tiny.checkpoints_of(tmp_path) as checkpoints:
        checkpoints.maybe_save(5, tiny.state_at(5, test))
    with pytest.raises(errors.CheckpointError, match=r"no average.*optimizer\.ema"):
        analysis.open_run(tmp_path).params(average=True)


def test_one_leaf_is_read_without_the_others(run, workdir):
    name = next(iter(step_folders.leaves_of(run.meta(), "params")))
    want = run.params(5)
    for part in name.split("/"):
        want = want[part]
    shutil.rmtree(workdir / "checkpoints" / "5" / "train")
    assert same(run.leaf(name, 5), want)
    assert int(run.leaf("step", 10, item="train")) == 10
    with pytest.raises(errors.CheckpointError, match=f"no leaf 'nose'.*{name}"):
        run.leaf("nose")


def test_the_leaf_of_the_documentation_exists(run):
    name = re.search(r"such as `(.+?)`", analysis.Run.leaf.__doc__)[1]
    assert same(run.leaf(name), run.leaves()[name][...])


def sequences(tokens):
    tokens = np.atleast_2d(tokens).astype(np.int32)
    ones = np.ones_like(tokens)
    positions = np.arange(tokens.shape[1], dtype=np.int32)[None] * ones
    return types.Sequences(tokens, tokens, ones.astype(np.float32), ones, positions)


def test_logits_are_the_models(run):
    model, params = run.model, weights(10)
    want = model.unembed(params, model.hidden(params, sequences(WORDS)))
    got = run.logits(WORDS)
    assert got.shape == (5, model.config.vocab_size) and got.dtype == np.float32
    np.testing.assert_allclose(got, want[0], atol=1e-5)
    np.testing.assert_allclose(run.logits([WORDS, WORDS])[1], want[0], atol=1e-5)


def test_logprobs_are_of_the_response_alone(run):
    prompt, response = "He", "llo"
    before = [run.tokenizer.bos_id, *run.tokenizer.encode(prompt)]
    after = run.tokenizer.encode(response)
    logits = jax.nn.log_softmax(run.logits([*before, *after]))
    want = [logits[len(before) - 1 + i, token] for i, token in enumerate(after)]
    got = run.logprobs(prompt, response)
    assert got.shape == (3,)
    np.testing.assert_allclose(got, want, atol=1e-5)
    np.testing.assert_allclose(run.logprobs(before, after), got, atol=1e-5)


def test_logprobs_are_those_of_the_objectives(run):
    tokens = np.array([*WORDS, 33])
    rows = sequences(tokens[:-1]).replace(targets=tokens[None, 1:])
    params = weights(10)
    want = logprobs.tokens(run.model, params, rows).logp
    np.testing.assert_allclose(run.logprobs([72], tokens[1:]), want[0], atol=1e-5)


def test_generated_tokens_have_the_logprobs_of_teacher_forcing(run):
    (done,) = run.generate(["He"], max_tokens=5, temperature=1.0, seeds=[3])
    want = run.logprobs(done.prompt_ids, done.ids)
    np.testing.assert_allclose(done.model_logprobs, want, atol=1e-5)


@pytest.mark.parametrize(
    "tokens, message",
    [
        ([1, 258 + 7], "vocabulary of 258"),
        ([-1], "vocabulary"),
        ([1.5], "not integers"),
        ([1] * 33, "33 tokens, where the model takes 1 to 32"),
        (np.zeros((0,), np.int32), "0 tokens"),
        ([[1, 2], [3]], "rows of different lengths"),
        (np.ones((1, 1, 2), np.int32), r"shape \(1, 1, 2\) is not \[T\] or \[B, T\]"),
        ([None], "object, not integers"),
    ],
)
def test_tokens_that_the_model_would_misread_are_refused(run, tokens, message):
    with pytest.raises(errors.ConfigError, match=message):
        run.logits(tokens)


def test_response_needs_something_before_it(run):
    with pytest.raises(ValueError, match="before the response"):
        run.logprobs([], [1, 2])
    with pytest.raises(ValueError, match="one in it"):
        run.logprobs("Hello", "")


def test_what_is_no_run(run, tmp_path):
    with pytest.raises(errors.CheckpointError, match="is no run"):
        analysis.open_run(tmp_path / "absent")
    with pytest.raises(errors.CheckpointError, match="a directory above it"):
        analysis.open_run(run.path / "checkpoints" / "5")
    with pytest.raises(errors.CheckpointError, match=r"no step 7; it has \[5, 10\]"):
        analysis.open_run(run.path, 7)
    (run.directory / "10" / step_folders.MARKER).unlink()
    with pytest.raises(errors.CheckpointError, match=r"step 10 .* is incomplete"):
        analysis.open_run(run.path, 10)


def test_run_that_has_saved_nothing_yet(tmp_path):
    with tiny.checkpoints_of(tmp_path, config=CONFIG):
        run = analysis.open_run(tmp_path)
    assert run.steps == [] and run.config == CONFIG and run.metrics() == []
    with pytest.raises(errors.CheckpointError, match="none yet"):
        run.params()


def test_broken_step_is_refused_if_asked_for_and_passed_over_if_not(tmp_path, caplog):
    like = tiny.abstract(tiny.mesh_of(1))
    with tiny.checkpoints_of(tmp_path) as checkpoints:
        for step in STEPS:
            checkpoints.maybe_save(step, tiny.state_at(step, like))
    tiny.damage(tmp_path, 10)
    run = analysis.open_run(tmp_path)
    with pytest.raises(errors.CheckpointError, match="fingerprint: params/embed"):
        run.params(10)
    assert same(run.params(), tiny.state_at(5, like).params)
    assert "trying the step before" in caplog.text
    tiny.damage(tmp_path, 5)
    with pytest.raises(errors.CheckpointError, match="no sound checkpoint"):
        run.params()
    assert run.steps == [5, 10]  # nothing is moved by looking


def test_damaged_config_is_taken_from_the_newest_step(workdir, tmp_path, caplog):
    expected = analysis.open_run(workdir).config
    (workdir / "config.json").write_text("{")
    assert analysis.open_run(workdir).config == expected
    assert "config.json" in caplog.text
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(errors.CheckpointError, match="no sound checkpoint"):
        analysis.open_run(tmp_path).config  # noqa: B018


@pytest.mark.parametrize("text", ["[]", "null", "7", "{}", '{"model": 5}'])
def test_config_that_is_none_is_taken_from_the_newest_step(workdir, text):
    (workdir / "config.json").write_text(text)
    run = analysis.open_run(workdir)
    assert run.config == CONFIG and run.logits(WORDS).shape == (5, VOCABULARY)


def test_config_of_another_model_is_refused(workdir):
    for field, value in (("d_model", 32), ("layers", 3), ("tied", False)):
        config = {**CONFIG, "model": {**CONFIG["model"], field: value}}
        (workdir / "config.json").write_text(json.dumps(config))
        with pytest.raises(errors.CheckpointError, match=r"config\.json: ") as caught:
            analysis.open_run(workdir).logits(WORDS)
        assert len(str(caught.value).splitlines()) == 1


NO_FILES = '{"files": [], "kind": "bytes"}', '{"files": {}, "kind": "bytes"}'


@pytest.mark.parametrize("manifest", ["[]", "null", "5", "{}", *NO_FILES])
def test_manifest_of_a_tokenizer_that_is_none(workdir, manifest):
    (workdir / "tokenizer" / base.MANIFEST).write_text(manifest)
    with pytest.raises(errors.DataError, match=base.MANIFEST):
        analysis.open_run(workdir).generate(["He"], max_tokens=1)


def test_opened_while_the_run_goes_on(workdir):
    with tiny.checkpoints_of(workdir, config=CONFIG, keep_last=1) as checkpoints:
        run = analysis.open_run(workdir)
        before = sorted(path.name for path in workdir.iterdir())
        state = types.TrainState(jax.numpy.int32(15), weights(15), ())
        checkpoints.maybe_save(15, state)
        checkpoints.wait()
        assert run.steps == [15]
        assert same(run.params(), weights(15))
        with pytest.raises(errors.CheckpointError, match=r"no step 5; it has \[15\]"):
            run.params(5)
        assert sorted(path.name for path in workdir.iterdir()) == before


FRESH = """
import json, sys
import alignjax
run = alignjax.open_run(sys.argv[1])
loaded = {name.partition(".")[0] for name in sys.modules}
print(json.dumps({
    "steps": run.steps,
    "without": sorted({"sentencepiece", "torch", "transformers"} & loaded),
    "logits": run.logits([72, 101])[-1].tolist(),
}))
"""


def test_fresh_process_gets_the_same_logits(run):
    command = [sys.executable, "-c", FRESH, run.path]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, check=True)
    report = json.loads(done.stdout)
    assert report["steps"] == list(STEPS) and report["without"] == []
    np.testing.assert_array_equal(
        np.float32(report["logits"]), run.logits([72, 101])[-1]
    )
