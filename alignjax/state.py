# SPDX-License-Identifier: Apache-2.0
"""The train state, from abstract shapes to sharded arrays."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec

from alignjax import config, sharding, trees
from alignjax.types import Model, TrainState


def abstract_state(model: Model, optimizer, mesh, rules) -> TrainState:
    """The state as ShapeDtypeStructs with shardings; nothing is computed.

    Parameters lie as the names of their axes say. Optimizer statistics that have the
    shape of a parameter lie as it does; everything else is replicated.

    Raises:
      ConfigError: an axis of a parameter that the mesh does not divide.
    """
    boxed = jax.eval_shape(model.init, jax.random.key(0))
    where = sharding.shardings(boxed, mesh, rules)
    params = jax.eval_shape(nn.unbox, boxed)
    params = jax.tree.map(_placed, params, where)
    _check_divisible(params)
    everywhere = NamedSharding(mesh, PartitionSpec())
    by_name = trees.named_leaves(params)

    def like_its_parameter(name, leaf):
        parts = name.split("/")
        for start in range(len(parts)):
            parameter = by_name.get("/".join(parts[start:]))
            if parameter is not None and parameter.shape == leaf.shape:
                return _placed(leaf, parameter.sharding)
        return _placed(leaf, everywhere)

    opt_state = jax.eval_shape(optimizer.init, params)
    opt_state = trees.map_with_name(like_its_parameter, opt_state)
    step = jax.ShapeDtypeStruct((), jnp.int32, sharding=everywhere)
    return TrainState(step, params, opt_state)


def init_state(model: Model, optimizer, abstract: TrainState, key) -> TrainState:
    """A fresh state, made where it lives. The same values on any mesh."""

    def init(key):
        params = nn.unbox(model.init(key))
        return TrainState(jnp.int32(0), params, optimizer.init(params))

    return jax.jit(init, out_shardings=shardings(abstract))(key)


def shardings(abstract: TrainState):
    """The sharding of every leaf of an abstract state."""
    return jax.tree.map(lambda leaf: leaf.sharding, abstract)


def _placed(leaf, where):
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=where)


def _check_divisible(params) -> None:
    problems = []
    for name, leaf in trees.named_leaves(params).items():
        try:
            leaf.sharding.shard_shape(leaf.shape)
        except ValueError:
            problems.append(
                f"mesh: {dict(leaf.sharding.mesh.shape)} does not divide {name} of "
                f"shape {leaf.shape}, which lies as {leaf.sharding.spec}; change the "
                "mesh, or the axis in sharding_rules"
            )
    if problems:
        raise config.ConfigError(problems)
