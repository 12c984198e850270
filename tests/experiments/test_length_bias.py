# SPDX-License-Identifier: Apache-2.0
"""Controls of length: what is left out, and what the loss is told."""

import collections
import math
import pathlib

import jax.numpy as jnp
import pytest

from alignjax.ablation import sweep_file
from alignjax.world import labelers, lexicon
from experiments.length_bias import sweep


def records(**options):
    source = sweep.load(preset="nano", documents=600, **options)
    return [record for _, record in source.documents()], source.identity


def longer(record) -> int:
    chosen, rejected = (len(lexicon.tokens(text)) for text in record.responses)
    return chosen - rejected


def test_the_price_of_a_token_is_the_labelers():
    labeler = labelers.LABELERS["biased"]
    assert pytest.approx(labeler.judges[0].length / 10 / labeler.temperature) == (
        sweep.PRICE
    )


def test_the_labeler_likes_long_replies_until_they_are_balanced():
    biased, first = records()
    balanced, second = records(control="balanced")
    assert sum(map(longer, biased)) / len(biased) > 0.5 and first != second
    counts = collections.Counter(map(longer, balanced))
    for gap in counts:
        assert abs(counts[gap] - counts[-gap]) <= 1
    assert len(balanced) > len(biased) / 3
    assert {r.responses for r in balanced} < {r.responses for r in biased}


def test_the_loss_is_told_what_the_length_alone_explains():
    """Scores that are the true reward then have the loss of who knows the labeler."""
    plain, _ = records()
    informed, _ = records(control="margin")
    for a, b in zip(plain, informed, strict=True):
        assert a.responses == b.responses
        p = b.values["probability"]
        assert math.log(p / (1 - p)) == pytest.approx(sweep.PRICE * longer(b))
    score_B2 = jnp.array([[1.0, -1.0], [0.5, 0.0], [0.0, 0.0]])
    p_B = jnp.array([0.5, 0.25, 0.9])
    loss_B = sweep.beside_length(score_B2, probability_B=p_B)
    logits = [2.0, 0.5 + math.log(1 / 3), math.log(9)]
    assert loss_B.tolist() == pytest.approx([math.log1p(math.exp(-z)) for z in logits])


def test_every_arm_can_be_run():
    start = str(pathlib.Path(__file__).resolve().parents[1] / "golden/runs/sft")
    path = "experiments/length_bias/sweep.py"
    plan = sweep_file.load(path, [("init.run", start)])
    assert plan.arms == ["biased", "clean", "margin", "balanced"]
    assert len({run.digest for run in plan.runs}) == 4 * 5
