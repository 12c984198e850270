# SPDX-License-Identifier: Apache-2.0
"""Flipped labels: how many there are, and that nothing else changes."""

import itertools

import pytest

from alignjax import world
from experiments.label_noise import sweep

COUNT = 400


def records(flip):
    source = sweep.load(flip, preset="nano", documents=COUNT)
    return [record for _, record in source.documents()], source.identity


def test_no_pair_is_flipped_at_first():
    clean = world.load(preset="nano", split="preferences", documents=COUNT)
    pairs = [pair for _, pair in clean.documents()]
    assert records(0.0)[0] == pairs


def test_a_share_of_the_pairs_is_flipped_and_more_of_them_at_a_larger_one():
    (clean, first), (few, second), (many, _) = map(records, (0.0, *sweep.SHARES))
    flipped = [
        {i for i, (a, b) in enumerate(zip(clean, own, strict=True)) if a != b}
        for own in (few, many)
    ]
    assert flipped[0] < flipped[1] and first != second
    for places, share in zip(flipped, sweep.SHARES, strict=True):
        assert len(places) / COUNT == pytest.approx(share, abs=0.07)
    for i in flipped[1]:
        assert (many[i].chosen, many[i].rejected) == (
            clean[i].rejected,
            clean[i].chosen,
        )
        assert many[i].rewards == clean[i].rewards[::-1]
        assert many[i].probability == pytest.approx(1 - clean[i].probability)


def test_each_loss_is_told_the_share():
    arms = {arm["name"]: arm for arm in sweep.get_sweep()["arms"]}
    assert len(arms) == 1 + 3 * len(sweep.SHARES)
    for name, share in itertools.product(("robust", "conservative"), sweep.SHARES):
        arm = arms[f"{name}_{round(100 * share)}"]
        assert arm["data.sources.pairs.flip"] == share
        assert arm["objective.label_smoothing"] == share
