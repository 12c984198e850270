# SPDX-License-Identifier: Apache-2.0
"""The figures of the quickstart's story: read from its results, and held to a page."""

import json
import pathlib
import re
import shutil

import pytest

from alignjax import errors
from alignjax.storage import json_files
from tests.report import made_up
from tools import story


def folder(path, shift=0.0, without=()):
    """A quickstart's folder, of made-up results whose figures are higher by `shift`."""
    figures = json.loads(json.dumps(made_up.measured()).replace('"base"', '"pretrain"'))
    gold = figures["models"]["sft"]["sampled"]["gold"]["seen"]
    for key in ("mean", "low", "high"):
        gold[key] += shift
    for name in without:
        del figures["models"][name]
    path.mkdir()
    (path / "assessment.json").write_text(json.dumps(figures))
    return str(path)


@pytest.fixture
def three(tmp_path, monkeypatch):
    """The folders of three stories, and the page of their spread."""
    folders = [folder(tmp_path / f"{i}", shift=0.1 * i) for i in range(3)]
    page = tmp_path / "page.md"
    assert story.main([f"--out={page}", *folders]) == 0
    monkeypatch.setattr(story, "PAGE", page)
    return folders


def test_the_figures_are_those_of_the_results(tmp_path, three, capsys):
    assert story.main(three[:1]) == 0
    out, err = capsys.readouterr()
    printed = json.loads(out)
    assert set(printed) == {*story.FIGURES, *story.CHANGES}
    assert printed["dpo: distance from sft"] == [0.383, 0.333, 0.433]
    whole = made_up.measured()
    (change,) = (c for c in whole["changes"] if c["to"] == "dpo")
    assert printed["sft to dpo: familiar prompts"][0] == round(
        change["gold"]["seen"]["mean"], 4
    )
    assert f"all {len(printed)} figures" in err


def test_the_page_of_the_project_has_every_figure():
    page = story.PAGE.read_text(encoding="utf-8")
    far = dict.fromkeys([*story.FIGURES, *story.CHANGES], [1e9] * 3)
    assert len(story.outside(far, page)) == len(far)


def test_the_spread_is_wider_than_three_runs():
    low, high = story.spread([[1.0, 0.9, 1.1], [1.2, 1.0, 1.4], [1.1, 1.0, 1.2]])
    assert (round(low, 6), round(high, 6)) == (0.6, 1.6)  # 0.2 between, and 0.2


def test_shares_end_at_0_and_1_and_nothing_else_does(tmp_path, three):
    """Where a further run lies is wider than three runs, but no share is above 1."""
    ends = {
        name: tuple(map(float, re.search(row, story.PAGE.read_text(), re.M).groups()))
        for name in (*story.FIGURES, *story.CHANGES)
        for row in [rf"^\| {re.escape(name)} \|.*\| (\S+) to (\S+) \|$"]
    }
    runs = [story.of_folder(pathlib.Path(folder)) for folder in three]
    cut = 0
    for name, (low, high) in ends.items():
        free = story.spread([figures[name] for figures in runs])
        share = name in story.FIGURES and story.FIGURES[name][0] == story.SHARE
        least, most = (max(free[0], 0), min(free[1], 1)) if share else free
        assert (low, high) == (round(least, 3), round(most, 3)), name
        cut += free != (least, most)
    assert cut  # some share came too near to its end


def test_the_page_states_the_commits_of_its_runs(tmp_path, three):
    runs = pathlib.Path(__file__).parents[1] / "golden/runs"
    assert "no runs, by" in story.page(three)
    for name, commit in (("sft", None), ("dpo", "0123abcdef")):
        target = pathlib.Path(three[0], name)
        shutil.copytree(runs / name, target)
        if commit is None:
            continue
        (file,) = target.glob("checkpoints/*/meta/data.json")
        meta = json.loads(file.read_text())
        meta["versions"]["commit"] = commit
        del meta["sha256"]
        file.write_text(json.dumps({**meta, "sha256": json_files.compact_digest(meta)}))
    assert f"the runs by commit {commit} and one that they" in story.page(three)


def test_a_figure_outside_the_spread_is_named(tmp_path, three, capsys):
    name = "sft: familiar prompts"
    far = folder(tmp_path / "far", shift=2.0)
    assert story.main([three[0], far]) == 1
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2 and name in lines[1] and far in lines[1]


@pytest.mark.parametrize("without", [["dpo"], ["pretrain", "sft"]])
def test_a_story_that_is_not_whole_is_refused(tmp_path, three, capsys, without):
    part = folder(tmp_path / "part", without=without)
    assert story.main([part]) == errors.CONFIG
    assert f"models.{without[0]}" in capsys.readouterr().err
    assert story.main([str(tmp_path)]) == errors.CONFIG
