# SPDX-License-Identifier: Apache-2.0
"""Runs that an older alignjax made open, compute what they did, and can be built on.

tests/golden/runs has one of each objective; tools/make_golden_runs.py says how they
were made, and what is beside them. Training on is from their own config.json.
"""

import json
import pathlib
import shutil

import numpy as np
import pytest

from alignjax import errors, train
from alignjax.analysis import open_run
from alignjax.experiment import build
from tools import make_golden_runs

ROOT = pathlib.Path(__file__).resolve().parents[1]
RUNS = make_golden_runs.FOLDER
NAMES = sorted(path.stem for path in (ROOT / RUNS).glob("*.npz"))


@pytest.fixture(autouse=True)
def at_the_root(monkeypatch):
    """The configs name the runs that they start from relative to it."""
    monkeypatch.chdir(ROOT)


@pytest.fixture(scope="module")
def scratch(tmp_path_factory):
    return tmp_path_factory.mktemp("golden_runs")


def section(name: str, scratch: pathlib.Path, **changes) -> dict:
    """The config that a run keeps, with its caches in `scratch`."""
    c = make_golden_runs.change(open_run(RUNS / name).config, {})
    c["cache_dir"] = str(scratch / "cache")
    for source in c["data"]["sources"].values():
        source["data_dir"] = str(scratch / "world")
    return make_golden_runs.change(c, changes)


def test_there_is_a_run_of_each_objective():
    assert set(NAMES) == set(make_golden_runs.RUNS)
    objectives = {open_run(RUNS / name).config["objective"]["name"] for name in NAMES}
    assert objectives == {"language_model", "preference", "reward_model"}


@pytest.mark.parametrize("name", NAMES)
def test_opens_and_computes_what_it_did(name):
    run = open_run(RUNS / name)
    assert run.steps == [run.config["steps"]]
    assert run.config == json.loads((RUNS / name / "config.json").read_text())
    assert run.meta()["config"] == run.config
    actual = make_golden_runs.answers(run)
    with np.load(f"{RUNS / name}.npz") as expected:
        assert set(actual) == set(expected.files)
        for part in expected.files:
            if expected[part].dtype == np.float32:
                assert actual[part].dtype == np.float32
                np.testing.assert_allclose(
                    actual[part], expected[part], rtol=0, atol=1e-5, err_msg=part
                )
            else:
                np.testing.assert_array_equal(actual[part], expected[part], part)


def started(kind: str, start: str, scratch: pathlib.Path) -> dict:
    """The config of one step of a run of a kind, from another run."""
    changes = {"init.run": str(RUNS / start), "steps": 1, "schedule.warmup_steps": 0}
    return section(kind, scratch, **changes, **{"checkpoint.every": 1})


@pytest.mark.parametrize(
    ("kind", "start"),
    [
        ("sft", "language_model"),
        ("dpo", "sft"),
        ("kto", "dpo"),
        ("lora", "kto"),
        ("lora", "lora"),
        ("reward_model", "moving"),
    ],
)
def test_another_run_can_start_from_it(kind, start, scratch):
    built = build.build(started(kind, start, scratch))
    assert built.parent.digest() == open_run(RUNS / start).digest()
    assert built.json["objective"] == open_run(RUNS / kind).config["objective"]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["reward_model", "lora"])
def test_another_run_trains_from_it(name, scratch):
    workdir = scratch / f"from {name}"
    assert train.train(started(name, name, scratch), workdir) == errors.DONE
    run = open_run(workdir)
    assert run.meta()["data"]["init"] == open_run(RUNS / name).digest()
    if name == "lora":  # the reference has the adapters that the policy starts with
        assert run.metrics()[0]["loss"] == pytest.approx(np.log(2), abs=1e-6)


def test_goes_on_from_its_checkpoint(scratch):
    """With the optimizer, the averaged weights and the moving reference it kept."""
    workdir = scratch / "goes on"
    shutil.copytree(RUNS / "moving", workdir)
    (last,) = open_run(workdir).steps
    changes = {"steps": last + 1, "checkpoint.accept": ["steps"]}
    c = section("moving", scratch, **changes)
    assert train.train(c, workdir) == errors.DONE
    run = open_run(workdir)
    assert run.steps[-1] == last + 1
    assert [row["step"] for row in run.metrics()] == [last]  # from 0
