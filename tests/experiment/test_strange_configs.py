# SPDX-License-Identifier: Apache-2.0
"""Whatever a field of a config is set to, it is taken or refused by its name.

A sound config is changed at random and checked as a start does before it reads data.
"""

import copy

import hypothesis
import pytest
from hypothesis import strategies as st

from alignjax import config, errors
from alignjax.experiment import build, config_file

ODD = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-2, 70_000),
    st.sampled_from([-(2**63), 2**31, 10**12, 10**400, 3 * 10**8]),
    st.sampled_from([0.0, -0.5, 1e-320, 1e308, float("inf"), float("nan")]),
    st.sampled_from(
        ["", "\0", "\ud800", "(", "(((.+)+)+)+x", "../x", "x" * 5000, ".*"]
    ),
    st.sampled_from([[], {}, [[]], [None], {"": 1}, {"kind": 3}, {"name": []}]),
).map(copy.deepcopy)


def places(section, path=()):
    """The paths of all fields and sections."""
    for name, value in section.items():
        yield (*path, name)
        if isinstance(value, dict):
            yield from places(value, (*path, name))


@st.composite
def changed(draw, section):
    section = copy.deepcopy(section)
    for _ in range(draw(st.integers(1, 2))):
        *above, last = draw(st.sampled_from(list(places(section)) or [("steps",)]))
        inside = section
        for name in above:
            inside = inside[name]
        if draw(st.booleans()):
            inside[last] = draw(ODD)
        elif draw(st.booleans()):
            del inside[last]
        else:
            inside[draw(st.text(max_size=5))] = draw(ODD)
    return section


@pytest.mark.parametrize("count", [60, pytest.param(1500, marks=pytest.mark.slow)])
def test_a_config(count):
    sound = config.to_json(config_file.load("configs/smoke/pretrain.py"))
    build.check(sound)

    @hypothesis.settings(
        max_examples=count,
        derandomize=count < 100,
        database=None,
        deadline=None,
        suppress_health_check=list(hypothesis.HealthCheck),
    )
    @hypothesis.given(changed(sound))
    def check(section):
        try:
            build.check(section)
        except errors.ConfigError as error:
            assert all(problem.strip() for problem in error.problems)
            assert len(errors.shown(error)) < 20_000

    check()
