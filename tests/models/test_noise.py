# SPDX-License-Identifier: Apache-2.0
"""NEFTune: of the paper's size, in training only, whatever the layout of the rows."""

import jax
import numpy as np
import pytest

from alignjax import errors, models
from alignjax.models import layers
from tests import rows
from tests.models import small

ALPHA = 5.0


def noise_of(sequences, key=0, D=64):
    lengths = layers.document_lengths(
        sequences.segment_ids, sequences.positions, sequences.branches
    )
    key = jax.random.key(key)
    return layers.embedding_noise(key, ALPHA, lengths, sequences.segment_ids, D)


def test_moments_are_those_of_the_paper():
    row = small.one_document(B=8)
    scale = ALPHA / np.sqrt(small.T * 64)
    found = np.asarray(noise_of(row), np.float64) / scale
    assert -1 <= found.min() < -0.999 and 0.999 < found.max() <= 1
    n = found.size
    assert abs(found.mean()) < 4 * np.sqrt(1 / 3 / n)
    assert abs((found**2).mean() - 1 / 3) < 4 * np.sqrt((1 / 5 - 1 / 9) / n)
    flat = found.reshape(-1, 64)
    between = np.corrcoef(flat)[np.triu_indices(len(flat), 1)]
    assert np.abs(between).max() < 0.7  # no position has another's noise


def test_a_packed_document_has_the_noise_of_its_own_length():
    docs = rows.documents(6, small.T // 2, small.V)
    packed, padded = rows.packed(docs, small.T), rows.unpacked(docs, small.T)
    assert len(packed.inputs) < len(padded.inputs)
    lengths = [len(doc) - 1 for doc in docs]
    for batch in (packed, padded):
        found = layers.document_lengths(batch.segment_ids, batch.positions)
        at_starts = found[(batch.positions == 0) & (batch.segment_ids > 0)]
        assert at_starts.tolist() == lengths
        scale = ALPHA / np.sqrt(found * 64.0)[..., None]
        sizes = np.abs(noise_of(batch)) / scale
        real = batch.segment_ids > 0
        assert (sizes[real].max(-1) > 0.8).all() and sizes.max() <= 1
        assert (sizes[~real] == 0).all() and (~real).any()


def test_branches_have_the_noise_of_the_rows_that_they_stand_for():
    """Two tokens, then branches of 3 and of 1; then a document of 2; padding."""
    ids = np.array([[1, 1, 1, 1, 1, 1, 2, 2, 0]])
    branches = np.array([[0, 0, 1, 1, 1, 2, 0, 0, 0]])
    positions = np.array([[0, 1, 2, 3, 4, 2, 0, 1, 0]])
    found = layers.document_lengths(ids, positions, branches)
    assert found.tolist() == [[5, 5, 5, 5, 5, 3, 2, 2, 1]]


def test_the_model_is_noisy_in_training_only():
    model, params = small.make(embedding_noise=ALPHA)
    plain, _ = small.make()
    row = small.one_document()
    run = jax.jit(model.hidden)
    still = run(params, row)
    np.testing.assert_array_equal(still, jax.jit(plain.hidden)(params, row))
    a, b, again = (run(params, row, jax.random.key(seed)) for seed in (0, 1, 0))
    assert not np.allclose(a, b) and not np.allclose(a, still)
    np.testing.assert_array_equal(a, again)


def test_noise_is_added_to_the_embeddings(monkeypatch):
    row = rows.unpacked([np.arange(small.T + 1)], small.T)  # to each its own token
    delta_TD = np.random.default_rng(0).normal(size=(small.T, 32)).astype(np.float32)

    def known(key, alpha, lengths_BT, segment_ids_BT, D):
        assert (alpha, D) == (ALPHA, 32) and (lengths_BT == small.T).all()
        return delta_TD[None]

    monkeypatch.setattr(layers, "embedding_noise", known)
    model, params = small.make(embedding_noise=ALPHA)
    moved = {**params, "embed": params["embed"].at[: small.T].add(delta_TD)}
    np.testing.assert_allclose(
        model.hidden(params, row, jax.random.key(0)),
        model.hidden(moved, row),
        atol=1e-5,
    )


def test_noise_moves_no_dropout():
    """With noise too small to matter, the dropout of a key is what it was."""
    row, key = small.one_document(), jax.random.key(3)
    dropped, params = small.make(dropout=0.3)
    both, _ = small.make(dropout=0.3, embedding_noise=1e-6)
    np.testing.assert_allclose(
        both.hidden(params, row, key), dropped.hidden(params, row, key), atol=1e-5
    )


def test_noise_is_refused_below_zero():
    with pytest.raises(errors.ConfigError, match=r"embedding_noise: -1\.0 "):
        models.build(small.SMALL | dict(embedding_noise=-1.0), small.V)
