# SPDX-License-Identifier: Apache-2.0
"""The best of n by reward models: what is trained, and the table of made-up answers."""

import pathlib
import xml.etree.ElementTree

from alignjax import train
from alignjax.evals import rows
from experiments.best_of_n import run

SFT = pathlib.Path(__file__).resolve().parents[1] / "golden" / "runs" / "sft"


def answer(prompt, sample, reward, gold):
    fields = dict(run="sft", suite="town", suite_digest="0", text="t", finished=True)
    parts = {"reward.few_0": reward, "reward.many_0": gold}
    fields |= dict(tokens=1, gold=gold, components=parts)
    return rows.Answer(**fields, prompt=prompt, sample=sample)


def test_the_reward_models_differ_in_their_pairs_alone(tmp_path, capsys):
    command = run.training(SFT, tmp_path, "few", 1)
    flags = [flag for flag in command if flag.startswith("--")]
    assert train.main([*flags, "--print"]) == 0
    assert "200" in capsys.readouterr().out
    other = run.training(SFT, tmp_path, "many", 1)
    assert [a.replace("200", "8000").replace("few", "many") for a in command] == other


def test_a_reward_that_is_fooled_by_its_best_answer():
    """Its own highest score is the truth's lowest; the other one knows the truth."""
    gold = [0.0, 1.0, 2.0, -3.0]
    answers = [answer(p, s, s, gold[s] + p) for p in range(4) for s in range(4)]
    by_model = {n: run.curves(answers, n) for n in ("few_0", "many_0")}
    fooled, knows = run.verdicts(by_model)
    assert "rises to n = 4: True" in fooled and "its peak is at 1" in fooled
    assert "its peak is at 4" in knows
    table = run.table(by_model).splitlines()
    assert table[0].count("n = ") == 3 and len(table) == 2 + 4
    # Of two drawn from four the later one: (1 + 2 + 2 - 3 * 3) / 6, less a mean of 0.
    assert "| -0.67 (-0.67 to -0.67) | -3.00 (-3.00 to -3.00) |" in table[3]
    svg = run.figure(by_model)
    assert xml.etree.ElementTree.fromstring(svg).tag.endswith("svg")
