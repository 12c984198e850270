# SPDX-License-Identifier: Apache-2.0
"""A pool of workers: retries, what stops a sweep, and what is not done again.

The workers here are small programs that end as they are told, without jax.
"""

import pathlib
import subprocess
import sys

import pytest

from alignjax import errors
from alignjax.ablation import measure, running, states
from alignjax.checkpoint import step_folders
from alignjax.tracking import progress
from tests.ablation import made_up

# Answers each job with the next of the codes in a file; a negative one ends it.
WORKER = """
import json, os, pathlib, sys
for line in sys.stdin:
    job = json.loads(line)
    path = pathlib.Path(job["workdir"]).parent / "codes"
    code, *rest = path.read_text().split()
    path.write_text(" ".join(rest))
    if int(code) < 0:
        os.kill(os.getpid(), -int(code))
    print(json.dumps({"code": int(code), "error": None, "seconds": 1.0}), flush=True)
"""


@pytest.fixture
def pool(tmp_path, monkeypatch):
    def start(self):
        process = subprocess.Popen(
            [sys.executable, "-c", WORKER],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._processes.append(process)
        return process

    monkeypatch.setattr(running._Pool, "_start", start)

    def run(codes, plan=None, retry=False):
        (tmp_path / "codes").write_text(codes)
        plan = plan or made_up.plan(arms=("dpo", "ipo"), seeds=2)
        options = running.Options(1, retry, False, "cache", None)
        terminal = progress.Terminal()
        return running.run(plan, plan.runs, tmp_path, None, options, terminal)

    return run


def states_of(folder):
    return [record["state"] for record in states.read(folder).values()]


def test_preempted_and_killed_runs_are_started_once_more(pool, tmp_path):
    assert pool("75 0 -9 0 0 0") == errors.DONE
    assert states_of(tmp_path) == ["done"] * 4
    assert (tmp_path / "codes").read_text() == ""
    (tmp_path / "sweep.jsonl").unlink()
    assert pool("76 76 0 0 0") == errors.HANG
    assert states_of(tmp_path) == ["interrupted", "done", "done", "done"]


def test_a_refused_config_stops_the_sweep_and_a_diverged_run_does_not(pool, tmp_path):
    assert pool("77 0 78 0") == errors.NON_FINITE
    assert states_of(tmp_path) == ["failed", "done", "failed", "queued"]
    # None has a checkpoint, so all are started again, but for the one that diverged.
    assert pool("0 0 0") == errors.DONE
    assert states_of(tmp_path) == ["failed", "done", "done", "done"]
    assert pool("0 0 0 0", retry=True) == errors.DONE
    assert states_of(tmp_path) == ["done"] * 4


def test_what_is_done_is_skipped(pool, tmp_path, capsys):
    plan = made_up.plan(arms=("dpo", "ipo"), seeds=2)
    made_up.write(tmp_path, plan, {"dpo": 0.1, "ipo": 0.2})
    assert pool("", plan) == errors.DONE
    assert "4 are done; 0 jobs" in capsys.readouterr().out
    for run in plan.runs[:2]:
        workdir = tmp_path / run.folder
        steps = measure.steps_of(run.section, workdir, 1)
        assert steps == [made_up.STEPS]
        path = workdir / measure.FILE
        assert measure.is_measured(path, [10, 20], made_up.SUITE)
        assert not measure.is_measured(path, [20], made_up.SUITE)
        assert not measure.is_measured(path, [10, 20], "other")


def test_checkpoints_of_an_interruption_are_not_measured(tmp_path):
    for step in (5, 10, 15, 17, 20):
        marker = tmp_path / "checkpoints" / str(step) / step_folders.MARKER
        marker.parent.mkdir(parents=True)
        marker.touch()
    section = {"steps": 20, "checkpoint": {"every": 5}}
    assert measure.steps_of(section, tmp_path, 2) == [10, 20]
    assert measure.steps_of(section, tmp_path, 9) == [5, 10, 15, 20]
    assert measure.steps_of(section, pathlib.Path("nothing"), 2) == []
