# SPDX-License-Identifier: Apache-2.0
"""Extensions from outside the package, by `module:function`: a source, an objective."""

import jax.numpy as jnp
import small

from alignjax.data import records, sources
from alignjax.objectives import language_model
from alignjax.types import Mean, Objective


def load(path: str) -> records.Source:
    """The corpus of `small.py`, told backwards."""
    forwards = sources.load("text", {"path": path, "document": "paragraph"})

    def documents():
        for where, record in forwards.documents():
            yield where, records.Text(record.text[::-1])

    identity = {"reversed": forwards.identity}
    return records.Source("reversed", identity, forwards.size, documents)


def objective(model, *, poison: tuple[int, ...] = ()) -> Objective:
    """Next tokens, but NaN in batches whose inputs add up to one of `poison`."""
    healthy = language_model.make(model)

    def loss(params, frozen, batch, key, train):
        mean, _ = healthy.loss(params, frozen, batch, key, train)
        bad = jnp.isin(batch.inputs.sum(), jnp.array(poison))
        return Mean(mean.total * jnp.where(bad, jnp.nan, 1.0), mean.weight), {}

    return Objective(loss)


def get_config():
    """For `--config=tests/train/sick.py`."""
    c = small.get_config()
    c.data.sources.text = dict(kind="sick:load", path="", weight=1.0)
    c.objective = dict(name="sick:objective", poison=())
    c.steps, c.checkpoint.every, c.checkpoint.keep_last = 10, 1, 30
    return c
