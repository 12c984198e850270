# SPDX-License-Identifier: Apache-2.0
"""Heads for scores: made with the model, float32, counted, refused where not asked."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from alignjax import errors, models, trees
from alignjax.models import decoder
from tests.models import small


def test_scores_are_products_with_a_kernel_of_their_own():
    model, params = small.make(score_heads=3, dtype="bfloat16")
    x_BTD = model.hidden(params, small.one_document())
    scores_BTH = model.score(params, x_BTD)
    assert scores_BTH.shape == (2, small.T, 3) and scores_BTH.dtype == jnp.float32
    expected = np.asarray(x_BTD, np.float64) @ np.asarray(params["score"]["kernel"])
    np.testing.assert_allclose(scores_BTH, expected, rtol=1e-5, atol=1e-5)


def test_heads_begin_small_and_apart_and_change_nothing_else():
    fields = small.SMALL | dict(d_model=512, heads=8)
    with_heads, without = (
        small.initial(models.build(fields | dict(score_heads=n), small.V))
        for n in (4, 0)
    )
    kernel = np.asarray(with_heads.pop("score")["kernel"])
    assert kernel.shape == (512, 4) and kernel.dtype == np.float32
    assert kernel.std() == pytest.approx(513**-0.5, rel=0.1)
    assert (np.abs(np.corrcoef(kernel.T)[np.triu_indices(4, 1)]) < 0.2).all()
    jax.tree.map(np.testing.assert_array_equal, with_heads, without)


def test_a_model_without_heads_says_so():
    model, params = small.make()
    assert "score" not in params
    with pytest.raises(errors.ConfigError, match=r"model\.score_heads: 0"):
        model.score(params, jnp.zeros((1, 1, 32)))
    with pytest.raises(errors.ConfigError, match="score_heads: -1 "):
        models.build(small.SMALL | dict(score_heads=-1), small.V)


def test_flops_are_those_of_what_is_computed_and_trained():
    build = lambda **fields: models.build(small.SMALL | fields, small.V)
    count = lambda model: trees.count(jax.eval_shape(model.init, jax.random.key(0)))
    plain, untied = build(), build(tied=False)
    scored = build(score_heads=2)
    embedding = small.V * 32
    flops = decoder.flops_per_token
    assert count(scored) - count(plain) == 2 * 32
    assert flops(scored, 8) - flops(plain, 8) == 6 * 2 * 32
    assert flops(untied, 8) == flops(plain, 8)
    for model in (scored, build(score_heads=2, tied=False)):
        saved = flops(model, 8) - flops(model, 8, unembeds=False)
        assert saved == 6 * embedding
    # Frozen weights pass gradients on and get none: 4 instead of 6.
    head_only = flops(scored, 8) - flops(scored, 8, trainable="score/.*")
    assert head_only == 2 * count(plain)
    table_frozen = flops(untied, 8, trainable="(?!embed).*")
    assert table_frozen == flops(untied, 8)
