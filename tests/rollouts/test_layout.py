# SPDX-License-Identifier: Apache-2.0
"""Responses as rows: what counts is known by place, whatever the tokens are."""

import numpy as np
import pytest

from alignjax.rollouts import layout

# Token 0, which fills rows up too, is also drawn, and ends some of these responses.
PROMPTS = [[5, 0, 7], [0], [9, 9, 0, 8]]
GROUPS = [[[0, 0], [4, 0, 3]], [[1], [0]], [[2, 0, 0, 0], [6, 0]]]


@pytest.mark.parametrize("shared", [False, True])
def test_every_token_of_a_response_is_a_target_that_counts(shared):
    """Its last one too, and neither a prompt nor what rows are filled up with."""
    batch = layout.responses(PROMPTS, GROUPS, prompt_room=4, room=5, shared=shared)
    rows = batch.sequences
    for g, k in np.ndindex(3, 2):
        r = 0 if shared else k
        there = batch.responses[g, r] == 1 + k
        assert rows.targets[g, r][there].tolist() == GROUPS[g][k]
        assert (rows.weights[g, r][there] == 1).all()
        # The first is drawn after the whole prompt, where positions go on from it.
        first = there.argmax()
        assert rows.inputs[g, r, first] == PROMPTS[g][-1]
        assert rows.positions[g, r, first] == len(PROMPTS[g]) - 1
    lengths = [[len(ids) for ids in group] for group in GROUPS]
    assert batch.lengths[:, 0].tolist() == lengths
    assert rows.weights.sum() == np.sum(lengths)
    assert batch.index[:, 0].tolist() == [0, 1, 2]


def test_rows_keep_the_numbers_of_their_prompts():
    numbers = [7, 3, 11]
    batch = layout.responses(
        PROMPTS, GROUPS, prompt_room=4, room=5, shared=False, numbers=numbers
    )
    assert batch.index[:, 0].tolist() == numbers
