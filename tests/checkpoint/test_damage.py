# SPDX-License-Identifier: Apache-2.0
"""Whatever happens to its files, a step restores exactly or is refused by name."""

import gc
import json
import os
import pathlib
import random
import shutil

import pytest

from alignjax import analysis, errors
from alignjax.checkpoint import step_folders
from alignjax.storage import fingerprint, json_files
from tests.fixtures import tiny

# Storage leaves coroutines behind where a read fails half-way.
pytestmark = [
    pytest.mark.usefixtures("collected"),
    pytest.mark.filterwarnings("ignore:coroutine .* was never awaited:RuntimeWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

ONE = tiny.abstract(tiny.mesh_of(1))


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A workdir with the steps 5, 10 and 15."""
    workdir = tmp_path_factory.mktemp("run")
    with tiny.checkpoints_of(workdir) as checkpoints:
        for step in (5, 10, 15):
            checkpoints.maybe_save(step, tiny.state_at(step, ONE))
    return workdir


@pytest.fixture
def collected():
    yield
    gc.collect()  # while their warnings are ignored


@pytest.fixture
def copy(run, tmp_path):
    shutil.copytree(run, tmp_path / "run")
    return tmp_path / "run"


BITS = {step: tiny.bits(tiny.state_at(step, ONE)) for step in (5, 10, 15, 20, 25)}


def outcome(path: pathlib.Path, expected: str) -> str:
    """How a step fares on its own: "exact", or the reason for which it is refused."""
    items = step_folders.as_items(ONE)
    try:
        meta = step_folders.read_meta(path)
        assert meta["config"] == tiny.CONFIG and meta["step"] == int(path.name)
        loaded = step_folders.read(path, items)
        step_folders.verify(path, meta, fingerprint.fingerprints(loaded))
    except errors.BrokenStep as error:
        return str(error)
    assert tiny.bits(step_folders.as_state(loaded, ONE)) == expected, "silently wrong"
    return "exact"


def flip_bits(run, tmp_path, seed: int, trials: int) -> dict[str, int]:
    rng = random.Random(seed)
    source = run / "checkpoints" / "15"
    names = [
        str(p.relative_to(source)) for p in tiny.files_of(source) if p.stat().st_size
    ]
    seen = {"exact": 0, "refused": 0, "by fingerprint": 0}
    for trial in range(trials):
        step = tmp_path / f"{seed}-{trial}" / "15"
        shutil.copytree(source, step)
        file = step / names[trial % len(names)]
        content = bytearray(file.read_bytes())
        place = rng.randrange(len(content) * 8)
        content[place // 8] ^= 1 << place % 8
        file.write_bytes(content)
        result = outcome(step, BITS[15])
        assert result == "exact" or str(step) in result, result
        seen["exact" if result == "exact" else "refused"] += 1
        seen["by fingerprint"] += "fingerprint" in result
        shutil.rmtree(step.parent)
    return seen


def test_flipped_bits_are_never_silent(run, tmp_path):
    seen = flip_bits(run, tmp_path, seed=0, trials=100)
    print(seen)
    assert seen["refused"] >= 40 and seen["by fingerprint"] >= 10, seen


@pytest.mark.slow
def test_flipped_bits_are_never_silent_at_length(run, tmp_path):
    for seed in range(1, 11):
        flip_bits(run, tmp_path, seed=seed, trials=100)


def test_every_file_deleted_or_cut_short(run, tmp_path):
    source = run / "checkpoints" / "15"
    for number, name in enumerate(tiny.files_of(source)):
        for kind in ("deleted", "halved", "emptied", "zeroed"):
            step = tmp_path / f"{number}-{kind}" / "15"
            shutil.copytree(source, step)
            file = step / name.relative_to(source)
            content = file.read_bytes()
            if kind == "deleted":
                file.unlink()
            else:
                left = {"halved": content[: len(content) // 2], "emptied": b""}
                file.write_bytes(left.get(kind, bytes(len(content))))
            result = outcome(step, BITS[15])
            assert result == "exact" or str(step) in result, result
            array_data = name.parent.name == "d" and kind == "zeroed"
            if array_data or (name.name == "data.json" and content):
                assert result != "exact", (name, kind)


@pytest.mark.parametrize("item", ["params", "train", "meta"])
def test_every_item_deleted(copy, item):
    shutil.rmtree(copy / "checkpoints" / "15" / item)
    assert outcome(copy / "checkpoints" / "15", BITS[15]) != "exact"


def test_broken_newest_is_set_aside_and_training_goes_on(copy, caplog):
    tiny.damage(copy, 15)
    with tiny.checkpoints_of(copy) as checkpoints:
        state, step = checkpoints.restore_or_init(ONE, tiny.never)
        assert step == 10 and tiny.bits(state) == BITS[10]
        ((broken, why),) = checkpoints.quarantined
        assert broken == 15 and "fingerprint" in why and "params/" in why
        assert "quarantine" in caplog.text
        # The step that was broken is saved again when it comes, and the next.
        assert checkpoints.maybe_save(15, tiny.state_at(15, ONE))
        assert checkpoints.maybe_save(20, tiny.state_at(20, ONE))
        checkpoints.wait()
        assert checkpoints.steps == [10, 15, 20]
    (kept,) = os.listdir(copy / "quarantine")
    assert kept.startswith("15-")
    with tiny.checkpoints_of(copy) as checkpoints:
        state, step = checkpoints.restore_or_init(ONE, tiny.never)
        assert step == 20 and tiny.bits(state) == BITS[20]
        assert checkpoints.quarantined == []


def test_two_broken_are_set_aside(copy):
    tiny.damage(copy, 10, 15)
    with tiny.checkpoints_of(copy) as checkpoints:
        state, step = checkpoints.restore_or_init(ONE, tiny.never)
        assert step == 5 and tiny.bits(state) == BITS[5]
        assert [s for s, _ in checkpoints.quarantined] == [15, 10]


def test_all_broken_stops_and_deletes_nothing(copy):
    tiny.damage(copy, 5, 10, 15)
    with (
        pytest.raises(errors.CheckpointError, match="3 checkpoints in a row") as error,
        tiny.checkpoints_of(copy) as checkpoints,
    ):
        checkpoints.restore_or_init(ONE, tiny.never)
    for step in (5, 10, 15):
        assert f"step {step}: " in str(error.value)
    assert os.listdir(copy / "checkpoints") == ["5"]
    assert len(os.listdir(copy / "quarantine")) == 2
    # Nor does a stubborn supervisor get the run to begin again.
    for _ in range(2):
        with (
            pytest.raises(errors.CheckpointError, match="no sound checkpoint"),
            tiny.checkpoints_of(copy) as checkpoints,
        ):
            checkpoints.restore_or_init(ONE, tiny.never)
    assert len(os.listdir(copy / "quarantine")) == 3
    shutil.rmtree(copy / "quarantine")
    with tiny.checkpoints_of(copy) as checkpoints:
        assert checkpoints.restore_or_init(ONE, lambda: "fresh") == ("fresh", None)


def test_incomplete_copies_and_junk_are_never_chosen(copy, caplog):
    directory = copy / "checkpoints"
    (directory / "99").mkdir()
    shutil.copytree(directory / "15", directory / "98")
    (directory / "98" / step_folders.MARKER).unlink()
    (directory / "97.orbax-checkpoint-tmp").mkdir()
    for name in ("0100", "-1", "1e3", "²", "100000000000"):
        shutil.copytree(directory / "15", directory / name)
    (directory / "notes.txt").write_text("mine")
    with tiny.checkpoints_of(copy) as checkpoints:
        assert checkpoints.steps == [5, 10, 15]
        assert checkpoints.restore_or_init(ONE, tiny.never)[1] == 15
        assert [step for step, _ in checkpoints.quarantined] == [98, 99]
    assert caplog.text.count("moving a broken checkpoint") == 2
    assert (directory / "notes.txt").exists() and (directory / "1e3").exists()


def test_a_step_without_its_marker_makes_way_for_later_saves(copy):
    """Saving does not write over a folder, whatever lacks in it."""
    (copy / "checkpoints" / "10" / step_folders.MARKER).unlink()
    shutil.copytree(copy / "checkpoints" / "10", copy / "checkpoints" / "20")
    content = [file.read_bytes() for file in tiny.files_of(copy / "checkpoints" / "20")]
    with tiny.checkpoints_of(copy) as checkpoints:
        assert checkpoints.restore_or_init(ONE, tiny.never)[1] == 15
        for step in (20, 25):
            assert checkpoints.maybe_save(step, tiny.state_at(step, ONE))
            checkpoints.wait()
        assert checkpoints.steps == [15, 20, 25]
    aside = sorted((copy / "quarantine").iterdir())
    assert [path.name.partition("-")[0] for path in aside] == ["10", "20"]
    assert [file.read_bytes() for file in tiny.files_of(aside[1])] == content
    state, step = tiny.restore(copy, ONE)
    assert step == 25 and tiny.bits(state) == BITS[25]


def test_steps_without_markers_do_not_count_as_broken_in_a_row(copy):
    for step in (20, 25, 30):
        (copy / "checkpoints" / str(step)).mkdir()
    tiny.damage(copy, 10, 15)
    with tiny.checkpoints_of(copy) as checkpoints:
        assert checkpoints.restore_or_init(ONE, tiny.never)[1] == 5
        steps = [step for step, _ in checkpoints.quarantined]
    assert steps == [20, 25, 30, 15, 10]


def test_step_under_another_name_is_refused(copy):
    """A renamed directory would resume with the wrong batch."""
    os.rename(copy / "checkpoints" / "15", copy / "checkpoints" / "17")
    with tiny.checkpoints_of(copy) as checkpoints:
        assert checkpoints.restore_or_init(ONE, tiny.never)[1] == 10
        assert "it is of step 15" in checkpoints.quarantined[0][1]


def rewrite(step: pathlib.Path, change) -> None:
    """Changes the meta of a step, and its hash with it."""
    meta = step_folders.read_meta(step)
    del meta["sha256"]
    meta = change(meta)
    meta["sha256"] = json_files.compact_digest(meta)
    (step / "meta" / "data.json").write_text(json.dumps(meta))


def leaf(name: str, **fields):
    """A change of the meta: other fields of a leaf, None for none."""

    def change(meta):
        leaf = {**meta["leaves"][name], **fields}
        leaf = {key: value for key, value in leaf.items() if value is not None}
        return {**meta, "leaves": {**meta["leaves"], name: leaf}}

    return change


SCALE = "params/layers/scale"
METAS = {
    "no leaves": lambda meta: {**meta, "leaves": {}},
    "leaves in a list": lambda meta: {**meta, "leaves": [*meta["leaves"]]},
    "no config": lambda meta: {k: v for k, v in meta.items() if k != "config"},
    "a config of null": lambda meta: {**meta, "config": None},
    "a config without a model": lambda meta: {**meta, "config": {}},
    "no data": lambda meta: {**meta, "data": None},
    "a step in words": lambda meta: {**meta, "step": "15"},
    "a format in words": lambda meta: {**meta, "format": "new"},
    "no fingerprint": leaf(SCALE, fingerprint=None),
    "another fingerprint": leaf(SCALE, fingerprint="0"),
    "no shape": leaf(SCALE, shape=None),
    "another shape": leaf(SCALE, shape=[2, 4]),
    "a negative shape": leaf(SCALE, shape=[-8]),
    "another type": leaf(SCALE, dtype="int8"),
    "no such type": leaf(SCALE, dtype="float31"),
}


@pytest.mark.parametrize("change", METAS.values(), ids=METAS)
def test_a_meta_that_was_made_by_hand_is_refused(copy, change):
    """Its hash is right, and so nothing but its content tells."""
    rewrite(copy / "checkpoints" / "15", change)
    run = analysis.open_run(copy)
    with pytest.raises(errors.BrokenStep, match=str(copy)):
        run.params(15)
    assert run.meta()["step"] in (10, 15)


def test_checkpoint_of_a_later_format_is_refused(copy):
    later = lambda meta: {**meta, "format": step_folders.IMPORTED + 1}
    rewrite(copy / "checkpoints" / "15", later)
    with (
        pytest.raises(errors.CheckpointError, match="newer than this code"),
        tiny.checkpoints_of(copy) as checkpoints,
    ):
        checkpoints.restore_or_init(ONE, tiny.never)
    assert (copy / "checkpoints" / "15").is_dir()
    assert not (copy / "LOCK").exists()
