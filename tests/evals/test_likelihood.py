# SPDX-License-Identifier: Apache-2.0
"""What models think, against sums over the whole vocabulary by hand."""

import jax
import numpy as np
import pytest

from alignjax.evals import likelihood
from tests.world.assessment import subjects

ROWS = [
    likelihood.Given([256], list(b"one plus two")),
    likelihood.Given(list(b"user: hi\nassistant:"), list(b" hello.\n")),
    likelihood.Given([256, 5], [7]),
]


@pytest.fixture(scope="module")
def thought():
    params = (subjects.params(0), subjects.params(1))
    return likelihood.think(subjects.model(), params[0], ROWS, params[1])


def log_softmax(seed, row):
    tokens = np.array([[*row.before, *row.ids]], np.int32)
    padded = likelihood.pad([row])
    model, params = subjects.model(), subjects.params(seed)
    logits = np.asarray(model.unembed(params, model.hidden(params, padded)), np.float64)
    logps = np.asarray(jax.nn.log_softmax(logits))[0]
    first, size = len(row.before) - 1, tokens.shape[1] - 1
    return logps[first:size], tokens[0, first + 1 :]


def test_every_figure_by_hand(thought):
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
        found = [field[i] for field in thought]
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)
    assert (thought.kl > 0).all()


def test_a_model_is_no_way_from_itself():
    params = subjects.params(0)
    found = likelihood.think(subjects.model(), params, ROWS)
    np.testing.assert_array_equal(found.logp, found.reference)
    np.testing.assert_array_equal(found.kl, 0)


def test_more_rows_than_a_batch_change_nothing(thought):
    params = (subjects.params(0), subjects.params(1))
    many = likelihood.think(subjects.model(), params[0], ROWS * 15, params[1])
    np.testing.assert_allclose(many.logp, np.tile(thought.logp, 15), rtol=1e-5)
    np.testing.assert_allclose(many.kl, np.tile(thought.kl, 15), rtol=1e-4)


@pytest.mark.parametrize("row", [([], [1]), ([1], []), ([1], [2] * 600)])
def test_rows_that_cannot_be_judged_are_refused(row):
    with pytest.raises(ValueError, match="at most"):
        likelihood.think(subjects.model(), subjects.params(0), [likelihood.Given(*row)])
