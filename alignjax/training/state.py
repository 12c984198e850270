# SPDX-License-Identifier: Apache-2.0
"""The train state and the frozen parameters, from abstract shapes to sharded arrays.

A pattern says which parameters are trained. Those, and the optimizer's statistics of
them, are the state; the rest is the base, which a step reads and nobody saves.
"""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Iterable, Mapping

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from alignjax import errors, trees
from alignjax.distributed import sharding
from alignjax.models import quantized
from alignjax.training import placing
from alignjax.types import Model, Params, TrainState

# What float32 holds exactly, beside itself.
EXACT = (jnp.dtype("float32"), jnp.dtype("bfloat16"), jnp.dtype("float16"))


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
        raise errors.ConfigError(f"trainable: {trainable!r}: {error}") from error


def begin(params: Params, optimizer, copies: Mapping | None = None) -> TrainState:
    """The state of step 0; `copies` are those of `optim.moving_copies`."""
    extra = {name: copy.init(params) for name, copy in (copies or {}).items()}
    return TrainState(jnp.int32(0), params, optimizer.init(params), extra)


def abstract_state(
    model: Model, optimizer, mesh, rules, trainable: str = ".*", copies=None
) -> TrainState:
    """The state as ShapeDtypeStructs with shardings; nothing is computed.

    What has the name and shape of a parameter, such as an optimizer's statistics, lies
    as it does; everything else is replicated.

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

    state = jax.eval_shape(lambda params: begin(params, optimizer, copies), params)
    return trees.map_with_name(like_its_parameter, state)


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


def init_state(
    model: Model, optimizer, abstract: TrainState, key, copies=None
) -> TrainState:
    """A fresh state, made where it lives. The same values on any mesh."""

    def init(key):
        params = _select(nn.unbox(model.init(key)), abstract.params)
        return begin(params, optimizer, copies)

    return jax.jit(init, out_shardings=shardings(abstract))(key)


def quantised_kernels(abstract: Params, kernels: Iterable[str], kind: str) -> Params:
    """`abstract` with the parts of `quantized` in place of the `kernels`, by path.

    The parts are sharded as the kernel, but for axes that the mesh does not divide.
    """
    leaves, chosen = {}, set(kernels) if kind != "float32" else set()
    for name, leaf in trees.named_leaves(abstract).items():
        if name not in chosen:
            leaves[name] = leaf
            continue
        folder = name.rpartition("/")[0]
        for part, (shape, dtype) in quantized.shapes(leaf.shape, kind).items():
            sharding = placing.fit(shape, leaf.sharding)
            leaves[f"{folder}/{part}"] = jax.ShapeDtypeStruct(
                shape, dtype, sharding=sharding
            )
    return trees.nest(leaves)


def load_params(
    source: Params, abstract: Params, model: Model, key, *, allow_new: str | None = None
) -> tuple[Params, list[str]]:
    """Parameters of another run, put where those of this one lie.

    One leaf after the other, and those that are large layer by layer: of each, this
    process reads the parts that its devices hold. So of arrays that are read when they
    are sliced (`np.load(mmap_mode="r")`, `Run.leaves`) no more is in memory at a time
    than the larger of one layer of one leaf and the largest leaf that has no layers.
    bfloat16 and float16 are widened to float32, exactly; kernels are quantised where
    `abstract` has their parts.

    Args:
      source: dicts of arrays, nested or by path: anything with `shape`, `dtype` and
        slices.
      abstract: ShapeDtypeStructs with shardings; `abstract_params` or a part of them,
        perhaps after `keep`.
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
    kept = quantized.gather(ours)
    parts = {part for names in kept.values() for part in names}
    shapes = {name: leaf.shape for name, leaf in ours.items() if name not in parts}
    shapes |= {k: quantized.shape({p: ours[p].shape for p in kept[k]}) for k in kept}
    new = _check_same(theirs, shapes, allow_new)
    made = {}
    if new:
        wanted, _ = trees.partition("|".join(map(re.escape, new)), abstract)
        made = trees.named_leaves(init_params(model, wanted, key))

    whole = {name: leaf for name, leaf in ours.items() if name in theirs}
    stacked = {name for name in whole if name.startswith("layers/")}
    size = lambda name: math.prod(shapes[name][name in stacked :])
    room = max((size(name) for name in whole), default=0)
    for name, leaf in whole.items():
        have = theirs[name]
        if name in stacked and leaf.size > room:
            read = functools.partial(_layer, have, name, leaf.dtype)
            made |= placing.put_layers(read, {name: leaf})
        else:
            made[name] = placing.put(functools.partial(_slice, have, leaf.dtype), leaf)
    for name, names in kept.items():
        read = functools.partial(_quantised, theirs[name], names)
        made |= placing.put_layers(read, {part: ours[part] for part in names})
    return trees.map_with_name(lambda name, _: made[name], abstract), new


def _check_same(theirs, shapes: dict[str, tuple], allow_new: str | None) -> list[str]:
    """Names in `shapes` that a checkpoint lacks; raises ConfigError, see above."""
    problems = [
        f"init: {name} of shape {tuple(leaf.shape)} is in the checkpoint and not in "
        "this model; choose the section model as that run did, or merge its adapters "
        "first"
        for name, leaf in theirs.items()
        if name not in shapes
    ]
    new = [name for name in shapes if name not in theirs]
    problems += [
        f"init: {name} of shape {shapes[name]} is not in the checkpoint; choose "
        "the section model as that run did"
        for name in new
        if allow_new is None or not re.fullmatch(allow_new, name)
    ]
    for name in shapes.keys() & theirs.keys():
        have, want = theirs[name], shapes[name]
        if tuple(have.shape) != want:
            problems.append(
                f"init: {name} is {tuple(have.shape)} in the checkpoint, {want} here; "
                "choose the section model, and the tokenizer, as that run did"
            )
        elif jnp.dtype(have.dtype) not in EXACT:
            problems.append(
                f"init: {name} is {have.dtype} in the checkpoint, which float32 may "
                "not hold exactly; convert it"
            )
    if problems:
        raise errors.ConfigError(sorted(problems))
    return new


def _slice(have, dtype, index) -> np.ndarray:
    return np.asarray(have[index]).astype(dtype, copy=False)


def _layer(have, name: str, dtype, i: int) -> dict:
    return {name: lambda index: _slice(have, dtype, (i, *index))}


def _quantised(have, names: list[str], i: int) -> dict:
    """The parts of one layer of a kernel. Blocks may lie across what devices hold."""
    kind = quantized.kind_of(names)
    found = quantized.quantise(_slice(have, np.float32, i), kind)
    return {name: found[name.rpartition("/")[2]].__getitem__ for name in names}


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
        raise errors.ConfigError(problems)
