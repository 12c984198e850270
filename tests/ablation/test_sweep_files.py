# SPDX-License-Identifier: Apache-2.0
"""A sweep's file becomes runs: their names, what is set for them, what is refused."""

import pathlib
import shutil

import pytest

from alignjax import cli, errors
from alignjax.ablation import __main__ as sweep
from alignjax.ablation import sweep_file
from tests.ablation import made_up

ROOT = pathlib.Path(__file__).resolve().parents[2]
SFT = ROOT / "tests/golden/runs/sft"
HEAD = """
from alignjax.ablation import settings
from alignjax.ablation.settings import grid, zipped

def get_sweep():
"""


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def load(tmp_path, cache, monkeypatch):
    monkeypatch.chdir(ROOT)

    def load(body, *flags, start=SFT):
        file = tmp_path / "sweep.py"
        file.write_text(f"{HEAD}    return {body}")
        own = [("init.run", str(start)), ("cache_dir", str(cache)), ("steps", "4")]
        own.append(("data.sources.world.data_dir", str(cache / "world")))
        return sweep_file.load(str(file), [*own, *flags])

    return load


LOSSES = 'dict(config="configs/smoke/dpo.py", arms=%s)'


def test_arms_are_named_by_what_tells_them_apart(load):
    grid = 'grid({"objective.loss": ["dpo", "ipo"], "objective.beta": [0.1, 0.3]})'
    plan = load(LOSSES % grid)
    assert plan.arms == ["dpo_beta0.1", "dpo_beta0.3", "ipo_beta0.1", "ipo_beta0.3"]
    assert [run.seed for run in plan.runs] == [0] * 4 + [1] * 4
    folders = {run.folder for run in plan.runs}
    assert len(folders) == 8
    assert all(
        run.folder == f"{run.arm}_{run.seed}-{run.digest[:8]}" for run in plan.runs
    )
    command = sweep_file.command(plan, plan.runs[5], pathlib.Path("out"))
    assert command[:3] == ["alignjax", "train", "--config=configs/smoke/dpo.py"]
    assert "--config.objective.beta=0.3" in command
    assert command[-1] == "--config.seed=1"


def test_the_digest_is_of_what_a_run_ends_with(load, tmp_path):
    one = 'dict(config="configs/smoke/dpo.py", arms=[{"name": "a"}], seeds=1)'
    digest = lambda *flags, **options: load(one, *flags, **options).runs[0].digest
    first = digest()
    shutil.copytree(SFT, tmp_path / "elsewhere")
    assert digest(start=tmp_path / "elsewhere") == first
    assert digest(("evaluation.every", "2"), ("log.every", "1")) == first
    assert digest(("objective.beta", "0.1")) == first  # as the file has it
    assert digest(("objective.label_smoothing", "0.0")) == first  # the default
    assert digest(("objective.beta", "0.2")) != first
    assert digest(start=ROOT / "tests/golden/runs/dpo") != first


def test_each_arm_has_the_store_and_the_steps_that_its_loss_asks_for(load):
    losses = '["dpo", "simpo", "kto", "experiments.focal_dpo.losses:focal_dpo"]'
    plan = load(LOSSES % f'grid({{"objective.loss": {losses}}})')
    assert plan.arms == ["dpo", "simpo", "kto", "focal_dpo"]
    sections = {run.arm: run.section for run in plan.runs if run.seed == 0}
    stores = {arm: s["reference"].get("store") for arm, s in sections.items()}
    # KTO compares with responses to other prompts, of which no store knows.
    assert stores == {"dpo": True, "simpo": None, "kto": None, "focal_dpo": True}
    assert sections["dpo"]["steps"] == sections["simpo"]["steps"] == 4
    # Rows of single responses hold as many as rows of pairs hold pairs.
    assert 6 <= sections["kto"]["steps"] <= 10
    assert any(note.startswith("kto: ") and "steps" in note for note in plan.notes)


def test_none_leaves_a_field_open_and_the_claim_names_the_baseline(load):
    arms = 'zipped({"objective.loss": ["ipo", "orpo"], "objective.beta": [0.3, None]})'
    body = f'dict(config="configs/smoke/dpo.py", arms={arms}, claim=dict(base="orpo"))'
    plan = load(body)
    assert plan.arms == ["orpo", "ipo"]
    flags = {run.arm: dict(run.flags) for run in plan.runs}
    assert "objective.beta" not in flags["orpo"]
    assert flags["ipo"]["objective.beta"] == "0.3"


@pytest.mark.parametrize(
    "body, field",
    [
        ("dict(arms=[])", "arms"),
        ("dict(arms=[{}], grids=2)", "sweep.grids"),
        ('dict(config="configs/smoke/dpo.py", arms=[{"a.b": 1}])', "arms.base"),
        ('dict(config="configs/smoke/dpo.py", arms=[{"seed": 1}])', "seed"),
        ('dict(config="configs/smoke/dpo.py", arms=[{"steps": 1}])', "steps"),
        ('dict(config="configs/smoke/dpo.py", arms=[{"name": "a/b"}])', "name"),
        ('dict(config="configs/smoke/dpo.py", arms=[{}], seeds=[1, 1])', "seeds"),
        ('dict(config="configs/smoke/dpo.py", arms=[{}], seeds=10**12)', "seeds"),
        ('dict(config="configs/smoke/dpo.py", arms=[{"": 1}])', "arms.base"),
        ('dict(config="configs/smoke/dpo.py", arms=[{"steps": len}])', "arms.steps"),
        ('dict(config="nothing.py", arms=[{}])', "config"),
        (
            'dict(config="configs/smoke/dpo.py", arms=[{}, {"objective.beta": 0.1}])',
            "same setting",
        ),
        (LOSSES % 'grid({"data.sources.world.labeler": ["clean", "noisy"]})', "data"),
        (
            'dict(config="configs/smoke/dpo.py", arms=[{}], claim=dict(base="x"))',
            "claim.base",
        ),
        (LOSSES % '[{}], claim=dict(expects={"x": "above"})', "claim.expects"),
        (LOSSES % '[{}], claim=dict(expects={"x": "up"})', "claim.expects"),
    ],
)
def test_what_is_no_sweep_is_refused_by_its_field(load, body, field):
    with pytest.raises(errors.ConfigError) as caught:
        load(body)
    assert field in str(caught.value)


def test_arms_may_differ_in_their_data_where_the_file_says_so(load):
    arms = 'grid({"data.sources.world.labeler": ["clean", "noisy"]})'
    more = f'config="configs/smoke/dpo.py", arms={arms}, varies=("data",)'
    assert load(f"dict({more})").arms == ["labeler-clean", "labeler-noisy"]


@pytest.mark.parametrize("name", ["sweep.jsonl", "tables", "a_0-00000000/sweep.log"])
def test_a_sweep_is_not_led_elsewhere(tmp_path, name):
    plan = made_up.plan()
    out = tmp_path / "out"
    sweep._check_folder(out, plan)
    (out / name).parent.mkdir(exist_ok=True)
    (out / name).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(errors.ConfigError, match="out: "):
        sweep._check_folder(out, plan)


def test_a_file_without_the_function_and_a_folder_of_something_else(
    tmp_path, capsys, monkeypatch
):
    monkeypatch.chdir(ROOT)
    (tmp_path / "file.py").write_text("x = 1\n")
    out = tmp_path / "out"
    assert cli.main(["sweep", str(tmp_path / "file.py"), f"--out={out}"]) == (
        errors.CONFIG
    )
    assert "get_sweep" in capsys.readouterr().err
    body = 'dict(config="configs/smoke/dpo.py", arms=[{}], seeds=1)'
    (tmp_path / "file.py").write_text(f"{HEAD}    return {body}")
    out.mkdir()
    (out / "letter.txt").write_text("dear")
    flags = [f"--config.init.run={SFT}", f"--config.cache_dir={tmp_path / 'cache'}"]
    command = ["sweep", str(tmp_path / "file.py"), f"--out={out}", *flags]
    assert cli.main(command) == errors.CONFIG
    assert "no sweep's" in capsys.readouterr().err
    assert cli.main([*command, "--print"]) == errors.DONE
    assert capsys.readouterr().out.startswith("alignjax train --config=configs/smoke")
