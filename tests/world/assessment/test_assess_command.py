# SPDX-License-Identifier: Apache-2.0
"""Runs into the file of results: what is in it, what is kept, what is told."""

import io
import json
import shutil
import types

import numpy as np
import pytest

from alignjax import analysis, config, errors
from alignjax.data.tokenizers import base
from alignjax.evals import rows
from alignjax.feedback import collect
from alignjax.tracking import progress
from alignjax.world.assessment import __main__ as command
from alignjax.world.assessment import (
    benchmarks,
    prose,
    results,
    reward_model,
    run_models,
)
from tests.report import made_up
from tests.world.assessment import subjects

SETTINGS = benchmarks.Settings(
    each=2, length=8, documents=8, demonstrations=8, pairs=16, kinds=("fact", "unsafe")
)
TALKS = {"data": {"chat": "roles"}}
RUNS = {
    "/runs/base": lambda: subjects.make("base"),
    "/runs/sft": lambda: subjects.make("sft", 1, **TALKS),
    "/runs/rm": lambda: subjects.make(
        "rm", heads=1, objective={"name": "reward_model"}, **TALKS
    ),
    "/runs/dpo": lambda: subjects.make(
        "dpo",
        2,
        objective={"name": "preference", "loss": "dpo", "beta": 0.1},
        init={"run": "/runs/sft"},
        **TALKS,
    ),
}


@pytest.fixture(scope="module")
def opened():
    """Paths that were opened, in their order; there are no directories."""
    paths, really = [], run_models.open_model

    def open_model(name, path, step=None, *, network=False):
        if str(path) not in RUNS:
            return really(name, path, step, network=network)
        paths.append(str(path))
        return RUNS[str(path)]()._replace(name=name)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run_models, "open_model", open_model)
        yield paths


def assess(out, *names, **options):
    runs = [(name, f"/runs/{name}", None) for name in names]
    stream = io.StringIO()
    terminal = progress.Terminal(stream)
    settings = options.pop("settings", SETTINGS)
    found = command.run(runs, out, settings, terminal=terminal, **options)
    return found, stream.getvalue()


@pytest.fixture(scope="module")
def whole(opened, tmp_path_factory):
    out = tmp_path_factory.mktemp("assessment") / "deep" / "results.json"
    return out, *assess(out, "base", "sft", "rm", "dpo", checkpoints=["dpo"])


def test_the_file_is_what_was_returned(whole):
    out, found, _ = whole
    assert json.loads(out.read_text()) == found == results.read(out)
    assert list(found["models"]) == ["base", "sft", "dpo"]
    assert list(found["rewards"]) == ["rm"]
    assert len(found["prompts"]) == 8
    for model in found["models"].values():
        assert len(model["sampled"]["answers"]) == 8
        assert set(model["sampled"]["slices"]) == {
            *("eval_id", "eval_fact", "eval_unsafe")
        }


def test_every_answer_is_a_row_from_which_the_figures_follow(whole):
    out, found, _ = whole
    folder = out.with_suffix(".rows")
    assert sorted(p.name for p in folder.glob("*.jsonl")) == [
        *("base.jsonl", "dpo.jsonl", "sft.jsonl")
    ]
    answers = list(rows.read(folder / "dpo.jsonl"))
    sampled = [a for a in answers if a.decoding.temperature == 1]
    dpo = found["models"]["dpo"]
    assert len(sampled) == len(answers) / 2 == 8
    texts = [answer["text"] for answer in dpo["sampled"]["answers"]]
    assert [a.text for a in sampled] == texts
    assert {(a.run, a.digest, a.step, a.loss) for a in answers} == {
        ("dpo", dpo["digest"], 10, "dpo")
    }
    assert np.mean([a.kl for a in sampled]) == pytest.approx(dpo["kl"]["kl"]["mean"])
    assert all(sum(a.components.values()) == pytest.approx(a.gold) for a in answers)
    assert len({a.decoding.key for a in sampled}) == 8 and sampled[0].logp < 0
    (base, *_), (dpo, *_) = rows.read(folder / "base.jsonl"), sampled
    assert dpo.reference == found["models"]["dpo"]["kl"]["digest"]
    assert (
        base.kl is base.ref_logp is base.reference is None
        and base.suite_digest == dpo.suite_digest
    )
    points = list(rows.read(folder / "checkpoints"))
    assert {(a.run, a.step) for a in points} == {("dpo", 10)} and len(points) == 4
    assert points[0].suite_digest != dpo.suite_digest


def test_a_run_whose_answers_are_gone_is_assessed_again(opened, tmp_path):
    out = tmp_path / "results.json"
    assess(out, "base")
    (out.with_suffix(".rows") / "base.jsonl").unlink()
    assert "base: assessed in" in assess(out, "base")[1]


def test_stages_are_named_by_what_they_learned(whole):
    stages = {name: model["stage"] for name, model in whole[1]["models"].items()}
    assert stages == {"base": "pretraining", "sft": "sft", "dpo": "preference"}
    dpo = whole[1]["models"]["dpo"]
    assert (dpo["loss"], dpo["beta"], dpo["step"]) == ("dpo", 0.1, 10)


def test_changes_go_from_where_a_model_started(whole):
    ends = [(change["from"], change["to"]) for change in whole[1]["changes"]]
    assert ends == [("base", "sft"), ("sft", "dpo")]


def test_changes_are_those_of_the_answers_in_the_file():
    found = made_up.measured()
    models = found["models"]
    mean = lambda name: models[name]["sampled"]["gold"]["nine"]["mean"]
    for change, before in zip(found["changes"], ("base", "sft"), strict=True):
        assert change["from"] == before
        moved = change["gold"]["nine"]["mean"]
        assert moved == pytest.approx(mean(change["to"]) - mean(before))
        assert moved != 0


def test_divergence_is_from_the_reference_and_only_where_there_is_one(whole):
    models = whole[1]["models"]
    assert "kl" not in models["base"] and "kl" not in models["sft"]
    assert models["dpo"]["kl"]["to"] == "sft"
    assert models["dpo"]["kl"]["kl"]["low"] > 0
    (point,) = models["dpo"]["trajectory"]
    assert point["step"] == 10 and point["kl"]["kl"]["mean"] > 0


def test_every_run_is_told_of_in_two_to_four_lines(whole):
    _, found, said = whole
    for name in ("base", "sft", "rm", "dpo"):
        lines = prose.lines(found, name)
        assert 2 <= len(lines) <= 4
        assert all(line in said for line in lines)


def test_what_was_assessed_is_not_assessed_again(whole, tmp_path):
    out, found, _ = whole
    again, said = assess(out, "base", "sft", "rm", "dpo", checkpoints=["dpo"])
    assert again == found and "assessed in" not in said


def test_a_run_that_was_trained_anew_is_assessed_anew(whole, tmp_path, monkeypatch):
    out = tmp_path / "results.json"
    out.write_text(whole[0].read_text())
    shutil.copytree(whole[0].with_suffix(".rows"), out.with_suffix(".rows"))
    again = lambda: subjects.make("sft", 5, **TALKS)
    monkeypatch.setitem(RUNS, "/runs/sft", again)
    found, said = assess(out, "base", "sft")
    assert "sft: assessed in" in said and "base: assessed in" not in said
    assert list(found["models"]) == ["base", "sft", "dpo"]
    text = lambda results: results["models"]["sft"]["documents"]["mean"]
    assert text(found) != text(whole[1])


def test_runs_added_one_by_one_make_the_same_file(opened, whole, tmp_path):
    out = tmp_path / "results.json"
    for name in ("base", "sft", "rm"):
        assess(out, name)
    found, _ = assess(out, "dpo", checkpoints=["dpo"])
    assert found == whole[1]


def test_a_file_that_was_asked_otherwise_starts_again(opened, tmp_path):
    out = tmp_path / "results.json"
    assess(out, "base")
    fewer = benchmarks.Settings(each=1, length=8, documents=8, kinds=("fact",))
    found, said = assess(out, "sft", settings=fewer)
    assert list(found["models"]) == ["sft"] and "starting again" in said


def test_what_cannot_be_is_refused(opened, tmp_path, monkeypatch):
    out = tmp_path / "results.json"
    with pytest.raises(errors.ConfigError, match="twice"):
        assess(out, "base", "base")
    with pytest.raises(errors.ConfigError, match="run: 'a/b' is no name of a file"):
        assess(out, "base", "a/b")
    with pytest.raises(errors.ConfigError, match="not among the runs"):
        assess(out, "base", checkpoints=["dpo"])
    with pytest.raises(errors.ConfigError, match="checkpoints: rm is a reward model"):
        assess(out, "base", "rm", checkpoints=["base", "rm"])
    assert not out.exists()
    elsewhere = {"sources": {"w": {"kind": "world", "preset": "small"}}}
    strange = lambda: subjects.make("strange", data=elsewhere)
    monkeypatch.setitem(RUNS, "/runs/strange", strange)
    with pytest.raises(errors.ConfigError, match="different worlds"):
        assess(out, "base", "strange")
    out.write_text('{"format": 0}')
    with pytest.raises(errors.ConfigError, match="not results of format"):
        assess(out, "base")
    out.write_text('{"format": 1, "models": []}')
    with pytest.raises(
        errors.ConfigError, match=r"without world, .*, models, .* --anew"
    ):
        assess(out, "base")
    with pytest.raises(errors.ConfigError, match="each"):
        config.build(benchmarks.Settings, {"each": 0}, "")
    with pytest.raises(errors.ConfigError, match="kinds"):
        benchmarks.Settings(kinds=("fact", "fiction"))


def test_models_that_cannot_be_measured_are_refused(opened, tmp_path, monkeypatch):
    out = tmp_path / "results.json"
    own = {"sources": {"mine": {"kind": "jsonl"}}}

    def refused(match, **options):
        with pytest.raises(errors.ConfigError, match=match):
            assess(out, *options.pop("names", ("base", "strange")), **options)
        assert not out.exists()

    def strange(**changes):
        model = subjects.make("strange", data=changes.pop("data", ()))
        vars(model.run).update(changes)
        monkeypatch.setitem(RUNS, "/runs/strange", lambda: model)
        return model

    strange(data=own)
    refused("run: neither the data of strange nor .* started from .* 'world'")
    refused("neither the data of strange", names=["strange"])
    refused("different worlds: nano:1 .* --world; nano:0 .* base", town=("nano", 1))
    other = base.from_files("bytes", {"bytes.json": b'{"control": ["<user>"]}'})
    strange(tokenizer=other)
    refused("run: strange has another tokenizer than base", names=("base", "strange"))
    unable = subjects.TOKENIZER._replace(unknown_id=ord("e"))
    strange(tokenizer=unable)
    refused("run: the tokenizer of strange has no tokens for all", names=["strange"])
    short = types.SimpleNamespace(config=types.SimpleNamespace(max_length=40))
    strange(model=short)
    refused("run: strange has a context of 40 tokens, and prompts", names=["strange"])
    with pytest.raises(errors.ConfigError, match=r"context of 40 .* and pairs of"):
        rows = benchmarks.Benchmark(made_up.TOWN, SETTINGS).pairs(
            "eval_preferences", "clean"
        )
        reward_model.score(strange(model=short), [(p.prompt, p.chosen) for p in rows])


def test_the_world_of_a_run_is_that_of_its_ancestors(tmp_path, monkeypatch):
    own = {"sources": {"mine": {"kind": "jsonl"}}}
    runs = {
        "/runs/c": subjects.make("c", data=own, init={"run": "/runs/b"}),
        "/runs/b": subjects.make("b", data=own, init={"run": "/runs/a"}),
        "/runs/a": subjects.make("a"),
        "/runs/round": subjects.make("round", data=own, init={"run": "/runs/round"}),
        "/runs/gone": subjects.make("gone", data=own, init={"run": "/no/such/run"}),
    }
    really = analysis.open_run
    open_run = lambda path: runs[path].run if path in runs else really(path)
    monkeypatch.setattr(analysis, "open_run", open_run)
    find = lambda name, *stated: run_models.find_world([runs[name]], "run", *stated)
    assert find("/runs/c") == find("/runs/c", ("nano", 0)) == ("nano", 0)
    for name in ("/runs/round", "/runs/gone"):
        with pytest.raises(errors.ConfigError, match="neither the data"):
            find(name)
        assert find(name, ("small", 3)) == ("small", 3)


def test_the_network_is_for_those_that_ask_for_it(tmp_path, capsys, monkeypatch):
    asked = []

    def open_run(path, step=None, *, network=False):
        asked.append((path, network))
        raise errors.CheckpointError("closed")

    monkeypatch.setattr(analysis, "open_run", open_run)
    for command_main, runs in (
        (command.main, ["--run=a=hf:a/b"]),
        (collect.main, ["--source=hf:a/b", "--source=hf:a/b:1.3"]),
    ):
        given = [*runs, f"--out={tmp_path / 'out'}", f"--cache_dir={tmp_path}"]
        for more in ([], ["--network"]):
            assert command_main([*given, *more]) == errors.CHECKPOINT
    assert asked == 2 * [("hf:a/b", False), ("hf:a/b", True)]


def test_the_command_line(tmp_path, capsys):
    given = ["--out=x", "--run=a=b", "--world"]
    for parse, needs in (
        (command.parser, given),
        (collect.parser, ["--out=x", "--world"]),
    ):
        world_of = lambda text, parse=parse, needs=needs: (
            parse().parse_args([*needs, text]).world
        )
        assert world_of("nano:3") == ("nano", 3) and world_of("small") == ("small", 0)
        for bad in ("", "large", "nano:x", "nano:-1", ":3"):
            with pytest.raises(SystemExit):
                world_of(bad)
    named = command.parse_run("a=runs/x@12")
    assert named == ("a", "runs/x", 12)
    (tmp_path / "x@12").mkdir()
    folder = str(tmp_path / "x@12")
    assert command.parse_run(f"a={folder}") == ("a", folder, None)
    with pytest.raises(SystemExit):
        command.main(["--out=x", "--run=nothing"])
    out = str(tmp_path / "out.json")
    gone = ["--run=a=/no/such/run", f"--out={out}", f"--cache_dir={tmp_path}"]
    assert command.main(gone) == errors.CHECKPOINT
    assert "is no run" in capsys.readouterr().err
    assert command.main([gone[0], "--out=", gone[2]]) == errors.CONFIG
    assert "out: empty; name a file" in capsys.readouterr().err
    with pytest.raises(errors.CheckpointError):
        analysis.open_run("/no/such/run")
