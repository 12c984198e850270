# SPDX-License-Identifier: Apache-2.0
"""Reward by KL: the arms of the sweeps, and the table of made-up answers."""

import numpy as np
import pytest

from alignjax.evals import rows
from experiments.reward_kl import frontier, sweep


def answers(run, step, kl, gold, prompts=20, samples=1):
    fields = dict(suite="town", suite_digest="0", text="t", tokens=1, finished=True)
    return [
        rows.Answer(
            **fields,
            **dict(run=run, digest=f"{run}{step}", step=step, seed=0, prompt=p),
            **dict(sample=s, kl=kl, gold=gold + s + 0.01 * p),
        )
        for p in range(prompts)
        for s in range(samples)
    ]


def test_every_arm_draws_as_many_responses():
    drawn = set()
    for name in sweep.DRAWS:
        fields = sweep.get_sweep(name)["fields"]
        parts = fields.get("rollouts.minibatches", 1)
        updates = parts * fields.get("rollouts.epochs", 1)
        drawn.add((fields["steps"] / updates, fields["batch_size"] * parts))
        assert fields["steps"] == sweep.LOOKS * fields["checkpoint.every"]
        assert fields["checkpoint.every"] % updates == 0
    assert drawn == {(sweep.ROLLOUTS, sweep.PROMPTS)}
    assert sweep.SEEDS.keys() == {"dpo", *sweep.DRAWS}


@pytest.fixture
def curves(tmp_path):
    """Lines from (0, 1); dpo ends before a KL of .5, ppo in one run of two."""
    sides = {"rloo": [(1.0, 2.0), (1.0, 2.2)], "dpo": [(0.25, 2.0)] * 2}
    for name, points in {**sides, "ppo": [(1.0, 3.0), (0.25, 3.2)]}.items():
        start = tmp_path / name / "start"
        start.mkdir(parents=True)
        rows.write(start / "rows.jsonl", answers("sft", 24, 0.0, 1.0))
        for seed, (kl, gold) in enumerate(points):
            folder = tmp_path / name / f"{name}_{seed}-abcdef12"
            folder.mkdir()
            own = answers(f"{name}_{seed}", 60, kl, gold)
            rows.write(folder / "rows.jsonl", own)
    best = tmp_path / "best" / "rows" / "town"
    best.mkdir(parents=True)
    rows.write(best / "sft.jsonl", answers("sft", 24, 0.0, 1.0, samples=4))
    return frontier.curves_of(tmp_path)


def test_the_table_is_of_the_answers(curves):
    """1.095 + sqrt(.5) and + 1.2 sqrt(.5), with t of one degree of freedom, 12.7."""
    table = {line.split(" | ")[0]: line for line in frontier.table(curves, 0.5)}
    assert table["| rloo"].endswith(
        "| 2 | 1.00 | 2.19 (0.92 to 3.47) | 1.87 (0.97 to 2.77) |"
    )
    assert table["| dpo"].endswith("| not reached |")
    assert table["| ppo"].endswith("| 2.51, 1 of 2 runs |")


def test_differences_have_an_interval_whatever_their_sign(curves):
    lines = dict(line.split(": ") for line in frontier.verdicts(curves, 0.5))
    assert lines["rloo less dpo at a KL of 0.5"] == "none, since not all runs reach it"
    assert lines["rloo less ppo at equal samples, 2 runs each"].startswith("-1.00 (-1.")
    best = lines["best of n less rloo at a KL of 0.5"]
    gap, low, high = (float(x.strip("()")) for x in best.replace("to ", "").split())
    assert high - gap == pytest.approx(gap - low, abs=0.02) == pytest.approx(0.9, 0.02)


def test_a_run_that_ends_a_little_before_counts_with_its_end():
    curve = frontier.frontier.Curve(
        kl=np.array([[[0.0], [0.46]], [[0.0], [0.44]]]),
        gold=np.array([[[1.0], [2.0]], [[1.0], [2.0]]]),
    )
    assert frontier.heights(curve, 0.5) == pytest.approx([2.0, np.nan], nan_ok=True)


def test_the_best_of_all_is_the_best():
    curve = frontier.best_of(answers("sft", 24, 0.0, 1.0, prompts=3, samples=4))
    means = curve.gold.mean((0, 2))
    assert means[0] == pytest.approx(2.51) and means[-1] == pytest.approx(4.01)
    assert curve.kl[0, 0, 0] == 0
    assert curve.kl[0, -1, 0] == pytest.approx(0.636, abs=1e-3)
