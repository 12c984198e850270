# SPDX-License-Identifier: Apache-2.0
"""A run begins where nothing can be lost, and never forgets that it has saved."""

import json
import os
import pathlib
import shutil

import pytest

from alignjax import errors
from alignjax.checkpoint import step_folders
from alignjax.tracking import journal
from tests.fixtures import tiny

ONE = tiny.abstract(tiny.mesh_of(1))


def content(path: pathlib.Path) -> dict[str, bytes | None]:
    """Every file and folder below `path`."""
    paths = {str(p.relative_to(path)): p for p in path.rglob("*")}
    return {n: p.read_bytes() if p.is_file() else None for n, p in paths.items()}


def refused(workdir, error):
    """The message with which a workdir is refused, in which nothing changes."""
    before = content(workdir)
    with pytest.raises(error) as caught, tiny.checkpoints_of(workdir) as checkpoints:
        checkpoints.restore_or_init(ONE, lambda: "fresh")
    assert content(workdir) == before
    return str(caught.value)


def begins(workdir) -> None:
    with tiny.checkpoints_of(workdir) as checkpoints:
        assert checkpoints.restore_or_init(ONE, lambda: "fresh") == ("fresh", None)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A run of 12 steps, saved at 5 and 10."""
    workdir = tmp_path_factory.mktemp("saved")
    tiny.save(workdir, 5, 10, like=ONE)
    record(workdir, 12)
    return workdir


@pytest.fixture
def run(saved, tmp_path):
    shutil.copytree(saved, tmp_path / "run")
    return tmp_path / "run"


def record(workdir, steps: int) -> None:
    book, _ = journal.open_at(workdir / "metrics.jsonl", 0)
    for step in range(steps):
        book.write(step, {"loss": 1.0})
    book.close()


MODEL = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": 9}
OCCUPIED = {
    "a model's folder": {"config.json": MODEL, "model.safetensors": "", "vocab": ""},
    "a model's config alone": {"config.json": MODEL},
    "a config that is no JSON": {"config.json": "{"},
    "a config that is a list": {"config.json": []},
    "a trainer's checkpoints": {"checkpoints/epoch=1.ckpt": "weights"},
    "another program's steps": {
        f"checkpoints/100/{step_folders.MARKER}": "",
        "a.py": "",
    },
    "another program's steps alone": {f"checkpoints/100/{step_folders.MARKER}": ""},
    "steps without markers": {"checkpoints/100/params/x": ""},
    "its metrics": {"metrics.jsonl": '{"step": 0}'},
    "its logs": {"log.txt": "mine"},
    "its samples": {"samples/mine.txt": "mine"},
    "a quarantine": {"quarantine/patients.csv": "mine"},
    "some folder": {"thesis/chapter1.tex": "mine"},
}


def fill(workdir: pathlib.Path, files) -> None:
    for name, value in files.items():
        file = workdir / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(value if isinstance(value, str) else json.dumps(value))


@pytest.mark.parametrize("files", OCCUPIED.values(), ids=OCCUPIED)
def test_what_is_of_something_else_is_not_written_over(tmp_path, files):
    fill(tmp_path, files)
    message = refused(tmp_path, errors.ConfigError)
    assert message.startswith(f"workdir: {tmp_path}")
    first = sorted(files)[0]
    assert first in message or first.rpartition("/")[0].split("/")[0] in message


FREE = {
    "empty": {},
    "what was set up beside it": {".gitignore": "*", "slurm-1.out": "", "run.log": ""},
    "an interrupted start": {"config.json.tmp": "{"},
    "an interrupted save": {"checkpoints/5.orbax-checkpoint-tmp/x": ""},
    "a start without a step": {
        "config.json": tiny.CONFIG,
        "tokenizer/bytes.json": "{}",
        "checkpoints/5.orbax-checkpoint-tmp/x": "",
    },
}


@pytest.mark.parametrize("files", FREE.values(), ids=FREE)
def test_a_run_begins_where_nothing_is_lost(tmp_path, files):
    fill(tmp_path, files)
    begins(tmp_path)


def test_the_cache_may_lie_in_the_workdir(tmp_path):
    fill(tmp_path, {"cache/tokens/x": ""})
    known = {**tiny.CONFIG, "cache_dir": str(tmp_path / "cache")}
    with tiny.checkpoints_of(tmp_path, config=known) as checkpoints:
        assert checkpoints.restore_or_init(ONE, lambda: "fresh") == ("fresh", None)
    refused(tmp_path / "cache", errors.ConfigError)


def test_files_of_ones_own_may_be_added_to_a_run(run):
    fill(run, {"notes.md": "mine", "checkpoints/notes.md": "mine"})
    assert tiny.restore(run, ONE)[1] == 10


def test_a_run_without_its_config_goes_on_by_its_steps(run):
    (run / "config.json").unlink()
    assert tiny.restore(run, ONE)[1] == 10


@pytest.mark.parametrize("lost", ["checkpoints", "checkpoints/5 checkpoints/10"])
def test_a_run_that_lost_its_checkpoints_does_not_begin_again(run, lost):
    for name in lost.split():
        shutil.rmtree(run / name)
    message = refused(run, errors.CheckpointError)
    assert str(run / "checkpoints") in message and "metrics.jsonl" in message
    (run / "metrics.jsonl").unlink()  # the remedy
    (run / "checkpoints").mkdir(exist_ok=True)
    begins(run)


def test_a_run_whose_checkpoints_lost_their_markers_does_not_begin_again(run):
    for step in (5, 10):
        (run / "checkpoints" / str(step) / step_folders.MARKER).unlink()
    message = refused(run, errors.CheckpointError)
    assert "[5, 10]" in message and step_folders.MARKER in message
    (run / "metrics.jsonl").unlink()
    refused(run, errors.CheckpointError)
    (run / "checkpoints" / "10" / step_folders.MARKER).touch()  # the remedy
    state, step = tiny.restore(run, ONE)
    assert step == 10 and tiny.bits(state) == tiny.bits(tiny.state_at(10, ONE))


LEFT = {
    "a deletion that was interrupted": "checkpoints/7.deleted/params/x",
    "a later save that was": "checkpoints/10.orbax-checkpoint-tmp-1/params/x",
    "its samples": "samples/00000010-sample-0.txt",
    "its log": "log.txt",
}


@pytest.mark.parametrize("name", LEFT.values(), ids=LEFT)
def test_whatever_is_left_of_a_run_that_saved_keeps_it_from_beginning(tmp_path, name):
    """Each alone, beside the config, whatever else of the run was not copied."""
    fill(tmp_path, {"config.json": tiny.CONFIG})
    (tmp_path / "checkpoints").mkdir()
    begins(tmp_path)
    fill(tmp_path, {name: "2026-01-01 00:00:00 step 11/40  loss 1.5\n"})
    message = refused(tmp_path, errors.CheckpointError)
    assert str(tmp_path / "checkpoints") in message and "another workdir" in message


UNREAD = ["", "{", "[]", "null", "7", "{}", '{"model": 5}', '{"model": {}, "data": 1}']


@pytest.mark.parametrize("text", UNREAD)
def test_a_run_whose_config_is_damaged_goes_on_by_its_steps(run, text):
    (run / "config.json").write_text(text)
    assert tiny.restore(run, ONE)[1] == 10
    assert json.loads((run / "config.json").read_text()) == tiny.CONFIG


def test_a_run_goes_on_whatever_lies_between_its_steps(run):
    """Stale, newer, foreign and half-copied things at once."""
    fill(run, {"checkpoints/3.deleted": "a file", "checkpoints/4": "a file"})
    fill(run, {"checkpoints/12/params/x": "", "checkpoints/mine.deleted": "mine"})
    fill(run, {"checkpoints/15.orbax-checkpoint-tmp/x": "", "quarantine/2-1/x": ""})
    fill(run, {"LOCK": "{}", "config.json.1f.tmp": "{", "log.txt": "step 99/100"})
    os.utime(run / "LOCK", (0, 0))
    assert tiny.restore(run, ONE)[1] == 10
    left = {path.name for path in (run / "checkpoints").iterdir()}
    assert left == {"5", "10", "mine.deleted"}
    aside = {path.name.partition("-")[0] for path in (run / "quarantine").iterdir()}
    assert aside == {"2", "4", "12"}


def test_a_start_without_a_step_is_said_and_one_without_its_folder_refused(tmp_path):
    """The folder of steps is older than config.json: without it something is gone."""
    with tiny.checkpoints_of(tmp_path) as checkpoints:
        assert checkpoints.notes == []
    fill(tmp_path, {"tokenizer/bytes.json": "{}"})
    with tiny.checkpoints_of(tmp_path) as checkpoints:
        assert checkpoints.restore_or_init(ONE, lambda: "fresh") == ("fresh", None)
        (note,) = checkpoints.notes
        assert str(tmp_path) in note and "step 0" in note
    (tmp_path / "checkpoints").rmdir()
    assert "empty folder" in refused(tmp_path, errors.CheckpointError)
    (tmp_path / "checkpoints").mkdir()  # the remedy
    begins(tmp_path)


@pytest.mark.parametrize("steps", [1, 5, 10])
def test_a_run_killed_before_its_first_save_begins_again(tmp_path, steps):
    """The first save is known to be complete once the second begins, at step 10."""
    begins(tmp_path)
    record(tmp_path, steps)
    begins(tmp_path)
    record(tmp_path, 11)
    refused(tmp_path, errors.CheckpointError)
