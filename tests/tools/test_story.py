# SPDX-License-Identifier: Apache-2.0
"""The figures of the quickstart's story: read from its results, and held to a page."""

import json

import pytest

from alignjax import errors
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
