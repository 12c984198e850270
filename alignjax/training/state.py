# SPDX-License-Identifier: Apache-2.0
"""The train state and the frozen parameters, from abstract shapes to sharded arrays.

A pattern says which parameters are trained. Those, the optimizer's statistics and the
copies of them are the state; the rest is the base, which a step reads and nobody saves.
"""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Callable, Iterable, Mapping

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import NamedSharding, PartitionSpec

from alignjax import errors, trees
from alignjax.distributed import sharding
from alignjax.models import quantized
from alignjax.types import Model, Params, TrainState

EXACT = tuple(map(jnp.dtype, ("float32", "bfloat16", "float16")))  # as float32


def abstract_params(model: Model, mesh, rules) -> Params:
    """All parameters as ShapeDtypeStructs, sharded by the names of their axes.

    Raises:
      ConfigError: an axis of a parameter that the mesh does not divide.
    """
    return sharding.abstract(model.init, mesh, rules)


def partition(params: Params, trainable: str) -> tuple[Params, Params]:
    """(trained parameters, the rest), by a pattern of whole paths.

    Raises:
      ConfigError: the pattern is invalid, or matches nothing.
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

    Leaves with the name and shape of a parameter, such as an optimizer's statistics,
    are sharded as it is; everything else is replicated.

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
                return _sharded(leaf, parameter.sharding)
        return _sharded(leaf, everywhere)

    state = jax.eval_shape(lambda params: begin(params, optimizer, copies), params)
    return trees.map_with_name(like_its_parameter, state)


def init_params(model: Model, abstract: Params, key) -> Params:
    """Fresh values of the parameters in `abstract`, which may be some of the model's.

    They are made on their devices, and are the same on any mesh and in any selection.
    """
    init = lambda key: _select(nn.unbox(model.init(key)), abstract)
    return jax.jit(init, out_shardings=shardings(abstract))(key)


def init_state(
    model: Model, optimizer, abstract: TrainState, key, copies=None
) -> TrainState:
    """A fresh state, made on its devices. The same values on any mesh."""
    params = lambda key: _select(nn.unbox(model.init(key)), abstract.params)
    init = lambda key: begin(params(key), optimizer, copies)
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
            struct = jax.ShapeDtypeStruct(shape, dtype)
            leaves[f"{folder}/{part}"] = _sharded(struct, _fit(shape, leaf.sharding))
    return trees.nest(leaves)


def _fit(shape: tuple[int, ...], where: NamedSharding) -> NamedSharding:
    """`where`, without the axes that do not divide `shape`."""
    spec = []
    for size, axes in zip(shape, where.spec, strict=False):
        names = sharding.axis_names(axes)
        parts = math.prod(where.mesh.shape[name] for name in names)
        spec.append(axes if size % parts == 0 else None)
    return NamedSharding(where.mesh, PartitionSpec(*spec))


def load_params(
    source: Params, abstract: Params, model: Model, key, *, allow_new: str | None = None
) -> tuple[Params, list[str]]:
    """Parameters of another run, sharded as those of this one.

    Leaf by leaf, large ones layer by layer, each process reads the parts that its
    devices hold. So of arrays that are read when they are sliced (`Run.leaves`) no more
    is in memory than the larger of one layer of a leaf and the largest leaf without
    layers. bfloat16 and float16 are widened to float32, exactly; kernels are quantised
    where `abstract` has their parts.

    Args:
      source: dicts of arrays, nested or by path: anything with `shape`, `dtype` and
        slices.
      abstract: ShapeDtypeStructs with shardings; `abstract_params` or a part of them,
        perhaps after `quantised_kernels`.
      model, key: what new parameters start from, as those of `init_params`.
      allow_new: pattern of the parameters that `source` may lack, such as those of
        adapters or of heads for scores; None allows nothing.

    Returns:
      (the parameters, the names of those that are new).

    Raises:
      ConfigError: all leaves that only one of the two has, or that differ in shape or
        dtype, each with what to do.
    """
    arrays, leaves = trees.named_leaves(source), trees.named_leaves(abstract)
    quantised = quantized.gather(leaves)
    parts = {part for names in quantised.values() for part in names}
    shapes = {name: leaf.shape for name, leaf in leaves.items() if name not in parts}
    for name, names in quantised.items():
        shapes[name] = quantized.shape({part: leaves[part].shape for part in names})
    new = _check_same(arrays, shapes, allow_new)
    params = {}
    if new:
        missing, _ = trees.partition("|".join(map(re.escape, new)), abstract)
        params = trees.named_leaves(init_params(model, missing, key))

    plain = {name: leaf for name, leaf in leaves.items() if name in arrays}
    stacked = {name for name in plain if name.startswith("layers/")}
    size = lambda name: math.prod(shapes[name][name in stacked :])
    room = max((size(name) for name in plain), default=0)
    for name, leaf in plain.items():
        read = functools.partial(_slice, arrays[name], leaf.dtype)
        if name in stacked and leaf.size > room:
            layer = lambda i, name=name, read=read: {name: lambda x: read((i, *x))}
            params |= _put_layers(layer, {name: leaf})
        else:
            params[name] = _put(read, leaf)
    for name, names in quantised.items():
        layer = functools.partial(_quantised_layer, arrays[name], names)
        params |= _put_layers(layer, {part: leaves[part] for part in names})
    return trees.map_with_name(lambda name, _: params[name], abstract), new


def _check_same(arrays, shapes: dict[str, tuple], allow_new: str | None) -> list[str]:
    """Names in `shapes` that a checkpoint lacks; raises ConfigError, see above."""
    problems, new = [], []
    remedy = "choose the section model as that run did"
    for name in {**shapes, **arrays}:
        fault = None
        if name not in shapes:
            shape = tuple(arrays[name].shape)
            fault = f"of shape {shape} is in the checkpoint and not in this model; "
            fault += f"{remedy}, or merge its adapters first"
        elif name not in arrays:
            new.append(name)
            if allow_new is None or not re.fullmatch(allow_new, name):
                fault = f"of shape {shapes[name]} is not in the checkpoint; {remedy}"
        elif (shape := tuple(arrays[name].shape)) != shapes[name]:
            fault = f"is {shape} in the checkpoint, {shapes[name]} here; choose the "
            fault += "section model, and the tokenizer, as that run did"
        elif (dtype := jnp.dtype(arrays[name].dtype)) not in EXACT:
            fault = f"is {dtype} in the checkpoint, which float32 may not hold exactly;"
            fault += " convert it"
        if fault:
            problems.append(f"init: {name} {fault}")
    if problems:
        raise errors.ConfigError(sorted(problems))
    return new


def _slice(array, dtype, index) -> np.ndarray:
    return np.asarray(array[index]).astype(dtype, copy=False)


def _quantised_layer(array, names: list[str], i: int) -> dict:
    """The parts of one layer of a kernel. Blocks may lie across what devices hold."""
    kind = quantized.kind_of(names)
    parts = quantized.quantise(_slice(array, np.float32, i), kind)
    return {name: parts[name.rpartition("/")[2]].__getitem__ for name in names}


def _put(read: Callable, leaf: jax.ShapeDtypeStruct) -> jax.Array:
    """`leaf`, from `read(index)`, which gives numpy arrays."""
    # Copied, since on CPUs a device array may share memory with its source.
    piece = lambda index: np.array(read(index))
    return jax.make_array_from_callback(leaf.shape, leaf.sharding, piece)


def _put_layers(
    layer: Callable, leaves: Mapping[str, jax.ShapeDtypeStruct]
) -> dict[str, jax.Array]:
    """The `leaves`, whose first axis is that of layers, one layer after the other.

    Args:
      layer: `(i) -> {name: read}`, where `read(index)` gives a part of layer i. A layer
        is on the devices before the next is read, so of the host's memory the layers
        take as much as one.
      leaves: with shardings, of the same number of layers.
    """
    arrays = {}
    for name, leaf in leaves.items():
        zeros = functools.partial(jnp.zeros, leaf.shape, leaf.dtype)
        arrays[name] = jax.jit(zeros, out_shardings=leaf.sharding)()
    (layers,) = {leaf.shape[0] for leaf in leaves.values()}
    for i in range(layers):
        _put_layer(arrays, layer(i), leaves, i)
    return arrays


def _put_layer(arrays: dict, reads: Mapping, leaves: Mapping, i: int) -> None:
    """Puts layer i into `arrays`; nothing of it is held when this returns."""
    for name, leaf in leaves.items():
        spec = PartitionSpec(*leaf.sharding.spec[1:])
        where = NamedSharding(leaf.sharding.mesh, spec)
        one = jax.make_array_from_callback(leaf.shape[1:], where, reads[name])
        arrays[name] = _insert(leaf.sharding)(arrays[name], one, i)
    jax.block_until_ready(arrays)


@functools.lru_cache(maxsize=64)
def _insert(where: NamedSharding):
    insert = lambda array, one, i: lax.dynamic_update_index_in_dim(array, one, i, 0)
    return jax.jit(insert, donate_argnums=0, out_shardings=where)


def shardings(abstract):
    """The sharding of every leaf of an abstract tree."""
    return jax.tree.map(lambda leaf: leaf.sharding, abstract)


def _select(params: Params, like: Params) -> Params:
    """The leaves of `params` at the paths of `like`."""
    leaves = trees.named_leaves(params)
    return trees.map_with_name(lambda name, _: leaves[name], like)


def _sharded(leaf, sharding_of_leaf) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding_of_leaf)
