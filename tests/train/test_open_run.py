# SPDX-License-Identifier: Apache-2.0
"""A run opened elsewhere gives what the process that trained it would have given."""

import json
import os
import subprocess
import sys

import jax
import launch
import numpy as np
import pytest

from alignjax import analysis, checkpoint, train, types
from alignjax.checkpoint import step_folders
from alignjax.experiment import build
from tests.train import small

TOKENS = list(b"the old ship went to sea")

ELSEWHERE = """
import json, sys
import numpy as np
import alignjax

run = alignjax.open_run(sys.argv[1])
np.save(sys.argv[2], run.logits(json.loads(sys.argv[3])))
(found,) = run.generate(["the "], max_tokens=12, temperature=0.0)
print(json.dumps([run.steps, found.text, found.ids]))
"""


@pytest.fixture(scope="module")
def trained(tmp_path_factory, corpus, cache):
    """A finished run, and the last parameters as the training process had them."""
    workdir = tmp_path_factory.mktemp("run")
    held = {}
    save = checkpoint.Checkpoints.maybe_save

    def hold(self, step, state, **options):
        if step == 24:
            held["params"] = jax.device_get(state.params)
        return save(self, step, state, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checkpoint.Checkpoints, "maybe_save", hold)
        assert train.train(small.section(corpus, cache), workdir) == 0
    return workdir, held["params"]


def expected_logits(corpus, cache, params):
    """By the model that the config describes, not the one that the run opens."""
    model = build.build(small.section(corpus, cache)).model
    row = lambda values, kind: np.array([values], kind)
    count = len(TOKENS)
    rows = types.Sequences(
        inputs=row(TOKENS, np.int32),
        targets=row(TOKENS, np.int32),
        weights=row([1] * count, np.float32),
        segment_ids=row([1] * count, np.int32),
        positions=row(range(count), np.int32),
    )
    logits = jax.jit(lambda p: model.unembed(p, model.hidden(p, rows)))
    return np.asarray(logits(params))


def test_in_a_fresh_process(trained, corpus, cache, tmp_path):
    workdir, params = trained
    arguments = [str(workdir), str(tmp_path / "logits.npy"), json.dumps(TOKENS)]
    # With as many devices: how products are split among threads depends on that, and
    # with it their last bits.
    environment = {**os.environ, "PYTHONPATH": str(launch.ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", ELSEWHERE, *arguments],
        env=environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    steps, text, ids = json.loads(done.stdout)
    assert steps == [16, 24] and len(ids) == 12
    assert set(text) <= set("".join(small.WORDS) + " \n")  # it has learned the letters
    found = np.load(tmp_path / "logits.npy")
    expected = expected_logits(corpus, cache, params)[0]
    np.testing.assert_array_equal(found, expected)


def test_while_it_trains(corpus, cache, tmp_path):
    workdir = tmp_path / "run"
    more = ["--config.steps=100000", "--config.checkpoint.every=5"]
    process = launch.start(launch.flags(workdir, corpus, cache, *more), tmp_path / "o")
    saved = lambda: step_folders.complete_steps(workdir / "checkpoints")
    try:
        launch.wait_for(saved, process)
        run = analysis.open_run(workdir)
        assert run.logits(TOKENS).shape == (len(TOKENS), 258)
        first = run.steps[-1]
        launch.wait_for(lambda: run.steps and run.steps[-1] > first, process)
        assert process.is_alive() and len(run.metrics()) >= run.steps[-1]
    finally:
        process.kill()
        process.join()
