# SPDX-License-Identifier: Apache-2.0
"""Configs from files anywhere, flags for any field, and the page that explains them."""

import dataclasses
import pathlib
import sys

import pytest

from alignjax import cli, config, errors, train
from alignjax.experiment import config_file, schema, sections
from alignjax.losses import catalogue
from alignjax.training import optim, schedules

ROOT = pathlib.Path(__file__).resolve().parents[2]
DPO = str(ROOT / "configs/smoke/dpo.py")
PRETRAIN = str(ROOT / "configs/smoke/pretrain.py")


def loaded(file, *flags):
    parser = cli.parser("train", "a test")
    config_file.add_option(parser)
    flags = [f"--config.{flag}" for flag in flags]
    return config_file.parse(parser, [f"--config={file}", *flags])[1]


def refusals(file, *flags):
    with pytest.raises(errors.ConfigError) as error:
        loaded(file, *flags)
    return error.value.problems


@pytest.mark.parametrize(
    ("flag", "value"),
    [
        ("seed=3", 3),
        ("optimizer.learning_rate=1e-3", 1e-3),
        ("optimizer.learning_rate=1", 1.0),
        ("optimizer.clip_norm=none", None),
        ("watchdog=None", None),
        ("model.remat=none", "none"),  # one of its choices
        ("model.tied=false", False),
        ("sample.prompts=('a, b', 'c')", ("a, b", "c")),
        ("checkpoint.keep_best=eval/loss,min", ("eval/loss", "min")),
        ("reference.run=2024", "2024"),
        ("sharding_rules.embed=none", None),
        ("data.sources.world.documents=7", 7),
        ("objective.mixture.dpo=0.5", 0.5),
        ('objective.mixture={"dpo": 1.0}', {"dpo": 1.0}),
    ],
)
def test_a_flag_sets_a_field(flag, value):
    section, origins, _ = loaded(DPO, flag)
    path = flag.partition("=")[0]
    assert schema.get(section, path) == value
    assert type(schema.get(section, path)) is type(value)
    assert origins[path] == "flag" and origins["steps"] == "file"


def test_a_value_may_follow_its_flag_and_a_selector_its_fields():
    parser = cli.parser("train", "a test")
    config_file.add_option(parser)
    arguments = ["--config.objective.gamma", "0.5", "--config.objective.loss", "simpo"]
    section = config_file.parse(parser, [*arguments, "--config", DPO])[1].section
    assert section["objective"]["gamma"] == 0.5
    new = ("data.sources.x.path=a.jsonl", "data.sources.x.kind=jsonl")
    assert loaded(DPO, *new).section["data"]["sources"]["x"]["path"] == "a.jsonl"


def test_columns_of_a_source_are_set_by_flags():
    columns = lambda *flags: schema.get(
        loaded(DPO, "data.sources.x.kind=jsonl", *flags).section,
        "data.sources.x.columns",
    )
    assert columns('data.sources.x.columns={"prompt": "q"}') == {"prompt": "q"}
    two = ("columns.prompt=2024", "columns.chosen=yes")
    two = columns(*(f"data.sources.x.{flag}" for flag in two))
    assert two == {"prompt": "2024", "chosen": "yes"}
    flags = "data.sources.x.kind=jsonl", "data.sources.x.columns=prompt"
    (problem,) = refusals(DPO, *flags)
    assert problem.startswith("data.sources.x.columns: ")


@pytest.mark.parametrize(
    ("flags", "beta", "words"),
    [
        (["objective.loss=dpo"], 0.1, ""),
        (["objective.loss=ipo"], 0.1, "objective.beta: 0.1, which the file sets"),
        (["objective.loss=ipo", "objective.beta=0.3"], 0.3, ""),
        (["objective.loss=ipo", "objective.beta=none"], None, ""),
        (["objective.loss=slic"], None, "left out: 'slic' has no such option"),
        (["objective.loss=experiments.focal_dpo.losses:focal_dpo"], 0.1, "kept for"),
    ],
)
def test_options_of_another_loss_are_not_kept_in_silence(flags, beta, words, caplog):
    section, _, notes = loaded(DPO, *flags)
    assert section["objective"].get("beta") == beta
    assert words in caplog.text and bool(words) == bool(caplog.text)
    assert all(note in caplog.text for note in notes) and bool(notes) == bool(words)


def test_what_flags_do_beyond_their_fields_comes_into_the_log(monkeypatch, tmp_path):
    given = {}
    monkeypatch.setattr(train, "train", lambda *_, **flags: given.update(flags) or 0)
    flags = f"--config={DPO}", f"--workdir={tmp_path}", "--config.objective.loss=ipo"
    assert train.main([*flags, f"--config.cache_dir={tmp_path}"]) == errors.DONE
    (note,) = given["notes"]
    assert "objective.beta" in note


@pytest.mark.parametrize(
    ("flags", "value"),
    [
        ([("steps", "2"), ("steps", "3")], 3),
        ([("steps", "2"), ("seed", "1"), ("steps", "2")], 2),
        ([("data.sources.p.columns.a", "b"), ("data.sources.p.columns", "{}")], {}),
    ],
)
def test_of_two_flags_the_one_that_does_not_count_is_told_of(flags, value):
    source = dict(kind="jsonl", path="x", format="preference")
    section = {"data": {"sources": {"p": source}}, "objective": {"name": "preference"}}
    loaded = config_file.override(section, flags)
    inside = loaded.section
    for name in flags[-1][0].split("."):
        inside = inside[name]
    assert inside == value
    told = [note for note in loaded.notes if note.startswith(f"{flags[0][0]}: ")]
    assert len(told) == (flags[0] != flags[-1])


def test_every_option_of_losses_optimizers_and_schedules_has_a_flag():
    for kind in ("preference", "unpaired", "ranked"):
        for name, loss in catalogue.CATALOGUE[kind].items():
            paths = schema.fields({"objective": {"name": "preference", "loss": name}})
            for option in catalogue.options(loss):
                assert f"objective.{option}" in paths, name
    for part, functions, leading in (
        ("optimizer", optim.OPTIMIZERS, 2),
        ("schedule", schedules.SCHEDULES, 3),
    ):
        for name, function in functions.items():
            paths = schema.fields({part: {"name": name}})
            for option in config.fields(function, leading):
                assert f"{part}.{option}" in paths


@pytest.mark.parametrize(
    ("flag", "field"),
    [
        ("stps=1", "stps: unknown field; did you mean 'steps'"),
        ("objective.bta=1", "objective.bta: unknown field; did you mean 'beta'"),
        ("objective.gamma=1", "objective.gamma: unknown field"),  # of other losses
        ("data.sources.world.documets=1", "data.sources.world.documets: unknown"),
        ("data.train_onn=all", "data.train_onn: unknown field; did you mean 'train_"),
        ("steps=many", "steps: 'many'"),
        ("steps=0", "steps: 0 is not at least 1"),
        ("steps.x=1", "steps.x: unknown"),
        ("optimizer=5", "optimizer: "),
        (f"mesh={'[' * 100_000}", "mesh: "),
        (f"mesh={'{1:' * 100_000}", "mesh: "),
        ("reference.store=maybe", "reference.store: 'maybe'"),
    ],
)
def test_a_flag_is_refused_by_field(flag, field):
    (problem,) = refusals(DPO, flag)
    assert problem.startswith(field)


def test_all_bad_flags_are_reported_at_once():
    assert len(refusals(DPO, "stps=1", "seed=x", "objective.bta=1")) == 3


def test_a_config_may_lie_anywhere(tmp_path, monkeypatch):
    elsewhere = [x for x in sys.path if pathlib.Path(x or ".").resolve() != ROOT]
    monkeypatch.setattr(sys, "path", elsewhere)  # as where nothing is of the checkout
    for name in [x for x in sys.modules if x.split(".")[0] == "configs"]:
        monkeypatch.delitem(sys.modules, name)
    file = tmp_path / "mine.py"
    file.write_text(
        "from configs import base\n"
        "def get_config(steps='3'):\n"
        "    c = base.sft()\n"
        "    c.steps = int(steps)\n"
        "    return c\n"
    )
    assert loaded(file).section["steps"] == 3
    assert loaded(f"{file}:5").section["steps"] == 5
    plain = tmp_path / "plain.py"
    plain.write_text("get_config = lambda: {'steps': 2, 'data': {'sources': {}}}\n")
    assert loaded(plain).section["steps"] == 2


def test_a_config_finds_what_lies_beside_it(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", [*sys.path])
    (tmp_path / "beside_it.py").write_text("STEPS = 7\n")
    file = tmp_path / "mine"  # whatever its name ends in
    file.write_text("import beside_it\nget_config = lambda: {'steps': beside_it.STEPS}")
    assert loaded(file).section["steps"] == 7


@pytest.mark.parametrize(
    ("text", "cause"),
    [
        ("1 / 0", ":1: ZeroDivisionError"),
        ("\ndef x(", ":2: SyntaxError"),
        ("x = '\0'", "SyntaxError"),
        ("import sys\nsys.exit(3)", ":2: SystemExit: 3"),
        ("import no_such_module", ":1: ModuleNotFoundError"),
        ("def get_config():\n  raise ValueError('no\\nway' * 999)", ":2: ValueError"),
        ("", "get_config"),
        ("get_config = 5", "get_config"),
        ("get_config = lambda: [1]", "list"),
        ("get_config = lambda: None", "NoneType"),
        ("get_config = lambda: {'model': {'layers': {1, 2}}}", "model.layers: {1, 2}"),
        ("x = {}\nx['x'] = x\nget_config = lambda: x", "RecursionError"),
    ],
)
def test_a_file_that_fails_is_refused_with_its_cause(text, cause, tmp_path):
    (tmp_path / "bad.py").write_text(text)
    (problem,) = refusals(tmp_path / "bad.py")
    assert problem.startswith("config: ") and str(tmp_path / "bad.py") in problem
    assert cause in problem and "\n" not in problem and len(problem) < 600
    (problem,) = refusals(tmp_path / "none.py")
    assert problem.startswith("config: ")


def test_the_page_has_every_field_with_its_origin_and_meaning(capsys):
    flags = ["--config.model.layers=3", "--config.optimizer.clip_norm=none", "--print"]
    assert train.main([f"--config={PRETRAIN}", *flags]) == errors.DONE
    lines = capsys.readouterr().out.splitlines()
    for line in (
        "steps = 24  (file)",
        "model.layers = 3  (flag)",
        "model.kv_heads = None  (default)",
        "optimizer.clip_norm = None  (flag)",
        "optimizer.b1 = 0.9  (default)",
        "log.every = 10  (default)",
        "data.sources.text.preset = 'nano'  (file)",
    ):
        assert line in lines
    assert lines[lines.index("steps = 24  (file)") + 1].startswith("    updates; ")
    shown = {line.partition(" = ")[0] for line in lines if " = " in line}
    paths = schema.fields(loaded(PRETRAIN).section)
    assert set(paths) - shown <= {"data.sources"}


def test_every_field_of_a_section_has_a_meaning():
    parts = filter(dataclasses.is_dataclass, vars(sections).values())
    for cls in {*parts, *sections.SECTIONS.values()}:
        nested = {*sections.SECTIONS, *sections.PARTS} if cls is sections.Config else ()
        for name, field in config.fields(cls).items():
            assert field.meaning or name in nested, f"{cls.__name__}.{name}"


def test_the_record_of_a_config_has_its_defaults():
    section = config.to_json(loaded(PRETRAIN).section)
    complete = sections.with_defaults(section)
    assert complete["seed"] == 0 and complete["watchdog"] == 1800.0
    assert complete["data"]["on_bad_row"] == "error" and complete["init"]["run"] is None
    assert complete["steps"] == section["steps"]
    assert sections.with_defaults(complete) == complete
    assert "kind" not in sections.with_defaults({"tokenizer": {}})["tokenizer"]
