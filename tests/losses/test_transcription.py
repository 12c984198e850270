# SPDX-License-Identifier: Apache-2.0
"""Values and gradients of all losses against their transcriptions from the papers."""

import inspect

import jax
import numpy as np
import pytest

from alignjax.losses import catalogue
from tests.losses import batches, transcription

CASES = list(batches.cases())


def expected(kind, name, options):
    """Value and gradients by policy field, by the equation and complex steps."""
    policy, reference, inputs = batches.batch(kind)
    function = catalogue.CATALOGUE[kind][name]
    settings = {
        option: parameter.default
        for option, parameter in catalogue.options(function).items()
        if parameter.default is not None
    }
    settings |= {k: v for k, v in options.items() if v is not None}
    settings |= batches.only(function, inputs)
    table = getattr(transcription, kind.upper())
    assert name in table, f"transcribe {name} from its paper"

    def value(policy):
        if kind == "preference":
            return table[name](transcription.pairs(policy, reference), **settings)
        if kind == "reward":
            return table[name](batches.scored(name, policy), **settings)
        return table[name](policy, reference, **settings)

    gradients = {
        field: transcription.gradient(
            lambda x, field=field: value(policy.replace(**{field: x})),
            getattr(policy, field),
        )
        for field in batches.FIELDS
    }
    complex_policy = policy.replace(
        **{f: getattr(policy, f).astype(complex) for f in batches.FIELDS}
    )
    return value(complex_policy).real, gradients


@pytest.mark.parametrize("case", CASES, ids=batches.identify)
def test_values_and_gradients(case):
    kind, name, options = case
    loss_B, gradients = expected(kind, name, options)
    run = batches.value_and_gradient(batches.call(kind, name, options))
    for dtype, tolerance in ((np.float64, 1e-10), (np.float32, 1e-5)):
        with jax.enable_x64(dtype is np.float64):
            ours_B, ours = run(*batches.cast(batches.batch(kind), dtype))
        assert ours_B.dtype == dtype and ours_B.shape == loss_B.shape
        np.testing.assert_allclose(ours_B, loss_B, rtol=tolerance, atol=tolerance)
        for field, gradient in gradients.items():
            np.testing.assert_allclose(
                ours[field], gradient, rtol=tolerance, atol=tolerance, err_msg=field
            )


def test_what_a_transcription_holds_constant_has_no_gradient():
    """Else complex steps could not see a statistic through which gradients leak."""
    policy, reference, inputs = batches.batch("unpaired")
    kto = lambda x: transcription.kto(
        policy.replace(mismatched=x), reference, inputs["desirable_B"], beta=0.1
    )
    assert not transcription.gradient(kto, policy.mismatched).any()
    moved = kto(policy.mismatched + 10) - kto(policy.mismatched)
    assert np.abs(moved).max() > 1e-3


def test_transcriptions_use_none_of_our_code():
    assert "alignjax" not in inspect.getsource(transcription)
