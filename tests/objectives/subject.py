# SPDX-License-Identifier: Apache-2.0
"""A model of pairs of tokens, in pure functions that need no compilation, and batches.

What follows a token depends on it alone, so that any number can be had by hand too.
"""

import functools
import itertools
import types

import jax
import jax.numpy as jnp

from alignjax.types import Model
from tests.objectives import batches

V, D, T = 13, 6, 40


def model(heads=0):
    init = lambda key: params(0, heads)
    hidden = lambda params, sequences, key=None: params["embed"][sequences.inputs]
    unembed = lambda params, x_BTD: x_BTD @ params["head"]
    score = lambda params, x_BTD: x_BTD @ params["scores"]
    config = types.SimpleNamespace(score_heads=heads)
    head, cap = (lambda params: params["head"]), (lambda products: products)
    return Model(config, init, hidden, unembed, None, None, score, head, cap)


def params(seed=0, heads=0):
    keys = jax.random.split(jax.random.key(seed), 3)
    shapes = {"embed": (V, D), "head": (D, V)} | (
        {"scores": (D, heads)} if heads else {}
    )
    return {
        name: jax.random.normal(key, shape)
        for key, (name, shape) in zip(keys, shapes.items(), strict=False)
    }


@functools.cache
def batch(layout="padded", K=2, *, empty=(), padding=0, count=5):
    """Five groups, and rows of padding after them."""
    groups = batches.groups(count, V, K=K, empty=empty)
    made = batches.make(groups, layout, T)
    if padding:
        made = batches.make(groups, layout, T, rows=len(made.weights) + padding)
    return jax.tree.map(jnp.asarray, made)


def logp(params, group, k):
    """The log-probabilities of the tokens of a group's k-th response, one by one."""
    table = jax.nn.log_softmax(params["embed"] @ params["head"])
    tokens = [group.prompt[-1], *group.responses[k]]
    return [float(table[a, b]) for a, b in itertools.pairwise(tokens)]
