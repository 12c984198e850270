# SPDX-License-Identifier: Apache-2.0
"""Log-probabilities, entropy and divergence, against sums over the vocabulary."""

import jax
import numpy as np
import pytest

from alignjax.analysis import scoring
from alignjax.evals import likelihood
from tests.world.assessment import subjects

ROWS = [
    scoring.Row([256], list(b"one plus two")),
    scoring.Row(list(b"user: hi\nassistant:"), list(b" hello.\n")),
    scoring.Row([256, 5], [7]),
]


@pytest.fixture(scope="module")
def measured():
    params = (subjects.params(0), subjects.params(1))
    return likelihood.measure(subjects.model(), params[0], ROWS, params[1])


def log_softmax(seed, row):
    tokens = np.array([[*row.prompt_ids, *row.ids]], np.int32)
    model, params = subjects.model(), subjects.params(seed)
    ((_, padded),) = scoring.batches([row], model.config.max_length)
    logits = np.asarray(model.unembed(params, model.hidden(params, padded)), np.float64)
    logps = np.asarray(jax.nn.log_softmax(logits))[0]
    first, size = len(row.prompt_ids) - 1, tokens.shape[1] - 1
    return logps[first:size], tokens[0, first + 1 :]


def test_every_figure_by_hand(measured):
    for i, row in enumerate(ROWS):
        ours, targets = log_softmax(0, row)
        theirs, _ = log_softmax(1, row)
        at = np.arange(len(targets))
        p = np.exp(ours)
        expected = (
            ours[at, targets].sum(),
            theirs[at, targets].sum(),
            -(p * ours).sum(),
            (p * (ours - theirs)).sum(),
            len(targets),
        )
        found = [field[i] for field in measured]
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)
    assert (measured.kl > 0).all()


def test_a_model_is_no_way_from_itself():
    params = subjects.params(0)
    found = likelihood.measure(subjects.model(), params, ROWS)
    np.testing.assert_array_equal(found.logp, found.reference)
    np.testing.assert_array_equal(found.kl, 0)


def test_more_rows_than_a_batch_change_nothing(measured):
    params = (subjects.params(0), subjects.params(1))
    many = likelihood.measure(subjects.model(), params[0], ROWS * 15, params[1])
    np.testing.assert_allclose(many.logp, np.tile(measured.logp, 15), rtol=1e-5)
    np.testing.assert_allclose(many.kl, np.tile(measured.kl, 15), rtol=1e-4)


@pytest.mark.parametrize("row", [([], [1]), ([1], []), ([1], [2] * 600)])
def test_rows_that_cannot_be_judged_are_refused(row):
    with pytest.raises(ValueError, match=r"a score needs|takes 1 to"):
        likelihood.measure(subjects.model(), subjects.params(0), [scoring.Row(*row)])
