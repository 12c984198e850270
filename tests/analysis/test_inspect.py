# SPDX-License-Identifier: Apache-2.0
"""Runs listed, sliced, verified and compared, and the figures of their leaves."""

import json
import pathlib
import shutil
import subprocess
import sys

import jax
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from alignjax import analysis, cli, errors, types
from alignjax.analysis import leaves
from alignjax.checkpoint import chunks, step_folders
from alignjax.huggingface import layout
from alignjax.storage import fingerprint, lazy
from tests.fixtures import tiny

RUNS = pathlib.Path(__file__).resolve().parents[1] / "golden" / "runs"
STEPS = (5, 10)


@pytest.fixture
def inspect(capsys, monkeypatch):
    """(exit code, what was printed, rows of JSON) of a command."""
    monkeypatch.chdir(RUNS.parents[2])

    def call(*arguments):
        try:
            code = cli.main(["inspect", *map(str, arguments)])
        except SystemExit as ended:  # of argparse
            code = ended.code
        printed = capsys.readouterr()
        text = printed.out + printed.err
        rows = text.splitlines() if "--json" in arguments else []
        return code, text, [json.loads(row) for row in rows]

    return call


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A workdir of two steps, of which every leaf differs by 5."""
    workdir = tmp_path_factory.mktemp("inspected") / "run"
    like = tiny.abstract(tiny.mesh_of(1))
    with tiny.checkpoints_of(workdir) as checkpoints:
        for step in STEPS:
            metrics = {f"eval/{i}": i / 3 for i in range(30)} | {"eval/loss": 1.5}
            checkpoints.maybe_save(step, tiny.state_at(step, like), metrics=metrics)
    return workdir


def test_steps_and_what_one_has(inspect, saved):
    code, text, _ = inspect("ls", saved, RUNS / "sft")
    assert code == 0 and "2 complete steps" in text and "eval/loss 1.5" in text
    assert max(map(len, text.splitlines())) < 140 + len(str(saved))
    _, text, _ = inspect("show", f"{saved}@5")
    assert "layers/w " in text and "bfloat16[8, 8, 8]" in text
    assert "31 metrics" in text and "eval/29" in text
    assert "train/opt_state" not in text
    assert "train/opt_state" in inspect("show", saved, "--train")[1]
    shown = inspect("show", RUNS / "lora")[1]
    assert shown.count("of its base") == 11 and "layers/q/lora_a" in shown


def test_what_changed_between_two_steps(inspect, saved):
    sides = [f"{saved}@{step}" for step in STEPS]
    _, _, rows = inspect("diff", *sides, "--layers", "--json")
    by_place = {(row["leaf"], row["layer"]): row for row in rows}
    # Every element is 1 in step 0, and its step is added to it.
    scale = by_place["layers/scale", None]
    assert scale["share"] == pytest.approx(5 / 6) and scale["largest"] == 5
    assert scale["cosine"] == pytest.approx(1) and scale["changed"] == 1
    assert by_place["layers/scale", 3]["share"] == scale["share"]
    assert {layer for leaf, layer in by_place if leaf == "layers/w"} >= {0, 7}
    assert "embed/kernel" in inspect("diff", *sides)[1]
    (same,) = inspect("diff", sides[0], sides[0], "--leaves=layers/w", "--json")[2][:1]
    assert (same["share"], same["largest"], same["changed"]) == (0, 0, 0)
    assert inspect("diff", *sides, "--train", "--json")[0] == 0


def test_adapters_are_merged_beside_a_model_without(inspect):
    base = analysis.open_run(RUNS / "lora").config["init"]["run"]
    _, _, rows = inspect("diff", base, RUNS / "lora", "--json")
    by_leaf = {row["leaf"]: row for row in rows}
    assert by_leaf["layers/q/kernel"]["share"] > 0 == by_leaf["embed"]["share"]
    first, second = map(analysis.open_run, (base, RUNS / "lora"))
    merged = layout.merge(second.leaves(), second.model.config)["layers/q/kernel"][...]
    change = merged - first.leaf("layers/q/kernel")
    assert by_leaf["layers/q/kernel"]["largest"] == pytest.approx(np.abs(change).max())
    # An adapter of rank 2, and a base rounded to fewer bits.
    _, _, rows = inspect("diff", base, RUNS / "lora", "--rank=2", "--json")
    q = next(row for row in rows if row["leaf"] == "layers/q/kernel")
    assert q["energy"] == pytest.approx(1, abs=1e-3)


def test_runs_of_other_shapes(inspect):
    code, _, rows = inspect("diff", RUNS / "sft", RUNS / "reward_model", "--json")
    notes = {row["leaf"]: row["note"] for row in rows if "note" in row}
    assert code == 0 and notes == {"score/kernel": "only in the second"}


def test_statistics_of_each_layer(inspect):
    options = ("--leaves=layers/q/kernel", "--layers", "--json")
    _, _, rows = inspect("stats", RUNS / "sft", *options)
    kernel = analysis.open_run(RUNS / "sft").leaf("layers/q/kernel").astype(np.float64)
    parts = [*kernel, kernel]
    assert [row["layer"] for row in rows] == [0, 1, None]
    for row, part in zip(rows, parts, strict=True):
        assert row["norm"] == pytest.approx(np.linalg.norm(part))
        assert row["std"] == pytest.approx(part.std())
        assert (row["min"], row["max"]) == (part.min(), part.max())
    code, text, _ = inspect("stats", RUNS / "sft", "--leaves=layers/q/kernle")
    assert code == errors.CONFIG and "did you mean 'layers/q/kernel'" in text


def test_statistics_of_what_is_not_finite():
    x = np.array([1.0, np.nan, -3.0, 0.0, np.inf], np.float32)
    figures = leaves.summarise(x).figures()
    assert (figures["nonfinite"], figures["zeros"]) == (2, 0.2)
    assert (figures["min"], figures["max"], figures["mean"]) == (-3, 1, -2 / 3)


@pytest.mark.parametrize("index", ["", "[0, :2, 0]", "[-1, ..., 1:]", "[:, ::-1]"])
def test_slices_are_those_of_numpy(inspect, tmp_path, index):
    out = tmp_path / "slice.npy"
    code, *_ = inspect("slice", RUNS / "sft", f"layers/q/kernel{index}", f"--out={out}")
    kernel = analysis.open_run(RUNS / "sft").leaf("layers/q/kernel")
    expected = {
        "": kernel,
        "[0, :2, 0]": kernel[0, :2, 0],
        "[-1, ..., 1:]": kernel[-1, ..., 1:],
        "[:, ::-1]": kernel[:, ::-1],
    }[index]
    assert code == 0
    np.testing.assert_array_equal(np.load(out), expected)


@pytest.mark.parametrize(
    ("leaf", "code", "hint"),
    [
        ("layers/q/kernle", errors.CHECKPOINT, "did you mean 'layers/q/kernel'"),
        ("layers/q/kernel[9]", errors.CONFIG, "out of bounds"),
        ("layers/q/kernel[0, 0, 0, 0, 0]", errors.CONFIG, "axes"),
        ("layers/q/kernel[..., ...]", errors.CONFIG, "axes"),
        ("layers/q/kernel[one]", errors.CONFIG, "one"),
        ("layers/q/kernel[", errors.CONFIG, "NAME[INDEX]"),
        ("train/step", errors.CHECKPOINT, "train/step"),
    ],
)
def test_slices_that_there_are_not(inspect, tmp_path, leaf, code, hint):
    run = RUNS / "sft"
    if leaf == "train/step":  # of a folder that has no state of an optimizer
        shutil.copytree(run, tmp_path / "run")
        run = tmp_path / "exported"
        assert cli.main(["convert", "export", str(tmp_path / "run"), str(run)]) == 0
    actual, text, _ = inspect("slice", run, leaf)
    assert actual == code and hint in text


def test_the_optimizers_state_is_sliced_too(inspect, saved):
    assert inspect("slice", saved, "train/step")[1].splitlines()[1] == "10"


def test_verification(inspect, saved, tmp_path):
    workdir = tmp_path / "run"
    shutil.copytree(saved, workdir)
    tiny.damage(workdir, 10)
    code, text, _ = inspect("verify", workdir)
    assert code == 1
    first, second = text.splitlines()
    assert first.startswith("step 5: all")
    assert second == "step 10: broken in 1 leaves: params/embed/kernel"
    assert inspect("verify", f"{workdir}@5")[0] == 0
    code, text, _ = inspect("verify", f"{workdir}@7")
    assert code == 1 and "step 7: absent: " in text
    (workdir / "checkpoints/5" / step_folders.MARKER).unlink()
    assert inspect("verify", workdir)[1].startswith("incomplete, and passed over: 5")
    (workdir / "checkpoints/10" / step_folders.MARKER).unlink()
    code, text, _ = inspect("verify", workdir)
    assert code == 1
    assert text == f"{workdir}: no complete step; incomplete: 5, 10\n"


def test_what_is_no_run(inspect, tmp_path):
    code, text, _ = inspect("ls", tmp_path / "absent")
    assert code == errors.CHECKPOINT and "is no run" in text
    assert inspect(tmp_path / "absent")[0] == errors.CONFIG
    (tmp_path / "config.json").write_text('{"model_type": "no_such"}')
    (tmp_path / "model.safetensors").write_bytes(b"")
    code, text, _ = inspect("stats", tmp_path)
    assert code == errors.CONFIG and "no_such" in text


def test_spectra():
    rng = np.random.default_rng(0)
    turn = np.linalg.qr(rng.normal(size=(3, 3)))[0]
    values = leaves.singular_values(np.diag([3, 2, 0.5]) @ turn)
    np.testing.assert_allclose(values, [3, 2, 0.5], atol=1e-12)
    one, two = (leaves.ranks(values, rank) for rank in (1, 2))
    assert one["energy"] == pytest.approx(0.6792452830, abs=1e-9)
    assert two["energy"] == pytest.approx(0.9811320755, abs=1e-9)
    assert one["entropy_rank"] == pytest.approx(2.5004354221, abs=1e-9)
    assert one["stable_rank"] == pytest.approx(1.4722222222, abs=1e-9)
    thin = leaves.singular_values(np.outer(np.arange(4.0), np.ones(9)))
    assert np.count_nonzero(thin) == 1


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """A workdir of a step with leaves of several chunks, one of them sharded."""
    workdir = tmp_path_factory.mktemp("large") / "run"
    rng, (mesh, rows) = np.random.default_rng(0), (tiny.mesh_of(2), PartitionSpec())
    across = NamedSharding(mesh, PartitionSpec(None, "fsdp"))
    arrays = {
        "embed": rng.integers(0, 9, (2**13, 1024)).astype(np.float32),
        "layers": {"w": rng.integers(0, 9, (3, 2048, 1024)).astype(np.float32)},
    }
    where = {"embed": NamedSharding(mesh, rows), "layers": {"w": across}}
    params = jax.device_put(arrays, where)
    with tiny.checkpoints_of(workdir) as checkpoints:
        checkpoints.maybe_save(5, types.TrainState(jax.numpy.int32(5), params, ()))
    return workdir, arrays


def test_large_leaves_are_cut_by_layer(large, monkeypatch):
    workdir, arrays = large
    sizes = []
    stored = chunks.stored

    def watched(*arguments):
        array = stored(*arguments)
        read = array._read
        array._read = lambda index: sizes.append(read(index).nbytes) or read(index)
        return array

    monkeypatch.setattr(chunks, "stored", watched)
    named = analysis.open_run(workdir).leaves()
    np.testing.assert_array_equal(
        named["layers/w"][1, 5:9, -2:], arrays["layers"]["w"][1, 5:9, -2:]
    )
    assert max(sizes) <= chunks.BYTES and sizes[-1] == 4 * 2 * 4
    np.testing.assert_array_equal(named["embed"][::-4096], arrays["embed"][::-4096])
    assert sum(sizes) < 3 * (arrays["embed"].nbytes + arrays["layers"]["w"].nbytes)
    np.testing.assert_array_equal(named["embed"], arrays["embed"])


def test_a_slice_of_a_damaged_large_leaf_is_refused(large, tmp_path):
    workdir, _ = large
    shutil.copytree(workdir, tmp_path / "run")
    data = (tmp_path / "run/checkpoints/5/params").rglob("*")
    file = max((f for f in data if f.is_file()), key=lambda f: f.stat().st_size)
    with open(file, "r+b") as handle:
        handle.seek(file.stat().st_size // 2)
        handle.write(b"\x01\x02\x03")
    named = analysis.open_run(tmp_path / "run").leaves()
    for _ in range(2):  # not only at the first look
        with pytest.raises(errors.BrokenStep):
            for leaf in named.values():
                leaf[0, :1]


@pytest.mark.slow
@pytest.mark.parametrize("command", ["slice", "diff"])
def test_memory_of_large_leaves(tmp_path, command):
    """A leaf of 512 MiB costs less than 100 MiB above what the imports take."""
    workdir = tmp_path / "run"
    params = {"layers": {"w": jax.numpy.ones((4, 4096, 8192), jax.numpy.float32)}}
    with tiny.checkpoints_of(workdir) as checkpoints:
        checkpoints.maybe_save(5, types.TrainState(jax.numpy.int32(5), params, ()))
    program = (
        "import resource, sys\n"
        "from alignjax.analysis import inspect, token_page, lens\n"
        "import jax; jax.jit(lambda x: x + 1)(1)\n"
        "peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "before = peak()\n"
        "code = inspect.main(sys.argv[1:])\n"
        "assert code == 0, code\n"
        "assert peak() - before < 100 * 1024, peak() - before\n"
    )
    last = {"slice": "layers/w[3, 7:9, :5]", "diff": str(workdir)}[command]
    arguments = [command, str(workdir), last]
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


def test_fingerprints_of_boxes_are_those_of_the_array():
    rng = np.random.default_rng(0)
    for dtype in (np.float32, np.int64, np.int8):
        x = rng.integers(-99, 99, (3, 5, 7)).astype(dtype)
        chunked = lazy.LazyArray(x.shape, dtype, x.__getitem__, chunk=lambda: (2, 3, 4))
        places = list(lazy.boxes(chunked))
        assert len(places) == 2 * 2 * 2
        boxes = [(tuple(s.start for s in box), x[box]) for box in places[::-1]]
        digits = fingerprint.of_boxes(x.shape, boxes)
        assert digits == fingerprint.of_pieces(x.dtype, [x])
        boxes[0] = (boxes[0][0], boxes[0][1] + 1)
        assert digits != fingerprint.of_boxes(x.shape, boxes)


@pytest.mark.parametrize("limit", [4, 28, 100, 10**6])
def test_boxes_cover_an_array_once(limit):
    x = np.zeros((3, 5, 7), np.float32)
    for box in lazy.boxes(x, limit, (1,)):
        assert x[box].nbytes <= limit
        x[box] += 1
    assert (x[1] == 1).all() and not x[0].any()
