# SPDX-License-Identifier: Apache-2.0
"""alignjax's side of a case: logits, greedy tokens, gradients by tensor names."""

from __future__ import annotations

import dataclasses
import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import scipy.special

from alignjax import objectives, sampling, trees
from alignjax.huggingface import layout
from alignjax.models import decoder, families
from alignjax.sampling import distribution
from alignjax.types import Frozen, Sequences


def logits(run, rows: Sequences) -> np.ndarray:
    """float32 [B, T, V] of rows of any packing."""
    return np.asarray(_logits(run.model, run._weights, rows))


@functools.partial(jax.jit, static_argnums=0)
def _logits(model, params, rows):
    return model.unembed(params, model.hidden(params, rows))


def packed(tokens: list[np.ndarray]) -> Sequences:
    """Documents [B, T] side by side, one of each in every row."""
    documents = [Sequences.of(tokens_BT, last=True) for tokens_BT in tokens]
    documents = [
        x.replace(segment_ids=i * x.segment_ids) for i, x in enumerate(documents, 1)
    ]
    return jax.tree.map(lambda *arrays: np.concatenate(arrays, 1), *documents)


def for_long_documents(run):
    """The model; where rotations go by a document's length, with those of long ones.

    A cache cannot rotate its keys again once a document has become long, so a model
    that would have to is refused one.
    """
    c = run.model.config
    if c.rope_scaling is None or not c.rope_scaling.by_length:
        return run.model
    longer = c.rope_scaling.long_factor
    scaling = dataclasses.replace(c.rope_scaling, short_factor=longer)
    return decoder.build(dataclasses.replace(c, rope_scaling=scaling))


def greedy(run, prompts: np.ndarray, count: int, model=None) -> np.ndarray:
    """int32 [B, count]: what follows each prompt, with the cache; no token stops it.

    Args:
      model: instead of the run's own.
    """
    model = run.model if model is None else model
    V = model.config.vocab_size
    draw = sampling.Draw(
        keys_B=jax.vmap(jax.random.key)(np.arange(len(prompts))),
        allowed_V=jnp.ones(V, bool),
        stops_V=jnp.zeros(V, bool),
        settings=distribution.settings(temperature=0),
    )
    prompts = jnp.asarray(prompts, jnp.int32)
    mask = jnp.ones(prompts.shape, bool)
    sample = jax.jit(sampling.sample, static_argnums=(0, 5))
    samples = sample(model, run._weights, prompts, mask, draw, count)
    return np.asarray(samples.tokens_BR)


class LossAndGradients(NamedTuple):
    """The mean loss over all next tokens, and its gradients by the folder's names."""

    loss: float
    gradients: dict[str, np.ndarray]
    metrics: dict[str, float]


def loss_and_gradients(run, tokens: np.ndarray) -> LossAndGradients:
    """As training computes them, without the routers' losses."""
    c = dataclasses.replace(run.model.config, router_loss=0.0, router_z_loss=0.0)
    objective = objectives.build(decoder.build(c), {"name": "language_model"})
    rows = Sequences.of(tokens)

    def mean(params):
        key = jax.random.key(0)
        loss, metrics = objective.loss(params, Frozen({}), rows, key, True)
        values = {name: m.total / m.weight for name, m in metrics.items()}
        return loss.total / loss.weight, values

    differentiate = jax.jit(jax.value_and_grad(mean, has_aux=True))
    (loss, metrics), gradients = differentiate(run._weights)
    metrics = {name: float(value) for name, value in metrics.items()}
    return LossAndGradients(float(loss), named(run, gradients), metrics)


def named(run, params) -> dict[str, np.ndarray]:
    """Parameters, or what has their shapes, by the names of the folder's tensors."""
    leaves = {k: np.asarray(v) for k, v in trees.named_leaves(params).items()}
    shapes = {name: leaf.shape for name, leaf in leaves.items()}
    family = families.find(run.config["model"]["family"])
    table, tensors = layout.table(family, run.model.config), {}
    for place in layout.places(table, shapes):
        whole = np.empty(place.shape, np.float32).reshape(-1)
        for first, block in place.blocks(whole.size):
            array = place.join([leaves[path][index] for path, index in block])
            whole[first : first + array.size] = array.reshape(-1)
        tensors[place.name] = whole.reshape(place.shape)
    return tensors


def logprobs(logits_BTV: np.ndarray, tokens_BT: np.ndarray) -> np.ndarray:
    """float64 [B, T - 1], of each token but the first."""
    logp_BTV = scipy.special.log_softmax(logits_BTV[:, :-1].astype(np.float64), -1)
    return np.take_along_axis(logp_BTV, tokens_BT[:, 1:, None], -1)[..., 0]
