# SPDX-License-Identifier: Apache-2.0
"""One global batch: one loss, one set of metrics, one update, however it is computed.

Over meshes, microbatches, layouts and sizes of chunks, to 1e-5. By default mixtures of
many losses, which share a compilation, over a few arrangements in which everything
occurs; under `-m slow` each loss alone, over all of them.
"""

import functools
import itertools

import pytest

from alignjax.losses import catalogue
from alignjax.types import Mean
from tests.objectives import batches, trajectory

# Every loss whose terms depend on the batch, and one for each field of `LogProbs`. With
# such a beta their gradients are alike in size, so that each is seen in the sum.
COUPLED = [k for k, f in catalogue.PREFERENCE.items() if catalogue.traits(f).coupled]
BETAS = dict.fromkeys("dpo ld_dpo sampo tdpo2 odpo bco_pair rpo_trl mpo".split(), 0.5)
BETAS |= dict.fromkeys("wpo aot aot_unpaired beta_dpo".split(), 0.1)
MIXED = {
    "ipo": {"weight": 0.02},
    "simpo": 1.0,
    "nll_token": 0.5,
    "cpo_trl": 0.5,
    **{name: {"weight": 1.0, "beta": beta} for name, beta in BETAS.items()},
}
SUBJECTS = {
    "pairs": (dict(name="preference", mixture=MIXED), 2, 0),
    "kto": (dict(name="preference", loss="kto", beta=0.5), 2, 0),
    "bco": (dict(name="preference", loss="bco", beta=0.5), 1, 0),
    "lists": (dict(name="preference", loss="plackett_luce_dpo", beta=0.5), 3, 0),
    "reward": (
        dict(name="reward_model", members=2, bootstrap=True, centring=0.01),
        2,
        2,
    ),
}
ARRANGEMENTS = [
    dict(mesh="all", microbatches=4, layout="packed", chunk=5),
    dict(mesh="fsdp", microbatches=2, layout="shared", chunk=100),
    dict(mesh="one", microbatches=4, layout="shared", chunk=16),
]


def take(subject, **how):
    section, K, heads = SUBJECTS[subject]
    if heads:
        how.pop("chunk", None)
    return trajectory.take(section, K, heads=heads, **how)


@functools.cache
def plain(subject):
    """One device, one piece, no padding shared by two groups."""
    return take(subject)


def test_all_coupled_losses_are_here():
    assert set(COUPLED) <= set(MIXED) and len(COUPLED) >= 7
    unpaired = {k for k, f in catalogue.UNPAIRED.items() if catalogue.traits(f).coupled}
    assert unpaired <= set(SUBJECTS)


@pytest.mark.parametrize("how", ARRANGEMENTS[:1], ids=str)
def test_pairs(how):
    trajectory.assert_same(take("pairs", **how), plain("pairs"))


@pytest.mark.parametrize(
    ("subject", "how"),
    [("kto", ARRANGEMENTS[1]), ("lists", ARRANGEMENTS[2]), ("reward", ARRANGEMENTS[0])],
    ids=str,
)
def test_others(subject, how):
    trajectory.assert_same(take(subject, **how), plain(subject))


def test_a_mean_of_means_would_be_seen(monkeypatch):
    """That what is tested here can fail: one denominator is of a microbatch alone."""

    def mean_of_means(x_G, weight_G):
        whole = of(x_G, weight_G)
        return Mean(whole.value(), 1.0)

    expected = plain("bco")
    of = Mean.of
    monkeypatch.setattr(Mean, "of", mean_of_means)
    broken = take("bco", microbatches=4)
    with pytest.raises(AssertionError):
        trajectory.assert_same(broken, expected)


ALONE = {
    **{name: (2, {}) for name in MIXED},
    **{name: (2, {}) for name in ("robust", "hinge", "orpo", "npo", "kto")},
    **{name: (1, {}) for name in ("bco", "apo_zero_unpaired")},
    **{name: (3, {}) for name in ("plackett_luce_dpo", "infonca", "nca")},
}
AXES = (tuple(trajectory.MESHES), (1, 2, 4), batches.LAYOUTS, (5, 16, 100))
ALL = list(itertools.product(*AXES))


def ninth(turn: int) -> list[tuple]:
    """Nine arrangements in which any two values of any two axes meet.

    An orthogonal array of four axes of three values; nine turns are all arrangements.
    """
    return [
        tuple(
            axis[i % 3]
            for axis, i in zip(
                AXES, (a, b, a + b + turn, a + 2 * b + turn // 3), strict=True
            )
        )
        for a, b in itertools.product(range(3), repeat=2)
    ]


def test_a_ninth_of_the_arrangements_has_all_pairs():
    for turn in range(9):
        for i, j in itertools.combinations(range(4), 2):
            assert len({(x[i], x[j]) for x in ninth(turn)}) == 9
    assert {x for turn in range(9) for x in ninth(turn)} == set(ALL)


def assert_invariant(take, expected, arrangements):
    for mesh, microbatches, layout, chunk in arrangements:
        how = dict(mesh=mesh, microbatches=microbatches, layout=layout, chunk=chunk)
        trajectory.assert_same(take(**how), expected)


@pytest.mark.slow
@pytest.mark.parametrize("name", ALONE)
def test_each_loss_alone(name):
    """Over a ninth of all arrangements, another ninth for each loss in turn."""
    K, options = ALONE[name]
    section = dict(name="preference", loss=name, **options)
    alone = functools.partial(trajectory.take, section, K)
    assert_invariant(alone, alone(), ninth(list(ALONE).index(name)))


@pytest.mark.slow
@pytest.mark.parametrize("turn", range(9))
@pytest.mark.parametrize("subject", ["pairs", "reward"])
def test_all_arrangements(subject, turn):
    """The losses of pairs together, and reward models."""
    assert_invariant(functools.partial(take, subject), plain(subject), ninth(turn))
