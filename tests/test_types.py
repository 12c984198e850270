# SPDX-License-Identifier: Apache-2.0
"""Rows of token ids as `Sequences`, and the shift between inputs and targets."""

import numpy as np
import pytest

from alignjax.types import Sequences


def test_rows_are_shifted_and_padded():
    rows = Sequences.of([[5, 6, 7], [], [8, 9]], length=3)
    assert rows.inputs.tolist() == [[5, 6, 0], [0, 0, 0], [8, 0, 0]]
    assert rows.targets.tolist() == [[6, 7, 0], [0, 0, 0], [9, 0, 0]]
    assert rows.weights.tolist() == [[1, 1, 0], [0, 0, 0], [1, 0, 0]]
    assert rows.segment_ids.tolist() == [[1, 1, 0], [0, 0, 0], [1, 0, 0]]
    assert rows.positions.tolist() == [[0, 1, 0], [0, 0, 0], [0, 0, 0]]
    assert rows.branches is None
    dtypes = (rows.inputs.dtype, rows.segment_ids.dtype, rows.weights.dtype)
    assert dtypes == (np.int32, np.int32, np.float32)
    assert Sequences.of([[5, 6, 7], [8, 9]]).inputs.shape == (2, 2)


def test_prompts_have_no_weight():
    rows = Sequences.of(np.arange(8).reshape(2, 4), prompts=[1, 3])
    assert rows.weights.tolist() == [[1, 1, 1], [0, 0, 1]]
    assert rows.targets.tolist() == [[1, 2, 3], [5, 6, 7]]


def test_the_last_token_can_be_an_input():
    rows = Sequences.of([[5, 6], [7]], last=True)
    assert rows.inputs.tolist() == [[5, 6], [7, 0]]
    assert rows.targets.tolist() == [[6, 0], [0, 0]]
    assert rows.weights.tolist() == [[1, 0], [0, 0]]
    assert rows.segment_ids.tolist() == [[1, 1], [1, 0]]


def test_a_row_that_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="length 2"):
        Sequences.of([[1, 2, 3, 4]], length=2)
