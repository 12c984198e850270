# SPDX-License-Identifier: Apache-2.0
"""Runs made of several: exact where they must be, by their papers, and refused."""

import functools
import json
import pathlib
import shutil

import jax.numpy as jnp
import numpy as np
import pytest

from alignjax import analysis, cli, errors, trees, types
from alignjax.analysis import arithmetic, conversion, extraction, leaves, merge
from tests.fixtures import tiny

ROOT = pathlib.Path(__file__).resolve().parents[2]
RUNS = ROOT / "tests/golden/runs"
TOKENS = [72, 101, 108, 108]
# Task vectors A and B on a base of ones.
ONES = {"w": np.ones(6, np.float32)}
A = np.array([0.5, -0.2, 0, 0.1, -0.6, 0.05])
B = np.array([0.2, 0.3, -0.1, 0, -0.3, 0.4])


@pytest.fixture(autouse=True)
def at_the_root(monkeypatch):
    monkeypatch.chdir(ROOT)


@functools.cache
def run(name: str) -> analysis.Run:
    return analysis.open_run(RUNS / name).at()


def moved(vector) -> dict:
    return {"w": np.float32(1 + vector)}


def test_vectors_of_sums():
    assert leaves.compare(A, B).figures()["cosine"] == pytest.approx(0.4721565262)
    soup = arithmetic.average([moved(A), moved(B)], [1, 1])["w"][...]
    np.testing.assert_allclose(soup, [1.35, 1.05, 0.95, 1.05, 0.55, 1.225], atol=1e-7)
    both = arithmetic.add(ONES, [moved(A), moved(B)], [0.7, 0.7], ONES)["w"][...]
    np.testing.assert_allclose(both, [1.49, 1.07, 0.93, 1.07, 0.37, 1.315], atol=1e-7)
    other = {"w": np.full(6, 3, np.float32)}
    apart = arithmetic.add(ONES, [moved(A)], [-2.0], other)["w"][...]
    np.testing.assert_allclose(apart, 3 - 2 * A, atol=1e-6)


def test_ties():
    np.testing.assert_array_equal(
        arithmetic.trimmed(A, 0.5), [0.5, -0.2, 0, 0, -0.6, 0]
    )
    np.testing.assert_array_equal(arithmetic.trimmed(B, 0.5), [0, 0.3, 0, 0, -0.3, 0.4])
    sides = (ONES, [moved(A), moved(B)], [1.0, 1.0], ONES)
    change = arithmetic.ties(*sides, density=0.5)["w"][...] - 1
    np.testing.assert_allclose(change, [0.5, 0.3, 0, 0, -0.45, 0.4], atol=1e-6)
    every = arithmetic.ties(ONES, [moved(A)], [2.0], ONES, density=0.999)["w"][...]
    np.testing.assert_allclose(every, 1 + 2 * A, atol=1e-6)


def test_dare_is_the_sum_in_the_mean():
    rng = np.random.default_rng(0)
    thinned = [arithmetic.thinned(A, 0.75, rng) for _ in range(10_000)]
    np.testing.assert_allclose(np.mean(thinned, 0), A, atol=0.02)
    assert {round(float(x), 6) for x in np.ravel(thinned)} >= {0.0, 2.0, -0.8}
    sides = ({"layers/w": np.ones((2, 50))}, [{"layers/w": np.full((2, 50), 2.0)}])
    made = lambda seed: arithmetic.dare(*sides, [1.0], sides[0], 0.5, seed)["layers/w"]
    np.testing.assert_array_equal(made(1)[...], made(1)[...])
    assert (made(1)[...] != made(2)[...]).any()
    assert (made(1)[0] != made(1)[1]).any()  # layers have masks of their own


def test_slerp_is_on_the_arc():
    x = {"layers/w": np.array([[1, 0], [2, 0], [0, 0]], np.float32)}
    y = {"layers/w": np.array([[0, 1], [2, 0], [4, 0]], np.float32)}
    half = arithmetic.slerp(x, y, 0.5)["layers/w"][...]
    np.testing.assert_allclose(half[0], [0.5**0.5, 0.5**0.5], atol=1e-7)
    np.testing.assert_allclose(half[1:], [[2, 0], [2, 0]])  # parallel, and zero
    third = arithmetic.slerp(x, y, 1 / 3)["layers/w"][0]
    np.testing.assert_allclose(third, [np.cos(np.pi / 6), np.sin(np.pi / 6)], atol=1e-7)


@pytest.mark.parametrize("dtype", [np.float32, jnp.bfloat16])
def test_sums_keep_every_bit_of_what_they_leave_alone(dtype):
    x = np.array([1e-38, -0.0, 3e38, 0.1, np.nan, np.inf], np.float32)
    own, other = {"w": x.astype(dtype)}, {"w": np.arange(6).astype(dtype)}
    for merged in (
        arithmetic.average([own] * 3, [1, 1, 1]),
        arithmetic.average([other, own], [0, 2]),
        arithmetic.slerp(other, own, 1.0),
        arithmetic.slerp(own, other, 0.0),
        arithmetic.add(other, [own], [1.0], other),
    ):
        part = merged["w"][...]
        assert part.dtype == dtype and part.tobytes() == own["w"].tobytes()
    assert arithmetic.average([own, ONES], [1, 1])["w"].dtype == np.float32


def command(*arguments) -> int:
    return cli.main(["merge", *map(str, arguments)])


def test_averages_and_arcs_of_runs_are_exact(tmp_path):
    sft, dpo = RUNS / "sft", RUNS / "dpo"
    assert command("average", tmp_path / "same", sft, sft, sft) == 0
    assert command("slerp", tmp_path / "zero", sft, dpo, "--at=0") == 0
    assert command("slerp", tmp_path / "one", sft, dpo, "--at=1") == 0
    assert command("add", tmp_path / "added", f"--base={sft}", f"--add={dpo}") == 0
    digests = {x: analysis.open_run(tmp_path / x).digest() for x in ("same", "zero")}
    assert set(digests.values()) == {run("sft").digest()}
    for name in ("one", "added"):
        assert analysis.open_run(tmp_path / name).digest() == run("dpo").digest()
    merged = analysis.open_run(tmp_path / "same")
    np.testing.assert_array_equal(merged.logits(TOKENS), run("sft").logits(TOKENS))
    assert merged.chats == run("sft").chats


def test_the_recipe_is_in_the_config(tmp_path):
    weighted = merge.average([run("sft"), run("dpo")], [3, 1])
    new = merge.write(weighted, tmp_path / "soup")
    recipe = json.loads((tmp_path / "soup/config.json").read_text())["merged"]
    assert recipe == new.meta()["config"]["merged"]
    assert recipe["method"] == "average" and recipe["weights"] == [3, 1]
    digests = [run(name).digest() for name in ("sft", "dpo")]
    assert [parent["digest"] for parent in recipe["runs"]] == digests
    sides = [run(name).leaf("layers/q/kernel") for name in ("sft", "dpo")]
    np.testing.assert_allclose(
        new.leaf("layers/q/kernel"), 0.75 * sides[0] + 0.25 * sides[1], rtol=1e-6
    )


def test_adapters_become_a_whole_model(tmp_path, capsys):
    out = tmp_path / "whole"
    assert command("lora", out, RUNS / "lora", "--text=how do i bake bread?") == 0
    assert "KL(lora || whole)" in capsys.readouterr().out
    whole = analysis.open_run(out)
    assert not any("lora" in name for name in whole.leaves())
    np.testing.assert_allclose(
        whole.logits(TOKENS), run("lora").logits(TOKENS), atol=1e-5
    )
    assert command("lora", tmp_path / "again", out) == errors.CONFIG


def test_adapters_of_all_that_changed_are_the_model(tmp_path, capsys):
    out, sides = tmp_path / "extracted", (RUNS / "dpo", f"--base={RUNS / 'sft'}")
    assert command("extract", out, *sides, "--rank=8", "--others=keep") == 0
    extracted = analysis.open_run(out)
    np.testing.assert_allclose(
        extracted.logits(TOKENS), run("dpo").logits(TOKENS), atol=2e-5
    )
    assert extracted.config["init"]["run"] == str(RUNS / "sft")
    assert min(extracted.config["merged"]["energy"].values()) == pytest.approx(1)
    own = extracted.store.from_step(None, lambda step: step.leaves())
    assert "norm/scale" in own and "layers/q/kernel" not in own


def test_adapters_of_a_rank_keep_what_the_largest_values_have(tmp_path, capsys):
    merged, adapters, others = merge.extract_adapters(run("dpo"), run("sft"), 2)
    change = run("dpo").leaf("layers/o/kernel") - run("sft").leaf("layers/o/kernel")
    values = np.linalg.svd(change.reshape(2, -1, 8), compute_uv=False)
    expected = (values[:, :2] ** 2).sum() / (values**2).sum()
    assert adapters.energy["layers/o"] == pytest.approx(expected, rel=1e-5)
    assert set(others) == {n for n in run("sft").leaves() if "kernel" not in n}
    new = merge.write(merged, tmp_path / "two")
    np.testing.assert_array_equal(new.leaves()["embed"], run("sft").leaf("embed"))
    folder = conversion.export_adapters(new, tmp_path / "peft")
    settings = json.loads((folder / "adapter_config.json").read_text())
    assert settings["r"] == 2 and settings["lora_alpha"] == 2
    product = np.einsum(
        "lnhr,lrd->lnhd", new.leaf("layers/o/lora_a"), new.leaf("layers/o/lora_b")
    )
    left = ((change - product) ** 2).sum() / (change**2).sum()
    assert 1 - left == pytest.approx(expected, rel=1e-5)


def test_a_random_range_finds_the_energy_of_the_exact_values():
    rng = np.random.default_rng(0)
    low = rng.normal(size=(300, 6)) @ rng.normal(size=(6, 200))
    change = np.float32(low + 0.01 * rng.normal(size=low.shape))
    exact, drawn = (extraction.factors(change, 4, exact=x) for x in (True, False))
    assert drawn.energy == pytest.approx(exact.energy, rel=1e-5)
    np.testing.assert_allclose(drawn.a @ drawn.b, exact.a @ exact.b, atol=1e-3)
    again = extraction.factors(change, 4, exact=False)
    np.testing.assert_array_equal(again.a, drawn.a)
    wide = extraction.factors(np.eye(3, dtype=np.float32), 5)
    assert wide.a.shape == (3, 5) and wide.energy == pytest.approx(3)


def scratch(folder: pathlib.Path, seed: int = 0, **changes) -> pathlib.Path:
    """A run that began by itself, of the shape of another one."""
    like = run("sft")
    config = {
        "model": like.config["model"],
        "steps": 5,
        "data": {"bos": True},
        **changes,
    }
    add = lambda x: x + jnp.float32(np.random.default_rng(seed).normal(size=x.shape))
    params = trees.nest({name: add(x[...]) for name, x in like.leaves().items()})
    with tiny.checkpoints_of(folder, config=config) as checkpoints:
        checkpoints.maybe_save(5, types.TrainState(jnp.int32(5), params, ()))
    shutil.copytree(like.path / "tokenizer", folder / "tokenizer")
    return folder


def test_runs_that_began_apart_are_refused(tmp_path, capsys):
    other = scratch(tmp_path / "other")
    sft, out = RUNS / "sft", tmp_path / "out"
    for arguments in (
        ("average", out, sft, other),
        ("slerp", out, sft, other, "--at=0.5"),
        ("add", out, f"--base={other}", f"--add={sft}:-1"),
        ("add", out, f"--base={RUNS / 'dpo'}", f"--add={RUNS / 'kto'}"),
    ):
        assert command(*arguments) == errors.CONFIG
        assert "did not start from" in capsys.readouterr().err
        assert not out.exists()
    assert command("average", out, sft, other, "--any_base") == 0
    assert "note" not in capsys.readouterr().out
    # What a merged run started from is only known so far.
    assert command("average", tmp_path / "more", out, sft) == 0
    assert "note" not in capsys.readouterr().out
    third = scratch(tmp_path / "third", seed=1)
    assert command("average", tmp_path / "most", out, third) == 0
    assert "note: it cannot be told" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("moe", "layers/moe"),
        ("sentencepiece", "tokenizer: "),
        ("reward_model", "score/kernel: only in"),
    ],
)
def test_runs_of_other_models_are_refused(tmp_path, capsys, name, problem):
    assert (
        command("average", tmp_path / "out", RUNS / "sft", RUNS / name) == errors.CONFIG
    )
    assert problem in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_other_positions_and_dialogues_are_refused(tmp_path):
    section = {**run("sft").config["model"], "rope_theta": 500.0}
    other = scratch(tmp_path / "other", model=section, data={"chat": "chatml"})
    with pytest.raises(errors.ConfigError) as caught:
        merge.average([run("sft"), analysis.open_run(other)])
    fields = [
        line.partition(": ")[2].partition(":")[0] for line in caught.value.problems
    ]
    assert fields[:2] == ["model.rope_theta", "data.chat"]


@pytest.mark.parametrize(
    "arguments",
    [
        ("average", "OUT", "SFT", "DPO", "--weights=1"),
        ("average", "OUT", "SFT", "DPO", "--weights=1,-1"),
        ("average", "OUT", "SFT", "DPO", "--weights=one,two"),
        ("average", "OUT", "SFT", "DPO", "--weights=nan,1"),
        ("average", "OUT", "SFT", "DPO", "--weights=inf,1"),
        ("slerp", "OUT", "SFT", "DPO", "--at=1.5"),
        ("add", "OUT", "--base=SFT", "--add=DPO:nan"),
        ("add", "OUT", "--base=SFT", "--add=DPO:-inf"),
        ("add", "OUT", "--base=SFT", "--add=DPO", "--dare=0.5", "--seed=-1"),
        ("add", "OUT", "--base=SFT", "--add=DPO", "--ties=0"),
        ("add", "OUT", "--base=SFT", "--add=DPO", "--ties=0.5", "--dare=0.5"),
        ("extract", "OUT", "DPO", "--base=SFT", "--rank=0"),
        ("extract", "OUT", "DPO", "--base=LORA", "--rank=2"),
        ("lora", "OUT", "SFT"),
        ("lora", "FULL", "LORA"),
    ],
)
def test_what_cannot_be_meant_is_refused(tmp_path, capsys, arguments):
    (tmp_path / "full").mkdir()
    (tmp_path / "full/notes.txt").write_text("mine")
    places = {"OUT": tmp_path / "out", "FULL": tmp_path / "full"}
    places |= {name.upper(): RUNS / name for name in ("sft", "dpo", "lora")}
    text = "\n".join(arguments)
    for name, place in places.items():
        text = text.replace(name, str(place))
    assert command(*text.split("\n")) == errors.CONFIG
    assert not (tmp_path / "out").exists()
    assert [path.name for path in (tmp_path / "full").iterdir()] == ["notes.txt"]
