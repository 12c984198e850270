# SPDX-License-Identifier: Apache-2.0
"""Splits of equal runs: how many there are, and which interval finds them different."""

import dataclasses

import numpy as np

from experiments.equal_runs import check
from tests.ablation import made_up


def test_six_runs_have_ten_splits():
    halves = list(check.splits("abcdef"))
    assert len(halves) == 10 and all(len(a) == len(b) == 3 for a, b in halves)
    assert len({frozenset(map(frozenset, pair)) for pair in halves}) == 10


def test_an_interval_over_prompts_calls_equal_runs_different():
    """Runs whose means have a deviation of 0.3, on prompts that all find as hard."""
    shifts = np.random.default_rng(0).normal(0, 0.3, 6)
    answers = [
        dataclasses.replace(row, gold=row.gold + shift)
        for seed, shift in enumerate(shifts)
        for row in made_up.answers(f"dpo_{seed}", "dpo", seed, 0.0, made_up.STEPS)
    ]
    assert sum(check.different(answers, "prompts")) >= 5
    assert sum(check.different(answers, "runs")) <= 1
