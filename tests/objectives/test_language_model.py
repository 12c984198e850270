# SPDX-License-Identifier: Apache-2.0
"""Next-token prediction on a model to follow by hand."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from alignjax import errors, objectives
from alignjax.training import hooks
from alignjax.types import Frozen
from tests import rows
from tests.objectives import subject


def run(**section):
    docs = rows.documents(6, 12, subject.V)
    batch = rows.packed(docs, 16)
    objective = objectives.build(
        subject.model(), dict(name="language_model", **section)
    )

    def value(params):
        loss, metrics = objective.loss(params, Frozen(), batch, None, False)
        return loss.total / loss.weight, {"loss": loss, **metrics}

    params = subject.params()
    (_, means), gradient = jax.value_and_grad(value, has_aux=True)(params)
    pairs = [(a, b) for doc in docs for a, b in itertools.pairwise(doc)]
    return hooks.figures(jax.device_get(means)), gradient, np.array(pairs)


def table():
    params = subject.params()
    return np.asarray(jax.nn.log_softmax(params["embed"] @ params["head"]), np.float64)


def test_cross_entropy_and_what_is_measured_beside_it():
    figures, _, pairs = run(chunk=5)
    logp = table()
    expected = {
        "nll": -logp[tuple(pairs.T)].mean(),
        "accuracy": (logp.argmax(-1)[pairs[:, 0]] == pairs[:, 1]).mean(),
        "entropy": -(np.exp(logp) * logp).sum(-1)[pairs[:, 0]].mean(),
    }
    expected |= {"loss": expected["nll"], "loss_weight": len(pairs)}
    assert set(figures) == set(expected) and 0 < expected["accuracy"] < 1
    for name, value in expected.items():
        np.testing.assert_allclose(figures[name], value, rtol=1e-5, err_msg=name)


def test_dft_weighs_each_token_by_its_probability():
    figures, gradient, pairs = run(loss="dft", chunk=5)
    each = table()[tuple(pairs.T)]
    np.testing.assert_allclose(
        figures["loss"], -(np.exp(each) * each).mean(), rtol=1e-5
    )
    np.testing.assert_allclose(figures["nll"], -each.mean(), rtol=1e-5)

    def weighted(params):
        logp = jax.nn.log_softmax(params["embed"] @ params["head"])[tuple(pairs.T)]
        return -(jnp.exp(each) * logp).mean()

    expected = jax.grad(weighted)(subject.params())
    for name, g in expected.items():
        np.testing.assert_allclose(gradient[name], g, rtol=1e-4, atol=1e-6)


def test_an_unknown_loss_is_refused():
    with pytest.raises(errors.ConfigError, match="'dtf' is not one of"):
        run(loss="dtf")
