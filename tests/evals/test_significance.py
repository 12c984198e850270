# SPDX-License-Identifier: Apache-2.0
"""Known p-values, corrections, margins, sizes of samples, and curves at equal KL."""

import numpy as np
import pytest
from scipy import stats

from alignjax.evals import differences, frontier, planning, significance, statistics
from tests.evals.test_differences import A, B, near

D = B - A
PS = [0.001, 0.008, 0.039, 0.041, 0.042, 0.06, 0.074, 0.205, 0.212, 0.216]


def test_exact_tests():
    assert significance.sign_flips(D) == near(224 / 4096)
    assert significance.sign_flips(D) == significance.sign_flips(-D[::-1])
    assert significance.signed_ranks(D) == near(0.05859375)
    assert significance.sign_flips(np.zeros(5)) == 1
    assert significance.sign_flips(np.linspace(0.5, 1, 20)) == near(2**-19, 1e-12)
    assert significance.sign_flips(np.linspace(0.5, 1, 40)) == near(1 / 10_001)
    assert significance.sign_flips([1.0]) == 1
    many = np.random.default_rng(0).normal(0.1, 1, 60)
    t = stats.ttest_1samp(many, 0).pvalue
    assert significance.sign_flips(many) == pytest.approx(t, abs=0.02)
    for b, c, exact, mid in (
        (12, 3, 0.03515625, 0.0212707520),
        (20, 9, 0.0614283457, 0.0427739453),
        (7, 7, 1.0, None),
    ):
        found = significance.mcnemar(b, c)
        assert found.exact == near(exact)
        assert mid is None or found.mid == near(mid)


def test_few_runs_cannot_give_a_small_p():
    unpaired = [significance.smallest_p(s, paired=False) for s in range(2, 7)]
    assert unpaired == [near(1 / 3), 0.1, near(1 / 35), near(1 / 126), near(1 / 462)]
    paired = [significance.smallest_p(s, paired=True) for s in range(2, 7)]
    assert paired == [0.5, 0.25, 0.125, 0.0625, 0.03125]
    for runs in (3, 4):
        apart = np.arange(runs) + 100.0, np.arange(runs)
        for is_paired in (True, False):
            p = significance.exact_runs(*apart, paired=is_paired)
            assert p == near(significance.smallest_p(runs, paired=is_paired))


def test_all_splits_of_eight_runs_are_counted_in_any_order():
    a, b = np.arange(8) + 100.0, np.arange(8.0)
    p = significance.exact_runs(a, b, paired=False)
    assert p == near(significance.smallest_p(8, paired=False), 1e-12)
    a, b = np.random.default_rng(0).normal(size=(2, 12))  # too many to count
    p = significance.exact_runs(a, b, paired=False)
    assert p == significance.exact_runs(b[::-1], a, paired=False)


def test_corrections_for_many():
    adjusted = [0.01, 0.072, *[0.312] * 5, 0.615, 0.615, 0.615]
    assert significance.holm(PS) == near(adjusted)
    assert significance.holm(PS[::-1]) == near(adjusted[::-1])
    rates = [0.01, 0.04, 0.084, 0.084, 0.084, 0.1, 0.1057142857, *[0.216] * 3]
    np.testing.assert_allclose(stats.false_discovery_control(PS), rates, atol=1e-8)


def test_many_arms_and_one_control():
    dpo, ipo = [1.08, 1.07, 1.09, 1.06, 1.10], [1.12, 1.06, 1.06, 1.10, 1.09]
    other = [1.05, 0.66, 1.04, 0.95, 1.00]
    assert significance.dunnett(dpo, ipo, other) == near([0.993, 0.068], 2e-3)
    assert significance.dunnett([1, 1], [2, 2], [1, 1]) == [0, 1]  # without a warning


def test_a_mean_over_runs_is_by_students_t():
    runs = [1.0, 2.0, 4.0]
    mean = differences.of_means(runs)
    low, high = stats.t.interval(0.95, 2, np.mean(runs), stats.sem(runs))
    assert mean[:3] == near([7 / 3, low, high])
    assert mean.p == near(stats.ttest_1samp(runs, 0).pvalue)
    (alone, low, *_) = differences.of_means([3.0])
    assert alone == 3.0 and np.isnan(low)


def test_small_p_of_dunnett_are_not_those_of_its_integration():
    """At t = 37 and 5 degrees of freedom: 2.6e-7 alone, 4 times that at the most."""
    arms = ([0.772, 0.763], [0.458, 0.457], [0.844, 0.837], [0.805, 0.822])
    _, small, _, large = significance.dunnett([0.793, 0.814], *arms)
    assert 2.6e-7 < small < 4 * 2.7e-7 and 0.33 < large < 1


def test_the_best_of_many_owes_to_luck():
    expected = {5: 1.1629644737, 10: 1.5387527308, 55: 2.2859833006}
    assert {m: significance.best_of(m) for m in expected} == near(expected)


def test_margins():
    out = differences.over_prompts(D)
    assert significance.equivalence(out, -0.5, 0.5) == near(0.0900851218)
    assert significance.equivalence(out, -0.25, 0.6) == near(0.0252857981)
    assert significance.non_inferiority(out, 0.05) == near(0.0091633762)
    with pytest.raises(ValueError):
        significance.equivalence(out, 0.5, -0.5)


def test_shares():
    ends = lambda i: (i["low"], i["high"])
    assert ends(statistics.share(60, 100)) == near((0.5020025868, 0.6905987136))
    assert ends(statistics.share(0, 20)) == near((0, 0.1611251581))
    assert ends(statistics.share(20, 20)) == near((0.8388748419, 1))
    # With a tie: Wilson's ends are the roots of (p - mean)^2 = z^2 p (1 - p) / count.
    for end in ends(statistics.share(2.5, 3)):
        z2 = stats.norm.ppf(0.975) ** 2
        assert (end - 2.5 / 3) ** 2 == near(z2 * end * (1 - end) / 3)
    assert statistics.at_most(0, 100) == near(0.0295130496)
    assert statistics.at_most(5, 5) == 1
    exact = lambda *hits: ends(statistics.share(*hits, method="exact"))
    assert exact(60, 100) == near((0.4972091504, 0.6967052313))
    assert exact(0, 100)[1] == near(0.0362166926)


def test_sizes_of_samples():
    assert planning.z_sum() ** 2 == near(7.8488797343)
    need = planning.prompts_needed
    assert need(0.03, 1 / 9) == near(968.9974980678)
    noise = (1 / 6, 1 / 6)
    assert need(0.03, 1 / 9, noise) == near(3875.9899922712)
    assert need(0.03, 1 / 9, noise, (10, 10)) == near(1259.6967474881)
    assert need(0.1, 0.5, (0.6, 0), (4, 1)) < need(0.1, 0.5, (0.6, 0))
    assert need(0.15, 1.3**2) == near(589.5380778244)
    assert planning.detectable(1.3 / 24) == near(0.1517525327)
    pairs = [round(planning.pairs_needed(rate)) for rate in (0.52, 0.45, 0.6)]
    assert pairs == [4903, 783, 194]
    with pytest.raises(ValueError):
        planning.pairs_needed(0.5)
    pilot = [[1, 2, 0], [2, 2, 2], [0, -1, 1], [1.5, 0.5, 1]]
    assert planning.variances(pilot) == near((0.4791666667, 0.5625))
    assert planning.variances([[0, 2], [2, 0]]).between == 0
    with pytest.raises(ValueError):
        planning.variances([[1], [2]])


FIRST = [0, 0.1, 0.2, 0.4, 0.8], [1, 1.2, 1.35, 1.45, 1.40]
SECOND = [0, 0.05, 0.3, 0.6, 1], [1, 1.15, 1.38, 1.5, 1.52]


def test_curves_are_read_over_the_root_of_kl():
    for at, first, second in (
        (0.1, 1.2, 1.2157259700),
        (0.25, 1.3784959256, 1.3461349752),
        (0.5, 1.4357520372, 1.4643027294),
        (0.75, 1.4054207748, 1.5081124564),
    ):
        assert frontier.height(*FIRST, at) == near(first)
        assert frontier.height(*SECOND, at) == near(second)
    assert frontier.mean_height(*FIRST, 0.1, 0.8) == near(1.3830094310)
    assert frontier.mean_height(*SECOND, 0.1, 0.8) == near(1.3966289852)
    assert frontier.height(*FIRST, 0.75) == frontier.height(
        *(list(reversed(x)) for x in FIRST), 0.75
    )
    assert np.isnan(frontier.height(*FIRST, 0.9))


def curve(points, seed, runs=3, prompts=40):
    """Runs that differ a little, whose mean over prompts is on the curve."""
    rng = np.random.default_rng(seed)
    kl, gold = (np.array(x)[None, :, None] for x in points)
    noise = rng.normal(0, 1, (runs, 1, prompts))
    noise -= noise.mean()
    shared = np.random.default_rng(9).normal(0, 1, prompts)
    shared -= shared.mean()
    kl = kl * (1 + 0.2 * shared)
    return frontier.Curve(kl + 0 * noise, gold + 0.3 * shared + 0.05 * noise)


def test_the_difference_at_one_kl_has_one_joint_bootstrap():
    a, b = curve(SECOND, 0), curve(FIRST, 1)
    out = frontier.matched(a, b, 0.5, draws=401)
    assert out.estimate == near(1.4643027294 - 1.4357520372)
    assert out.low < out.estimate < out.high
    # What prompts have in common cancels, so the joint interval is narrow.
    assert out.error < 0.3 / np.sqrt(40) / 2
    back = frontier.matched(b, a, 0.5, draws=401)
    assert (back.estimate, back.low, back.high) == (-out.estimate, -out.high, -out.low)
    same = frontier.matched(a, a, 0.5, draws=401)
    assert (same.estimate, same.low, same.high) == (0, 0, 0)
    clustered = frontier.matched(a, b, 0.5, np.arange(40) // 4, draws=401)
    assert clustered.estimate == out.estimate and clustered.error != out.error
    for outside in (0.81, 0.79):  # of the curve, and of many draws
        with pytest.raises(ValueError, match="outside of the second arm"):
            frontier.matched(a, b, outside, draws=401)
