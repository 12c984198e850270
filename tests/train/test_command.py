# SPDX-License-Identifier: Apache-2.0
"""What else the command does: programs kept, traces, averages, the best step."""

import collections
import json
import os

import jax
import launch
import numpy as np
import pytest

from alignjax import analysis, cli, errors, trees
from alignjax.plan import profile
from configs.smoke import pretrain


def count_events():
    """Ends the output with how often each thing happened to the cache of programs.

    The cache is that of the config.
    """
    del os.environ["JAX_COMPILATION_CACHE_DIR"]
    counts = collections.Counter()
    jax.monitoring.register_event_listener(lambda name, **_: counts.update([name]))
    return lambda: print(json.dumps(counts))


def test_second_start_compiles_less(tmp_path, corpus):
    counts = []
    for name in ("first", "second"):
        flags = launch.flags(tmp_path / name, corpus, tmp_path / "cache")
        code, output = launch.run(flags, tmp_path / f"{name}.out", before=count_events)
        assert code == errors.DONE, output
        events = json.loads(output.splitlines()[-1])
        kinds = "cache_misses", "cache_hits"
        counts.append([events.get(f"/jax/compilation_cache/{k}", 0) for k in kinds])
    (misses, hits), (misses_again, hits_again) = counts
    assert misses >= 3 and hits == 0  # at least: init, the step, evaluation
    assert hits_again >= 3 and misses_again <= misses - 3


def test_programs_are_kept_where_the_environment_says(monkeypatch, tmp_path):
    before = jax.config.jax_compilation_cache_dir
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(tmp_path / "theirs"))
    cli.keep_programs(tmp_path)
    assert jax.config.jax_compilation_cache_dir == before


def test_profile(tmp_path, corpus, cache):
    flags = launch.flags(tmp_path / "run", corpus, cache, "--profile")
    code, output = launch.run(flags, tmp_path / "output")
    assert code == errors.DONE, output
    figures = profile.measure(*profile.load(tmp_path / "run"), None)
    assert 4 <= figures["steps"] <= 5  # the last may still run when the trace ends
    assert {"products", "element-wise", "copies"} <= figures["kinds"].keys()
    assert 0 <= figures["idle_s"] < figures["step_s"]


def test_average_of_the_weights(tmp_path, corpus, cache):
    more = "--config.optimizer.ema=0.8"
    flags = launch.flags(tmp_path / "run", corpus, cache, more)
    code, output = launch.run(flags, tmp_path / "output")
    assert code == errors.DONE, output
    run = analysis.open_run(tmp_path / "run")
    last = run.metrics()[-1]
    assert 0 < last["eval/loss"] < last["eval_average/loss"] < 6  # it lags behind
    assert last["eval_average/bits_per_byte"] > last["eval/bits_per_byte"]
    average = trees.named_leaves(run.params(average=True))
    apart = [
        np.abs(leaf - average[name]).max()
        for name, leaf in trees.named_leaves(run.params()).items()
    ]
    assert 0 < max(apart) < 0.1


def test_best_step_is_kept(tmp_path, corpus, cache):
    more = ["--config.checkpoint.keep_last=1"]
    more += ["--config.checkpoint.keep_best=('eval/loss','max')"]
    flags = launch.flags(tmp_path / "run", corpus, cache, *more)
    code, output = launch.run(flags, tmp_path / "output")
    assert code == errors.DONE, output
    run = analysis.open_run(tmp_path / "run")
    evals = {r["step"] + 1: r["eval/loss"] for r in run.metrics() if "eval/loss" in r}
    assert run.steps == [max(evals, key=evals.get), 24] and run.steps[0] < 24


def test_best_by_a_metric_that_is_not_there(tmp_path, corpus, cache):
    more = "--config.checkpoint.keep_best=('eval/los','min')"
    flags = launch.flags(tmp_path / "run", corpus, cache, more)
    code, output = launch.run(flags, tmp_path / "output")
    assert code == errors.CONFIG, output
    assert "checkpoint.keep_best" in output and "'eval/loss'" in output
    assert not (tmp_path / "run/metrics.jsonl").read_bytes()  # before the first step


@pytest.fixture(scope="module")
def smoke(tmp_path_factory, cache):
    """The smoke config as it is typed, in a process that starts cold."""
    workdir = tmp_path_factory.mktemp("smoke")
    done = launch.fresh(
        [
            "--config=configs/smoke/pretrain.py",
            f"--workdir={workdir}",
            f"--config.cache_dir={cache}",
            f"--config.data.sources.text.data_dir={cache}/world",
        ]
    )
    assert done.returncode == errors.DONE, done.stderr
    return workdir, done


def test_smoke(smoke):
    workdir, done = smoke
    assert done.stderr == "", done.stderr
    assert "step 24/24" in done.stdout and "sample-0 at step 23:\nthe " in done.stdout
    run = analysis.open_run(workdir)
    rows = run.metrics()
    assert [row["step"] for row in rows] == list(range(24))
    assert rows[-1]["loss"] < rows[0]["loss"] - 1
    assert rows[-1]["tokens"] == 24 * 8 * 32
    for name in ("learning_rate", "grad_norm", "tokens_per_second", "eval/loss"):
        assert name in rows[-1], name
    assert run.config["model"]["d_model"] == pretrain.get_config().model.d_model


def test_what_a_run_leaves(smoke):
    workdir, _ = smoke
    names = {path.name for path in workdir.iterdir()}
    assert names == {
        "checkpoints",
        "config.json",
        "log.txt",
        "metrics.jsonl",
        "samples",
        "tensorboard",
        "tokenizer",
    }
    samples = sorted(path.name for path in (workdir / "samples").iterdir())
    assert samples == ["00000011-sample-0.txt", "00000023-sample-0.txt"]
