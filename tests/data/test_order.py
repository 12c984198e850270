# SPDX-License-Identifier: Apache-2.0
"""Permutations permute, mixtures mix, and both stay as they are for ever."""

import collections
import itertools
import time

import numpy as np
import pytest

from alignjax.data import shuffle


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 16, 17, 100, 1000, 4097])
def test_permutation_of_any_size(size):
    for name in range(5):
        found = shuffle.permute(np.arange(size), size, shuffle.key(name))
        assert sorted(found) == list(range(size))
        one_by_one = [
            int(shuffle.permute(np.array([i]), size, shuffle.key(name))[0])
            for i in range(min(size, 20))
        ]
        assert one_by_one == found[:20].tolist()


def test_permutations_are_about_uniform():
    counts = collections.Counter(
        tuple(shuffle.permute(np.arange(4), 4, shuffle.key("uniform", name)).tolist())
        for name in range(12_000)
    )
    assert len(counts) == 24
    assert 350 < min(counts.values()) <= max(counts.values()) < 650  # 500 expected

    size, trials = 50, 3000
    table = np.zeros((size, size))
    for name in range(trials):
        found = shuffle.permute(np.arange(size), size, shuffle.key("where", name))
        table[np.arange(size), found] += 1
    expected = trials / size
    chi_square = ((table - expected) ** 2 / expected).sum() / (size - 1) ** 2
    assert 0.9 < chi_square < 1.1


def test_keys_apply_to_each_index():
    keys = np.array([shuffle.key(i) for i in range(3)])
    indices = np.array([5, 5, 7])
    together = shuffle.permute(indices, 1000, keys)
    for index, key, found in zip(indices, keys, together, strict=True):
        assert shuffle.permute(np.array([index]), 1000, key)[0] == found


def test_large_permutations_cost_nothing_to_start():
    start = time.perf_counter()
    found = shuffle.permute(np.array([0, 10**12]), 10**15 + 1, shuffle.key(0))
    assert time.perf_counter() - start < 0.5
    assert (found >= 0).all() and (found <= 10**15).all()


def test_the_order_never_changes():
    """A change of these numbers breaks the resumption of every run: do not make it."""
    assert int(shuffle.key(7, "text")) == 3233051111736172334
    even, odd = (
        shuffle.permute(np.arange(n), n, shuffle.key(7, "text")) for n in (10, 17)
    )
    assert even.tolist() == [1, 4, 3, 6, 0, 8, 7, 2, 5, 9]
    assert odd[:10].tolist() == [16, 13, 11, 6, 1, 14, 7, 4, 12, 2]


@pytest.mark.parametrize(
    "weights, share",
    [
        ([1.0], [1]),
        ([5, 5], [1, 1]),
        ([0.7, 0.2, 0.1], [7, 2, 1]),
        ([1 / 3, 2 / 3], [1, 2]),
        ([1, 2, 4.5], [2, 4, 9]),
    ],
)
def test_mixture_is_exact(weights, share):
    mixture = shuffle.mixture(weights)
    assert mixture.share.tolist() == share
    n = 10 * sum(share)
    source, place = mixture.locate(np.arange(n))
    counts = np.bincount(source, minlength=len(share))
    assert (counts == 10 * np.array(share)).all()
    for s in range(len(share)):  # every row of a source once, in order
        assert place[source == s].tolist() == list(range(counts[s]))
    for stop in range(1, n):  # never more than a slot away from its proportion
        so_far = np.bincount(source[:stop], minlength=len(share))
        ideal = stop * np.array(share) / sum(share)
        assert np.abs(so_far - ideal).max() < 1.5


def test_mixture_of_awkward_weights():
    weights = np.array([np.pi, np.e, 0.01])
    mixture = shuffle.mixture(weights)
    assert len(mixture.source) <= shuffle.MOST_SLOTS
    ideal = weights / weights.sum()
    found = mixture.share / mixture.share.sum()
    assert np.abs(found - ideal).max() < 1 / shuffle.MOST_SLOTS
    with pytest.raises(ValueError, match="weight 1e-09 is less than 1 in"):
        shuffle.mixture([1.0, 1e-9])


def test_mixture_far_away_is_the_same_function():
    mixture = shuffle.mixture([3, 2, 1])
    source, place = mixture.locate(np.arange(60))
    far = 6 * 10**9
    source_far, place_far = mixture.locate(far + np.arange(60))
    assert (source == source_far).all()
    per_block = np.array([3, 2, 1]) * 10**9
    assert (place_far - place == per_block[source]).all()
    pairs = set(itertools.chain(zip(source.tolist(), place.tolist(), strict=True)))
    assert len(pairs) == 60
