# SPDX-License-Identifier: Apache-2.0
"""A prompt read once for several responses: the same as a row for each of them."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from alignjax.models.attention import plain
from alignjax.types import Sequences
from tests.models import small


def groups(seed=0, prompts=(4, 40, 7), K=2):
    """Prompts with K responses each, of other lengths every time."""
    rng = np.random.default_rng(seed)
    draw = lambda n: rng.integers(0, small.V, n).astype(np.int32)
    return [(draw(n), [draw(n_r) for n_r in rng.integers(1, 40, K)]) for n in prompts]


def row(pieces, length) -> Sequences:
    """One row of (tokens, segment, branch, first position)."""
    fields = np.zeros((4, 1, length), np.int32)  # inputs, ids, positions, branches
    at = 0
    for tokens, segment, branch, first in pieces:
        here = slice(at, at + len(tokens))
        fields[0, 0, here], fields[1, 0, here] = tokens, segment
        fields[2, 0, here] = first + np.arange(len(tokens))
        fields[3, 0, here] = branch
        at = here.stop
    assert at <= length
    x, ids, positions, branches = fields
    return Sequences(x, x, (ids > 0).astype(np.float32), ids, positions, branches)


def shared_row(groups, length):
    pieces = []
    for segment, (prompt, responses) in enumerate(groups, 1):
        pieces.append((prompt[:-1], segment, 0, 0))
        for branch, response in enumerate(responses, 1):
            tokens = np.concatenate([prompt[-1:], response[:-1]])
            pieces.append((tokens, segment, branch, len(prompt) - 1))
    return row(pieces, length)


def padded_rows(groups, length):
    whole = [
        [(np.concatenate([prompt, response[:-1]]), 1, 0, 0)]
        for prompt, responses in groups
        for response in responses
    ]
    stacked = [row(pieces, length) for pieces in whole]
    rows = jax.tree.map(lambda *xs: np.concatenate(xs), *stacked)
    return rows.replace(branches=None)


def of_responses(x_BTD, batch, groups):
    """What was computed where responses are predicted, one after the other."""
    found, at = [], 0
    n = 0
    for prompt, responses in groups:
        at += len(prompt) - 1
        for response in responses:
            if batch.branches is None:
                start = len(prompt) - 1
                found.append(x_BTD[n, start : start + len(response)])
            else:
                found.append(x_BTD[0, at : at + len(response)])
            at += len(response)
            n += 1
    return jnp.concatenate(found)


@functools.cache
def both(window, positions):
    """(hidden states, gradient) from the shared row, and from the padded ones."""
    fields = dict(window=window, positions=positions, max_length=128, qk_norm="head")
    model, params = small.make(**fields)
    made = groups()
    block = plain.attend.__kwdefaults__["block"]
    ids = shared_row(made, 256).segment_ids[0]
    assert ids[block - 1] == ids[block] > 0  # a group lies on both sides of a border
    out = []
    for batch in (shared_row(made, 256), padded_rows(made, 80)):

        def loss(params, batch=batch):
            x_TD = of_responses(model.hidden(params, batch), batch, made)
            return (
                x_TD * jnp.cos(jnp.arange(x_TD.size)).reshape(x_TD.shape)
            ).sum(), x_TD

        (_, x_TD), grad = jax.jit(jax.value_and_grad(loss, has_aux=True))(params)
        out.append((x_TD, grad))
    return out


@pytest.mark.parametrize("window,positions", [(None, "rope"), (6, "learned")])
def test_a_shared_prompt_changes_no_value_and_no_gradient(window, positions):
    (ours, our_grad), (theirs, their_grad) = both(window, positions)
    np.testing.assert_allclose(ours, theirs, atol=1e-5)
    for a, b in zip(
        jax.tree.leaves(our_grad), jax.tree.leaves(their_grad), strict=True
    ):
        np.testing.assert_allclose(a, b, atol=1e-5 * np.abs(b).max())


def test_nothing_leaks_between_branches():
    model, params = small.make(max_length=128)
    made = groups(prompts=(5, 9), K=3)
    batch = shared_row(made, 256)
    hidden = jax.jit(model.hidden)
    before = np.asarray(hidden(params, batch))[0]
    ids, branches = batch.segment_ids[0], batch.branches[0]
    for segment, branch in [(1, 1), (1, 3), (2, 2), (1, 0)]:
        mine = (ids == segment) & (branches == branch)
        inputs = np.where(mine, (batch.inputs + 1) % small.V, batch.inputs)
        after = np.asarray(hidden(params, batch.replace(inputs=inputs)))[0]
        changed = (before != after).any(-1)
        sees = mine if branch else ids == segment
        np.testing.assert_array_equal(changed, sees)
