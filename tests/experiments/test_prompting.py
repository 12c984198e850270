# SPDX-License-Identifier: Apache-2.0
"""Prompting or fine-tuning: what stands before a question, and the table of answers."""

import dataclasses
import xml.etree.ElementTree

from alignjax import world
from experiments.prompting import run, sweep
from tests.ablation import made_up


def test_what_stands_before_a_question():
    town = world.build(run.PRESET, run.SEED)
    shots = run.shots(town, 0)
    assert [role for role, _ in shots] == ["user", "assistant"] * run.SHOTS
    assert shots != run.shots(town, 1)
    question = ("user", "what is two plus three?")
    prompt = world.Prompt("arithmetic", (question,), "right", "", 0, run.PRESET, {})
    turns = {n: run.in_front(prompt, n, shots).turns for n in run.PROMPTS}
    assert turns["base"] == (question,)
    assert turns["base_system"] == (("system", run.ORDER), question)
    assert turns["base_shots"] == (*shots, question)
    assert turns["base_both"] == (("system", run.ORDER), *shots, question)
    own = ("system", "never discuss food.")
    prompt = prompt._replace(turns=(own, question))
    assert run.in_front(prompt, "base_both", shots).turns == (own, *shots, question)


def test_what_was_expected_is_printed_whatever_came_out(monkeypatch):
    """The base gains from examples what 16 epochs lose on unfamiliar prompts."""
    gaps = dict.fromkeys(run.PROMPTS, 0.0) | {"base_shots": 0.5}
    gaps |= {f"sft_{n}": -0.5 if n == 16 else 0.1 for n in sweep.EPOCHS}
    by_arm = {}
    for arm, gap in gaps.items():
        rows = [
            dataclasses.replace(row, slice=("eval_id", "eval_fact")[row.prompt % 2])
            for seed in range(3)
            for row in made_up.answers(f"{arm}_{seed}", None, seed, gap, made_up.STEPS)
        ]
        by_arm[arm] = rows
    slices = {"familiar": ["eval_id"], "unfamiliar": ["eval_fact"]}
    monkeypatch.setattr(run, "SLICES", slices)
    lines, table = list(run.verdicts(by_arm)), run.table(by_arm)
    svg = run.figure(by_arm)
    assert "sft_16 below sft_4 in reward of unfamiliar prompts: holds" in lines[0]
    assert "is wrong, the reverse holds" in lines[1]  # above, on familiar ones
    assert len(table.splitlines()) == 2 + len(by_arm)
    assert xml.etree.ElementTree.fromstring(svg).tag.endswith("svg")
