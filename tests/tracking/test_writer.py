# SPDX-License-Identifier: Apache-2.0
"""What a run writes, alone and resumed, on a terminal, in a pipe and beside others."""

import io
import json
import math
import subprocess
import sys
import time

import jax.numpy as jnp
import numpy as np
import pytest
from tensorboardX.proto import event_pb2

from alignjax import errors
from alignjax.tracking import journal, writer


class FakeTerminal(io.StringIO):
    def isatty(self):
        return True


def run(workdir, start, stop, *, total=20, **options):
    options = dict(stdout=io.StringIO(), tensorboard=False) | options
    with writer.Writer(workdir, total_steps=total, start_step=start, **options) as out:
        for step in range(start, stop):
            out.write(step, {"loss": 1 / (step + 1), "tokens": 64 * (step + 1)})


def without_timing(workdir):
    return [
        {k: v for k, v in record.items() if k not in writer.TIMING_KEYS}
        for record in journal.read(workdir / "metrics.jsonl")
    ]


def events(workdir):
    """Events as TensorBoard shows them: a restart hides the steps that it repeats."""
    shown = []
    for path in sorted((workdir / "tensorboard").iterdir()):
        data, at = path.read_bytes(), 0
        while at < len(data):
            size = int.from_bytes(data[at : at + 8], "little")
            event = event_pb2.Event.FromString(data[at + 12 : at + 12 + size])
            at += 12 + size + 4
            if event.HasField("session_log"):
                shown = [e for e in shown if e.step < event.step]
            elif event.HasField("summary"):
                shown.append(event)
    return shown


def test_a_record_has_step_metrics_and_time(tmp_path):
    before = time.time()
    with writer.Writer(
        tmp_path, total_steps=3, stdout=io.StringIO(), tensorboard=False
    ) as out:
        out.write(0, {"loss": jnp.float32(0.1), "norm": np.float32(3), "tokens": 7})
    [record] = journal.read(tmp_path / "metrics.jsonl")
    expected = {"step": 0, "loss": float(np.float32(0.1)), "norm": 3.0, "tokens": 7}
    assert before - 0.001 <= record.pop("time") <= time.time() + 0.001
    assert record == expected
    assert "time" in writer.TIMING_KEYS


def test_resumed_run_agrees_with_uninterrupted_in_all_but_timing(tmp_path):
    for name in ("whole", "parts"):
        (tmp_path / name).mkdir()
    run(tmp_path / "whole", 0, 20)
    run(tmp_path / "parts", 0, 13)
    run(tmp_path / "parts", 10, 20)
    assert without_timing(tmp_path / "parts") == without_timing(tmp_path / "whole")
    log = (tmp_path / "parts/log.txt").read_text()
    assert "going on at step 10; dropped 3 records" in log
    assert "going on" not in (tmp_path / "whole/log.txt").read_text()


def test_missing_steps_are_said(tmp_path):
    run(tmp_path, 0, 4)
    stdout = io.StringIO()
    run(tmp_path, 6, 7, stdout=stdout)
    assert "2 of the 6 steps before this start are missing" in stdout.getvalue()


def test_a_pipe_gets_plain_lines_now_and_then_and_the_last(tmp_path):
    stdout = io.StringIO()
    run(tmp_path, 0, 18, total=18, stdout=stdout, every=5)
    lines = stdout.getvalue().splitlines()
    done = [line.split("/")[0].split()[1] for line in lines]
    assert done == ["5", "10", "15", "18"]
    assert "\r" not in stdout.getvalue() and "\x1b" not in stdout.getvalue()
    logged = (tmp_path / "log.txt").read_text().splitlines()
    assert [line.split(" ", 2)[2] for line in logged] == lines


def test_a_terminal_gets_one_line_and_the_log_stays_plain(tmp_path):
    stdout = FakeTerminal()
    run(tmp_path, 0, 20, stdout=stdout, every=5)
    assert stdout.getvalue().count("\n") == 1
    assert "step 20/20" in stdout.getvalue().split("\r")[-1]
    log = (tmp_path / "log.txt").read_text()
    assert "\r" not in log and len(log.splitlines()) == 4


def test_a_note_is_in_the_log_alone(tmp_path):
    stdout, options = io.StringIO(), dict(total_steps=1, tensorboard=False)
    with writer.Writer(tmp_path, stdout=stdout, **options) as log:
        log.note("printed before")
    assert stdout.getvalue() == ""
    assert (tmp_path / "log.txt").read_text().endswith(" printed before\n")


def test_evaluation_always_shows(tmp_path):
    stdout = io.StringIO()
    with writer.Writer(
        tmp_path, total_steps=100, stdout=stdout, tensorboard=False, every=50
    ) as out:
        out.write(6, {"loss": 3.0, "eval/loss": 3.5})
    assert stdout.getvalue().splitlines()[-1] == "step   7/100  loss 3  eval 3.5"


def test_text_goes_to_a_file_the_log_and_the_screen(tmp_path):
    stdout = io.StringIO()
    with writer.Writer(
        tmp_path, total_steps=10, stdout=stdout, tensorboard=False
    ) as out:
        out.text(5, "sample-0", "Once upon ä time\nthere was")
    file = tmp_path / "samples/00000005-sample-0.txt"
    assert file.read_text(encoding="utf-8") == "Once upon ä time\nthere was"
    assert "sample-0 at step 5:\nOnce upon ä time" in stdout.getvalue()
    assert "there was" in (tmp_path / "log.txt").read_text()


def test_tensorboard_shows_every_step_once_after_resuming(tmp_path):
    run(tmp_path, 0, 8, tensorboard=True)
    run(tmp_path, 5, 10, tensorboard=True)
    losses = {
        event.step: value.simple_value
        for event in events(tmp_path)
        for value in event.summary.value
        if value.tag == "loss"
    }
    assert losses == {step: float(np.float32(1 / (step + 1))) for step in range(10)}
    shown = [
        e.step for e in events(tmp_path) for v in e.summary.value if v.tag == "loss"
    ]
    assert sorted(shown) == list(range(10))


def test_tensorboard_takes_texts_and_non_finite_numbers(tmp_path):
    with writer.Writer(tmp_path, total_steps=2, stdout=io.StringIO()) as out:
        out.write(0, {"loss": math.nan})
        out.text(0, "sample", "Once")
    tags = {v.tag for e in events(tmp_path) for v in e.summary.value}
    assert "loss" in tags and any("sample" in tag for tag in tags)


def test_other_processes_write_nothing(tmp_path):
    with writer.Writer(tmp_path, total_steps=2, active=False, wandb="none") as out:
        out.write(0, {"loss": 1.0})
        out.text(0, "sample", "Once")
        out.say("hello")
        out.sync()
    assert list(tmp_path.iterdir()) == []


def test_a_step_is_written_once(tmp_path):
    run(tmp_path, 0, 3)
    with (
        writer.Writer(
            tmp_path,
            total_steps=9,
            start_step=3,
            stdout=io.StringIO(),
            tensorboard=False,
        ) as out,
        pytest.raises(ValueError, match="step 2 is not after 2"),
    ):
        out.write(2, {"loss": 1.0})


def test_wandb_is_refused_by_name_where_it_is_missing(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    start = writer.Writer(tmp_path, total_steps=2, wandb="project")
    with pytest.raises(errors.ConfigError, match=r"wandb: .*alignjax\[wandb\]"), start:
        pass
    assert list(tmp_path.iterdir()) == []


def test_a_resumed_run_goes_on_in_the_same_wandb_run(tmp_path, monkeypatch):
    class FakeWandb:
        started, logged, finished = [], [], 0

        def init(self, **options):
            self.started.append(options)
            return self

        def log(self, metrics, step):
            self.logged.append((step, metrics))

        def finish(self):
            self.finished += 1

    fake = FakeWandb()
    monkeypatch.setitem(sys.modules, "wandb", fake)
    run(tmp_path, 0, 2, wandb="project", settings={"seed": 1})
    run(tmp_path, 2, 3, wandb="project", settings={"seed": 1})
    assert [s["id"] for s in fake.started] == [fake.started[0]["id"]] * 2
    assert fake.started[0]["project"] == "project"
    assert fake.started[0]["config"] == {"seed": 1}
    assert [step for step, _ in fake.logged] == [0, 1, 2]
    assert fake.logged[1][1]["loss"] == 0.5
    assert fake.finished == 2


def test_importing_it_imports_no_jax_and_no_tensorboard():
    program = (
        "import sys\n"
        "from alignjax.tracking import writer\n"
        "print([m for m in ('jax', 'tensorboardX', 'wandb') if m in sys.modules])\n"
    )
    output = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert output.stdout.strip() == "[]"


def test_metrics_are_strict_json(tmp_path):
    with writer.Writer(
        tmp_path, total_steps=2, stdout=io.StringIO(), tensorboard=False
    ) as out:
        out.write(0, {"loss": math.inf, "grad_norm": math.nan})
    refuse = lambda name: pytest.fail(f"{name} is not JSON")
    text = (tmp_path / "metrics.jsonl").read_text()
    assert json.loads(text, parse_constant=refuse)["loss"] == "Infinity"
