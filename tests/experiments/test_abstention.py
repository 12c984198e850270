# SPDX-License-Identifier: Apache-2.0
"""Fabrication and abstention by stage: commands, and the table of made-up answers."""

import argparse
import dataclasses
import pathlib
import xml.etree.ElementTree

import pytest

from alignjax.evals import rows
from experiments.abstention import run
from tests.ablation import made_up


def answers(stage, seed, abstains):
    """Of each slice, prompts from `abstains` on are answered as if they were known."""
    own = made_up.answers(f"{stage}_{seed}", None, seed, 0.0, made_up.STEPS)
    for row in own:
        part = ("eval_fact", "eval_unknown")[row.prompt % 2]
        tag = "abstain" if row.prompt // 2 < abstains + seed else "right"
        yield dataclasses.replace(row, slice=part, tag=tag)


def test_the_second_stage_goes_on_from_the_first(tmp_path):
    options = argparse.Namespace(pretrain="a", pairs="b", out=tmp_path)
    commands = run.training(options, 2)
    workdir = f"{tmp_path / 'sft_2'}"
    assert f"--workdir={workdir}" in commands["sft"]
    assert f"--config.init.run={workdir}" in commands["dpo"]


def test_a_stage_that_abstains_more(tmp_path):
    for stage, abstains in (("pretrain", 3), ("sft", 2), ("dpo", 9)):
        for seed in range(1 if stage == "pretrain" else 3):
            name = stage if stage == "pretrain" else f"{stage}_{seed}"
            path = pathlib.Path(tmp_path, "rows", f"{name}.jsonl")
            rows.write(path, answers(stage, seed, abstains))
    by_share = run.read(tmp_path)
    means = {
        share: [arm.values_SP.mean() for arm in by_stage.values()]
        for share, by_stage in by_share.items()
    }
    assert means["abstained"] == pytest.approx([3 / 12, 3 / 12, 10 / 12])
    assert means["declined"] == means["abstained"]  # of questions with an answer
    assert means["fabricated"] == pytest.approx([9 / 12, 9 / 12, 2 / 12])
    assert means["false"] == [0.0, 0.0, 0.0]
    lines = list(run.verdicts(by_share))
    assert "dpo below sft in the share fabricated: holds" in lines[1]
    assert "sft below pretrain in the share fabricated: is not shown" in lines[0]
    svg = run.figure(by_share)
    assert xml.etree.ElementTree.fromstring(svg).tag.endswith("svg")
