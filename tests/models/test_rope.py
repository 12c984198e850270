# SPDX-License-Identifier: Apache-2.0
"""Rotary positions: frequencies against their formulas, and how texts choose them."""

import math

import jax
import numpy as np
import pytest

from alignjax import errors, models
from alignjax.models import rope
from alignjax.types import Sequences
from tests import rows
from tests.models import small

LLAMA3 = dict(
    kind="llama3",
    factor=8.0,
    low_freq_factor=1.0,
    high_freq_factor=4.0,
    original_length=8192,
)
YARN = dict(kind="yarn", factor=4.0, original_length=32_768)


def plain(dimensions, theta):
    return [theta ** (-2 * i / dimensions) for i in range(dimensions // 2)]


def llama3(frequency):
    """Meta's rule for one frequency, as their code has it."""
    wavelength = 2 * math.pi / frequency
    if wavelength < 8192 / 4:
        return frequency
    if wavelength > 8192 / 1:
        return frequency / 8
    smooth = (8192 / wavelength - 1) / (4 - 1)
    return (1 - smooth) * frequency / 8 + smooth * frequency


def yarn(dimensions, theta):
    """arXiv:2309.00071 Eq. 17 to 23, with borders rounded outwards as in its code."""
    border = lambda turns: (
        dimensions * math.log(32_768 / (2 * math.pi * turns)) / (2 * math.log(theta))
    )
    low, high = math.floor(border(32)), math.ceil(border(1))
    found = []
    for i, frequency in enumerate(plain(dimensions, theta)):
        kept = 1 - min(max((i - low) / (high - low), 0), 1)
        found.append(frequency / 4 * (1 - kept) + frequency * kept)
    return found


@pytest.mark.parametrize("dimensions,theta", [(64, 1e4), (128, 5e5), (256, 1e6)])
def test_frequencies_are_those_of_the_papers(dimensions, theta):
    of = lambda scaling: rope.frequencies(dimensions, theta, scaling)
    expected = np.array(plain(dimensions, theta))
    np.testing.assert_allclose(of(None), expected, rtol=3e-7)
    linear = rope.Scaling("linear", factor=8.0)
    np.testing.assert_allclose(of(linear), expected / 8, rtol=3e-7)
    by_hand = [llama3(x) for x in expected]
    np.testing.assert_allclose(of(rope.Scaling(**LLAMA3)), by_hand, rtol=1e-6)
    by_hand = yarn(dimensions, theta)
    np.testing.assert_allclose(of(rope.Scaling(**YARN)), by_hand, rtol=1e-6)
    assert of(None).dtype == np.float32


def test_longrope_divides_each_frequency_by_a_number_of_its_own():
    short, long = (1.0, 1.5), (2.0, 4.0)
    scaling = rope.Scaling(
        "longrope", original_length=8, short_factor=short, long_factor=long
    )
    for factors, is_long in ((short, False), (long, True)):
        found = rope.frequencies(4, 100.0, scaling, long=is_long)
        np.testing.assert_allclose(found, [1 / factors[0], 0.1 / factors[1]], rtol=1e-6)
    assert scaling.by_length
    assert rope.amplitude(scaling) == 1
    assert rope.amplitude(rope.Scaling(**YARN)) == 0.1 * math.log(4) + 1
    assert rope.amplitude(rope.Scaling(**YARN, attention_factor=0.5)) == 0.5


def test_only_the_first_dimensions_are_rotated():
    x = np.random.default_rng(0).normal(size=(1, 3, 2, 8)).astype(np.float32)
    cos_sin = rope.rotations(np.arange(3)[None], rope.frequencies(4, 100.0))
    y = np.asarray(rope.rotate(x, cos_sin))
    np.testing.assert_array_equal(y[..., 4:], x[..., 4:])
    np.testing.assert_array_equal(y[:, 0], x[:, 0])
    for t in range(3):
        for i, frequency in enumerate((1.0, 0.1)):
            z = complex(x[0, t, 1, i], x[0, t, 1, i + 2]) * np.exp(1j * t * frequency)
            np.testing.assert_allclose(
                [y[0, t, 1, i], y[0, t, 1, i + 2]], [z.real, z.imag], rtol=1e-5
            )


def longrope(short, long, **fields):
    scaling = dict(
        kind="longrope",
        original_length=8,
        short_factor=(short,) * 4,
        long_factor=(long,) * 4,
        attention_factor=1.1,
    )
    return models.build(small.SMALL | dict(rope_scaling=scaling) | fields, small.V)


def test_each_document_of_a_row_has_the_frequencies_of_its_length():
    _, params = small.make()
    rng = np.random.default_rng(0)
    docs = [rng.integers(0, small.V, n + 1).astype(np.int32) for n in (8, 13, 3)]
    row = rows.packed(docs, small.T)
    assert len(row.inputs) == 1
    hidden = lambda model: np.asarray(model.hidden(params, row))[0]
    mixed, short, long = (
        hidden(longrope(*factors)) for factors in ((1.5, 4.0), (1.5, 1.5), (4.0, 4.0))
    )
    ids = np.asarray(row.segment_ids)[0]
    for segment in range(1, 4):
        mine = ids == segment
        expected, other = (long, short) if mine.sum() > 8 else (short, long)
        np.testing.assert_allclose(mixed[mine], expected[mine], atol=1e-6)
        assert np.abs(mixed[mine] - other[mine]).max() > 1e-3


def test_longrope_refuses_what_has_no_one_length():
    model = longrope(1.5, 4.0)
    model.init_cache(1, 8)
    with pytest.raises(errors.ConfigError, match="with room for 9"):
        model.init_cache(1, 9)
    longrope(4.0, 4.0).init_cache(1, 9)
    _, params = small.make()
    x = np.zeros((1, 9), np.int32)
    branching = Sequences(x, x, None, x + 1, x, x)
    with pytest.raises(errors.ConfigError, match=r"data\.share_prompt=False"):
        model.hidden(params, branching)
    jax.eval_shape(model.hidden, params, jax.tree.map(lambda a: a[:, :8], branching))


@pytest.mark.parametrize(
    "scaling,message",
    [
        (
            dict(kind="dynamic", factor=2.0),
            "rope_scaling.kind: 'dynamic' is not one of",
        ),
        (dict(kind="linear"), "rope_scaling.factor: linear needs it"),
        (dict(kind="linear", factor=-1.0), "factor: -1.0 is not above 0"),
        (YARN | dict(low_freq_factor=1.0), "low_freq_factor: yarn has none; it has"),
        (LLAMA3 | dict(high_freq_factor=1.0), "must be less than high_freq_factor"),
        (LLAMA3 | dict(factr=1.0), "rope_scaling.factr: unknown field"),
    ],
)
def test_a_scaling_that_cannot_be_is_refused_by_name(scaling, message):
    with pytest.raises(errors.ConfigError, match=message):
        models.build(small.SMALL | dict(rope_scaling=scaling), small.V)
    with pytest.raises(errors.ConfigError, match="has 3 numbers for 4 frequencies"):
        three = dict(short_factor=(1.0,) * 3, long_factor=(1.0,) * 4)
        three |= dict(kind="longrope", original_length=8)
        models.build(small.SMALL | dict(rope_scaling=three), small.V)


@pytest.mark.parametrize("B, T", [(2, 16), (4, 1)])
def test_unrolled_layers_share_one_table_on_cpus(B, T):
    """XLA would put a cosine into each layer's fusion, 4 % of a step on two cores.

    And into each layer's of sampling, where a row reads one token.
    """
    frequencies = rope.frequencies(8, 10_000.0)

    def layers(x_BTNH, positions_BT):
        tables = rope.rotations(positions_BT, frequencies)
        for _ in range(3):
            x_BTNH = rope.rotate(x_BTNH @ np.eye(8, dtype=np.float32), tables)
        return x_BTNH

    shapes = jax.ShapeDtypeStruct((B, T, 2, 8), np.float32)
    positions = jax.ShapeDtypeStruct((B, T), np.int32)
    text = jax.jit(layers).lower(shapes, positions).compile().as_text()
    assert text.count(" cosine(") == 1 and text.count(" sine(") == 1
