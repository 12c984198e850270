# SPDX-License-Identifier: Apache-2.0
"""The train state and the frozen parameters, from abstract shapes to sharded arrays.

A pattern says which parameters are trained. Those, and the optimizer's statistics of
them, are the state; the rest is the base, which a step reads and nobody saves.
"""

from __future__ import annotations

import re

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from alignjax import config, sharding, trees
from alignjax.types import Model, Params, TrainState


def abstract_params(model: Model, mesh, rules) -> Params:
    """All parameters as ShapeDtypeStructs that lie as the names of their axes say.

    Raises:
      ConfigError: an axis of a parameter that the mesh does not divide.
    """
    boxed = jax.eval_shape(model.init, jax.random.key(0))
    where = sharding.shardings(boxed, mesh, rules)
    params = jax.eval_shape(nn.unbox, boxed)
    params = jax.tree.map(_placed, params, where)
    _check_divisible(params)
    return params


def partition(params: Params, trainable: str) -> tuple[Params, Params]:
    """(what is trained, the rest), by a pattern of whole paths.

    Raises:
      ConfigError: the pattern is none, or matches nothing.
    """
    try:
        return trees.partition(trainable, params)
    except (ValueError, re.error) as error:
        raise config.ConfigError(f"trainable: {trainable!r}: {error}") from error


def abstract_state(
    model: Model, optimizer, mesh, rules, trainable: str = ".*"
) -> TrainState:
    """The state as ShapeDtypeStructs with shardings; nothing is computed.

    Optimizer statistics that have the shape of a parameter lie as it does; everything
    else is replicated.

    Raises:
      ConfigError: as `abstract_params` and `partition`.
    """
    params, _ = partition(abstract_params(model, mesh, rules), trainable)
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


def abstract_base(model: Model, mesh, rules, trainable: str = ".*") -> Params:
    """The parameters that are not in `abstract_state`, as ShapeDtypeStructs."""
    return partition(abstract_params(model, mesh, rules), trainable)[1]


def init_params(model: Model, abstract: Params, key) -> Params:
    """Fresh values of the parameters in `abstract`, which may be some of the model's.

    They are made where they live, and are the same on any mesh and in any selection.
    """

    def init(key):
        return _select(nn.unbox(model.init(key)), abstract)

    return jax.jit(init, out_shardings=shardings(abstract))(key)


def init_state(model: Model, optimizer, abstract: TrainState, key) -> TrainState:
    """A fresh state, made where it lives. The same values on any mesh."""

    def init(key):
        params = _select(nn.unbox(model.init(key)), abstract.params)
        return TrainState(jnp.int32(0), params, optimizer.init(params))

    return jax.jit(init, out_shardings=shardings(abstract))(key)


def load_params(
    source: Params, abstract: Params, model: Model, key, *, allow_new: str | None = None
) -> tuple[Params, list[str]]:
    """Parameters of another run, put where those of this one lie.

    One leaf after the other: of each, this process reads the parts that its devices
    hold, so that arrays that are read when they are sliced (`np.load(mmap_mode="r")`)
    are never in memory together.

    Args:
      source: dicts of arrays, nested or by path: anything with `shape`, `dtype` and
        slices.
      abstract: ShapeDtypeStructs with shardings; `abstract_params` or a part of them.
      model, key: what new parameters start from, as those of `init_params`.
      allow_new: pattern of the parameters that `source` may lack, such as those of
        adapters or of heads for scores; None allows nothing.

    Returns:
      (the parameters, the names of those that are new).

    Raises:
      ConfigError: all leaves that only one of the two has, or that differ in shape or
        dtype, each with what to do.
    """
    theirs, ours = trees.named_leaves(source), trees.named_leaves(abstract)
    problems = [
        f"init: {name} of shape {tuple(leaf.shape)} is in the checkpoint and not in "
        "this model; choose the section model as that run did, or merge its adapters "
        "first"
        for name, leaf in theirs.items()
        if name not in ours
    ]
    new = [name for name in ours if name not in theirs]
    problems += [
        f"init: {name} of shape {ours[name].shape} is not in the checkpoint; choose "
        "the section model as that run did"
        for name in new
        if allow_new is None or not re.fullmatch(allow_new, name)
    ]
    for name in ours.keys() & theirs.keys():
        have, want = theirs[name], ours[name]
        if tuple(have.shape) != want.shape:
            problems.append(
                f"init: {name} is {tuple(have.shape)} in the checkpoint, {want.shape} "
                "here; choose the section model, and the tokenizer, as that run did"
            )
        elif have.dtype != want.dtype:
            problems.append(
                f"init: {name} is {have.dtype} in the checkpoint, {want.dtype} here; "
                "convert it"
            )
    if problems:
        raise config.ConfigError(sorted(problems))

    def put(name, leaf):
        if name in made:
            return made[name]
        # A copy: on CPUs an array may be the memory that it is made of.
        piece = lambda index: np.array(theirs[name][index])
        return jax.make_array_from_callback(leaf.shape, leaf.sharding, piece)

    made = {}
    if new:
        wanted, _ = trees.partition("|".join(map(re.escape, new)), abstract)
        made = trees.named_leaves(init_params(model, wanted, key))
    return trees.map_with_name(put, abstract), new


def shardings(abstract):
    """The sharding of every leaf of an abstract tree."""
    return jax.tree.map(lambda leaf: leaf.sharding, abstract)


def _select(params: Params, like: Params) -> Params:
    """The leaves of `params` at the paths of `like`."""
    leaves = trees.named_leaves(params)
    return trees.map_with_name(lambda name, _: leaves[name], like)


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
