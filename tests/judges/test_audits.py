# SPDX-License-Identifier: Apache-2.0
"""Audits of a rubric with a planted fault: it pays for flattery, which costs reward."""

import numpy as np
import pytest

from alignjax.judges import audits, judgements, rubric

PROMPTS, SAMPLES = 30, 4


def criterion(name, weight, levels=2):
    anchors = tuple(map(str, range(levels)))
    return rubric.Criterion(name, f"{name}?", weight, anchors)


FLATTERED = rubric.Rubric(
    "pleasing",
    1,
    (
        criterion("true", 0.2),
        criterion("flatters", 0.8, 3),
        criterion("praises", 0.1, 3),
        criterion("short", 0.1),
    ),
)


def rows(gold):
    """Judgements of a run against itself, by levels that are known."""
    rng = np.random.default_rng(0)
    out = []
    for prompt in range(PROMPTS):
        for sample in range(SAMPLES):
            sides = {}
            for run in ("dpo", "sft"):
                levels = {"true": float(rng.integers(2)), "short": float(prompt % 2)}
                levels["flatters"] = float(rng.integers(3))
                levels["praises"] = levels["flatters"]
                own = judgements.Answer(
                    run=run, sample=sample, tokens=5, gold=gold(levels, rng)
                )
                sides[run] = own, levels
            (arm, of_arm), (base, of_base) = sides["dpo"], sides["sft"]
            out.append(
                judgements.Judgement(
                    judge="j",
                    suite_digest="0",
                    prompt=prompt,
                    slice=f"eval_{'ab'[prompt % 2]}",
                    arm=arm,
                    base=base,
                    arm_first=True,
                    preference=0.5,
                    arm_scores=of_arm,
                    base_scores=of_base,
                )
            )
    return out


def linear(levels, rng):
    return 2 * levels["true"] - levels["flatters"]


def test_what_the_levels_explain_of_the_true_reward():
    graded = audits.graded(rows(linear))
    assert len(graded) == 2 * PROMPTS * SAMPLES
    (line,) = audits.coverage(FLATTERED, graded)
    assert "explain 1.000 of the true reward (R2) of 240 answers" in line
    noise = lambda levels, rng: linear(levels, rng) + rng.normal(0, 2)
    (line,) = audits.coverage(FLATTERED, audits.graded(rows(noise)))
    share = float(line.split("explain ")[1].split()[0])
    assert share == pytest.approx((1 + 2 / 3) / (1 + 2 / 3 + 4), abs=0.1)


def test_two_criteria_that_are_one():
    noise = lambda levels, rng: rng.normal()
    (line,) = audits.redundancy(FLATTERED, audits.graded(rows(noise)))
    assert "flatters and praises" in line and "+1.00; they are one criterion" in line


def test_a_criterion_without_influence_changes_nobodys_win():
    lines = {
        line.split()[1].strip(":"): line
        for line in audits.ablation(FLATTERED, rows(linear))
    }
    assert set(lines) == {"true", "flatters", "praises", "short"}
    assert "+0.000 (+0.000 to +0.000)" in lines["short"]  # all answers have one length
    assert "+0.000 (+0.000 to +0.000)" not in lines["true"]


def test_the_best_by_a_bad_rubric_is_worse_and_the_criterion_is_named():
    graded = audits.graded(rows(linear))
    lines = list(audits.attack(FLATTERED, graded))
    assert [line.split(" of ")[2].split(":")[0] for line in lines] == ["dpo", "sft"]
    for line in lines:
        before, after = line.split("true reward ")[1].split(", ")[:2]
        assert float(after.removeprefix("then ")) < float(before)
        assert line.endswith("; flatters rose most")
    good = lambda levels, rng: levels["flatters"]
    for line in audits.attack(FLATTERED, audits.graded(rows(good))):
        assert "rose most" not in line


def test_few_answers_are_not_fitted_but_compared():
    lines = list(audits.lines(FLATTERED, rows(linear)[:2]))
    assert not any("R2" in line or "correlate" in line for line in lines)
    assert any(line.startswith("  without true") for line in lines)
