# SPDX-License-Identifier: Apache-2.0
"""Learning rates at the steps where their papers say what they are."""

import math

import pytest

from alignjax import errors
from alignjax.training import schedules


def build(steps=100, tokens_per_step=50, **section):
    return schedules.build(
        section, peak=2.0, steps=steps, tokens_per_step=tokens_per_step
    )


@pytest.mark.parametrize("name", ["constant", "linear", "cosine", "wsd", "rsqrt"])
@pytest.mark.parametrize(
    "warmup", [dict(warmup_steps=10), dict(warmup_tokens=500)], ids=["steps", "tokens"]
)
def test_warms_up_in_a_line_and_learns_from_the_first_step(name, warmup):
    rate = build(name=name, **warmup)
    assert float(rate(0)) == pytest.approx(0.2)
    assert float(rate(4)) == pytest.approx(1.0)
    assert float(rate(9)) == pytest.approx(2.0)
    assert max(float(rate(t)) for t in range(100)) <= 2.0 + 1e-6


@pytest.mark.parametrize(
    "section,step,expected",
    [
        (dict(name="constant"), 99, 2.0),
        (dict(name="linear", final=0.5), 50, 1.5),
        (dict(name="linear"), 100, 0.0),
        (dict(name="linear", warmup_steps=20), 60, 1.0),
        (dict(name="cosine", final=0.0), 25, 1 + math.cos(math.pi / 4)),
        (dict(name="cosine"), 100, 0.2),
        (dict(name="wsd", decay=0.2), 79, 2.0),
        (dict(name="wsd", decay=0.2), 90, 1.0),
        (dict(name="wsd", decay=0.2), 100, 0.0),
        (dict(name="rsqrt", timescale=100), 300, 1.0),
        (dict(name="rsqrt", timescale=1, warmup_steps=50), 50 + 150, 1.0),
    ],
    ids=str,
)
def test_values(section, step, expected):
    assert float(build(**section)(step)) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(
    "section,message",
    [
        (dict(name="cosin"), "schedule.name: unknown schedule 'cosin'; did you mean"),
        (dict(name="cosine", decay=0.1), "schedule.decay: unknown field"),
        (dict(name="wsd", decay=0.0), "schedule.decay: 0.0 is not in (0, 1]"),
        (dict(name="cosine", final=-3.0), "schedule.final: -3.0 is not at least 0"),
        (dict(name="rsqrt", timescale=0), "schedule.timescale: 0 is not at least 1"),
        (dict(name="cosine", warmup_tokens=-5), "schedule.warmup_tokens: -5 is below"),
        (dict(name="cosine", warmup_steps=101), "schedule.warmup_steps: 101 is not"),
        (dict(name="cosine", warmup_steps=1, warmup_tokens=1), "not both"),
    ],
    ids=str,
)
def test_refuses(section, message):
    with pytest.raises(errors.ConfigError) as error:
        build(**section)
    assert message in str(error.value)
