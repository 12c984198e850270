# SPDX-License-Identifier: Apache-2.0
"""Differences: known numbers, exact symmetries, and how often a null is rejected."""

import itertools
import time

import numpy as np
import pytest

from alignjax.evals import differences

A = np.array([1, 2, -1, 0.5, 2.25, -0.5, 1.5, 0, 2, -1.5, 0.75, 1.25])
B = np.array([1.5, 2, -0.5, 0.25, 2.75, 0.5, 1.5, 0.5, 1.75, -0.5, 1.25, 1])


def near(value, tolerance=1e-8):
    return pytest.approx(value, abs=tolerance)


def test_paired_t():
    out = differences.over_prompts(B - A)
    assert out.estimate == near(0.3125) and out.error == near(0.1310107849)
    assert (out.low, out.high) == (near(0.0241472066), near(0.6008527933))
    assert out.p == near(0.0361607017) and out.freedom == 11


def test_clusters_of_prompts():
    scores = np.array([1, 1, 1, 0, 0, 0, 1, 1, 0, 0, 1, 0.0])
    clusters = [0, 0, 0, 1, 1, 1, 2, 2, 3, 3, 4, 4]
    error = differences._clustered_error(scores, np.array(clusters))
    assert error == near(0.2375365469)
    assert error * np.sqrt(4 / 5) == near(0.2124591464)
    assert differences.over_prompts(scores).error == near(0.1507556723)
    few = differences.over_prompts(scores, clusters)
    assert few.freedom is None and few.low < 0.5 - 1.5 * 0.1507556723
    many = differences.over_prompts(np.tile(scores, 4), np.arange(48) // 3)
    assert many.freedom == 15
    out = differences.design_effect(scores, clusters)
    assert out == near((0.7654320988, 2.375, 2.0524691358))
    for alike in (range(12), [0] * 12):
        with pytest.raises(ValueError):
            differences.design_effect(scores, alike)


@pytest.mark.parametrize("count", [2, 3, 5, 8, 14])
def test_few_clusters_do_not_reject_a_true_null_too_often(count):
    """A plain bootstrap over them rejects 48, 23, 18, 13 and 10 % at a nominal 5 %."""
    rng, rejected, small = np.random.default_rng(count), 0, 0
    clusters = np.repeat(np.arange(count), 6)
    for _ in range(200):
        values = rng.normal(0, 0.35, count)[clusters] + rng.normal(0, 0.35, 6 * count)
        out = differences.over_prompts(values, clusters)
        rejected += out.low > 0 or out.high < 0
        small += out.p < 0.05
    # 7 % and two deviations of 200 draws.
    assert max(rejected, small) <= 0.07 * 200 + 2 * np.sqrt(200 * 0.07 * 0.93)


@pytest.mark.parametrize("count", [3, 6])
def test_differences_by_cluster_are_not_those_of_losses(count):
    """Five runs a side of losses that differ by cluster alone."""
    rng, rejected = np.random.default_rng(count), 0
    clusters = np.repeat(np.arange(count), 6)
    for _ in range(150):
        a, b = (
            rng.normal(0, 0.35, count)[clusters] + rng.normal(0, 0.2, (5, 6 * count))
            for _ in range(2)
        )
        out = differences.crossed(a, b, clusters, draws=401)
        rejected += out.low > 0 or out.high < 0
    assert rejected <= 0.07 * 150 + 2 * np.sqrt(150 * 0.07 * 0.93)


def test_students_and_welchs_t_over_runs():
    dpo, other = [[1.08], [1.07], [1.09], [1.06], [1.10]], [1.05, 0.66, 1.04, 0.95, 1.0]
    other = np.array(other)[:, None]
    student = differences.over_runs(other, dpo, paired=True)
    assert student.estimate / student.error == near(-2.0249489895)
    assert student.p == near(0.1128597698) and student.freedom == 4
    welch = differences.over_runs(other, dpo)
    assert welch.estimate / welch.error == near(-1.9303460160)
    assert welch.freedom == pytest.approx(4.0768, abs=1e-4)
    assert welch.p == near(0.1244254579)


def test_the_bootstrap_has_the_exact_standard_error():
    """Without draws it is the deviation with ddof 0 by the root of n."""
    out = differences.crossed(B[None], A[None], draws=40_001)
    assert out.error == pytest.approx(0.1254332769, rel=0.02)
    assert (out.estimate, out.low, out.high) == (0.3125, near(0.0625), near(0.5625))


def arms(seed=0, runs=5, prompts=30, gap=0.0):
    rng = np.random.default_rng(seed)
    return rng.normal(gap, 1, (runs, prompts)), rng.normal(0, 1, (runs, prompts))


KINDS = {
    "crossed": lambda a, b: differences.crossed(a, b),
    "paired": lambda a, b: differences.crossed(a, b, paired=True),
    "clustered": lambda a, b: differences.crossed(a, b, np.arange(30) // 4),
    "over runs": lambda a, b: differences.over_runs(a, b),
    "over paired runs": lambda a, b: differences.over_runs(a, b, paired=True),
    "over prompts": lambda a, b: differences.over_prompts(a[0] - b[0]),
}


@pytest.mark.parametrize("kind", KINDS)
def test_swapped_arms_mirror_to_the_last_bit_and_equal_ones_are_zero(kind):
    a, b = arms(gap=0.3)
    there, back = KINDS[kind](a, b), KINDS[kind](b, a)
    assert (there.estimate, there.low, there.high) == (
        *(-back.estimate, -back.high, -back.low),
    )
    assert there.p == back.p and there.low < there.estimate < there.high
    if kind == "over runs":  # where a run on both sides is not two
        return
    same = KINDS[kind](a, a.copy())
    assert (same.estimate, same.low, same.high, same.p) == (0, 0, 0, 1)


def test_prompts_of_a_cluster_are_drawn_together():
    """Copies of each prompt add nothing to know of others."""
    rng = np.random.default_rng(0)
    a, b = rng.normal(0, 1, (1, 20)), rng.normal(0, 1, (1, 20))
    copies = [np.repeat(x, 3, axis=1) for x in (a, b)]
    one, three = (
        differences.crossed(a, b),
        differences.crossed(*copies, np.arange(60) // 3),
    )
    independent = differences.crossed(*copies)
    assert three.error == pytest.approx(one.error, rel=0.1)
    assert independent.error == pytest.approx(one.error / np.sqrt(3), rel=0.1)


# Standard deviations of runs, of the difference that depends on the prompt, of answers.
NULLS = {
    "runs": (0.2, 0, 0.35),
    "answers": (0.035, 0, 0.35),
    "prompts": (0, 0.35, 0.35),
}


@pytest.mark.parametrize("name", NULLS)
def test_a_true_null_is_rejected_at_most_as_often_as_it_says(name):
    """400 pairs of arms of 5 runs that do not differ: at most 7 % at a nominal 5 %.

    Intervals over prompts, and t over runs that forgets the prompts, fail this.
    """
    of_run, of_prompt, of_answer = NULLS[name]
    rng = np.random.default_rng(1)
    rejected = dict.fromkeys(("crossed", "paired", "welch", "student"), 0)
    naive = {"prompts": 0, "runs": 0}
    for _ in range(400):
        a, b = (
            rng.normal(0, of_run, (5, 1))
            + rng.normal(0, of_prompt, (1, 60))
            + rng.normal(0, of_answer, (5, 60))
            for _ in range(2)
        )
        outcomes = {
            "crossed": differences.crossed(a, b, draws=401),
            "paired": differences.crossed(a, b, paired=True, draws=401),
            "welch": differences.over_runs(a, b),
            "student": differences.over_runs(a, b, paired=True),
        }
        for kind, out in outcomes.items():
            rejected[kind] += out.low > 0 or out.high < 0
        naive["prompts"] += differences.over_prompts(a.mean(0) - b.mean(0)).p < 0.05
        columns = (x.mean(1, keepdims=True) for x in (a, b))
        naive["runs"] += differences.over_runs(*columns).p < 0.05
    assert max(rejected.values()) <= 0.07 * 400, rejected
    if name == "runs":
        assert naive["prompts"] > 0.25 * 400
    if name == "prompts":
        assert naive["runs"] > 0.15 * 400


def test_halves_of_one_loss_differ_by_the_yardstick():
    means = np.array([1.08, 1.07, 1.09, 1.06, 1.10, 1.0])
    splits = [
        means[list(half)].mean() - np.delete(means, half).mean()
        for half in itertools.combinations(range(6), 3)
    ]
    assert differences.halves(means) == near(np.sqrt(np.mean(np.square(splits))))


def test_splits_of_the_runs_of_one_loss_are_seldom_told_apart():
    """All 10 splits of 6 runs into 3 and 3, of 30 losses."""
    shares = []
    for seed in range(30):
        rng = np.random.default_rng(seed)
        runs = rng.normal(0, 0.2, (6, 1)) + rng.normal(0, 0.35, (6, 40))
        for half in itertools.combinations(range(1, 6), 2):
            half = (0, *half)
            out = differences.over_runs(runs[list(half)], np.delete(runs, half, axis=0))
            shares.append(out.low > 0 or out.high < 0)
    assert np.mean(shares) <= 0.1


def test_forty_runs_of_640_prompts_take_under_two_seconds():
    a, b = arms(runs=40, prompts=640)
    start = time.process_time()
    differences.crossed(a, b)
    assert time.process_time() - start < 2


@pytest.mark.parametrize(
    "call",
    [
        lambda: differences.over_prompts([1.0]),
        lambda: differences.over_prompts([1.0, 2.0], ["x", "x"]),
        lambda: differences.over_runs(np.ones((1, 4)), np.ones((5, 4))),
        lambda: differences.halves([1.0]),
    ],
)
def test_too_few_are_refused(call):
    with pytest.raises(ValueError):
        call()
