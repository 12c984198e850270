# SPDX-License-Identifier: Apache-2.0
"""The mesh, and which axis of an array lies along which axis of the mesh.

Arrays are given the names of their axes where they are made; only the rules here (and
a config's overrides) say where a name goes. Models are single-device code otherwise.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from alignjax import errors, trees

MESH_AXES = ("data", "fsdp", "tensor")  # slowest interconnect first

RULES = {  # axis of an array -> axis of the mesh; a config may replace entries
    "batch": ("data", "fsdp"),
    "seq": None,
    "vocab": "tensor",
    "embed": "fsdp",
    "heads": "tensor",
    "kv_heads": "tensor",
    "head_dim": None,
    "mlp": "tensor",
    "experts": "tensor",  # a token's row is on every device that its experts are on
    "expert_mlp": None,
    "layers": None,
}


def rules(overrides: Mapping | None = None) -> dict:
    """`RULES` with a config's replacements.

    Raises:
      ConfigError: a name that no array has, or an axis that no mesh has.
    """
    problems, replaced = [], dict(RULES)
    for name, axes in (overrides or {}).items():
        if not isinstance(axes, (str, list, tuple, type(None))):
            problems.append(f"sharding_rules.{name}: {axes!r:.60} names no axes")
            continue
        replaced[name] = tuple(axes) if isinstance(axes, list) else axes
        if name not in RULES:
            problems.append(
                f"sharding_rules.{name}: no array has this axis; {', '.join(RULES)} do"
            )
        for axis in axis_names(axes):
            if axis not in MESH_AXES:
                problems.append(
                    f"sharding_rules.{name}: the mesh has no axis {axis!r}; it has "
                    f"{', '.join(MESH_AXES)}"
                )
    if problems:
        raise errors.ConfigError(problems)
    return replaced


def axis_names(axes: str | Sequence[str] | None) -> tuple[str, ...]:
    """The axes of the mesh that a rule, or a part of a PartitionSpec, names."""
    return (axes,) if isinstance(axes, str) else tuple(axes or ())


def make_mesh(shape: Mapping[str, int], devices=None) -> jax.sharding.Mesh:
    """A mesh over all devices. Axes left out have size 1; a -1 takes what remains.

    On several TPU slices `data` goes across the slices, where the network is slowest.

    Raises:
      ConfigError: unknown axes, or sizes whose product is not the number of devices.
    """
    devices = jax.devices() if devices is None else devices
    sizes = _sizes(shape, len(devices))
    slices = {getattr(device, "slice_index", 0) for device in devices}
    # Axes are Explicit by default, which Flax's layers do not accept.
    types = (AxisType.Auto,) * len(MESH_AXES)
    if len(slices) == 1:
        return jax.make_mesh(sizes, MESH_AXES, axis_types=types, devices=devices)
    if sizes[0] % len(slices):
        raise errors.ConfigError(
            f"mesh.data: {sizes[0]} is not a multiple of the {len(slices)} slices"
        )
    grid = mesh_utils.create_hybrid_device_mesh(
        (sizes[0] // len(slices), *sizes[1:]), (len(slices), 1, 1), devices=devices
    )
    return jax.sharding.Mesh(grid, MESH_AXES, axis_types=types)


def _sizes(shape: Mapping[str, int], devices: int) -> tuple[int, ...]:
    if unknown := set(shape) - set(MESH_AXES):
        raise errors.ConfigError(
            f"mesh.{unknown.pop()}: no such axis; the axes are {', '.join(MESH_AXES)}"
        )
    sizes = [1 if shape.get(axis) is None else shape[axis] for axis in MESH_AXES]
    fixed = math.prod(size for size in sizes if size != -1)
    free = sizes.count(-1)
    if free > 1 or any(size < 1 and size != -1 for size in sizes):
        raise errors.ConfigError(
            f"mesh: {dict(shape)}: sizes are positive, and one may be -1"
        )
    if devices % fixed or (not free and fixed != devices):
        raise errors.ConfigError(
            f"mesh: {dict(zip(MESH_AXES, sizes, strict=True))} needs "
            f"{'a multiple of ' if free else ''}{fixed} devices, there are {devices}; "
            "give one axis the size -1"
        )
    return tuple(devices // fixed if size == -1 else size for size in sizes)


@contextlib.contextmanager
def use(mesh: jax.sharding.Mesh, rules: Mapping):
    """The one place where the ambient mesh and the axis rules are set."""
    with jax.set_mesh(mesh), nn.logical_axis_rules(tuple(rules.items())):
        yield


def platform() -> str:
    """Of the devices of the ambient mesh, "cpu", "gpu" or "tpu"; else JAX's default.

    A program may be compiled for devices that this machine does not have.
    """
    device = jax.sharding.get_abstract_mesh().abstract_device
    return jax.default_backend() if device is None else device.platform


def constrain(x: jax.Array, *axes: str | None) -> jax.Array:
    """Pins an activation: `constrain(x_BTD, "batch", "seq", None)`; no mesh, no-op."""
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or not mesh.manual_axes:
        return nn.with_logical_constraint(x, axes)
    # Inside of a `shard_map` over some axes of the mesh, the others are left to say.
    free = lambda part: tuple(a for a in axis_names(part) if a not in mesh.manual_axes)
    spec = PartitionSpec(
        *(free(part) or None for part in nn.logical_to_mesh_axes(axes))
    )
    return jax.lax.with_sharding_constraint(x, spec)


def axes_of(name: str) -> tuple[str, ...]:
    """The axes of the ambient mesh that an array's axis lies along, under the rules."""
    return axis_names(dict(nn.get_logical_axis_rules()).get(name))


def whole_along(name: str, params, init: Callable[[jax.Array], Any]):
    """Parameters, none of them split along the axes of the mesh that `name` lies along.

    Under the ambient mesh and rules, inside of a jitted function. With "batch", what
    is fully sharded is gathered once here, and not where a loop over tokens uses it.

    Args:
      params: leaves that `init` does not make stay as they are.
      init: of the model, which knows the axes' names.
    """
    mesh, along = jax.sharding.get_abstract_mesh(), axes_of(name)
    if mesh.empty or math.prod(mesh.shape[axis] for axis in along) == 1:
        return params
    free = lambda axes: tuple(a for a in axis_names(axes) if a not in along) or None
    rules = [(k, free(axes)) for k, axes in dict(nn.get_logical_axis_rules()).items()]
    boxed = jax.eval_shape(lambda: init(jax.random.key(0)))
    specs = nn.logical_to_mesh(nn.get_partition_spec(boxed), rules)
    leaves, _ = jax.tree_util.tree_flatten_with_path(
        specs, is_leaf=lambda x: isinstance(x, PartitionSpec)
    )
    specs = {trees.path_name(path): spec for path, spec in leaves}

    def gather(path: str, x):
        if path not in specs:
            return x
        return jax.lax.with_sharding_constraint(x, specs[path])

    return trees.map_with_name(gather, params)


def shardings(abstract_tree, mesh, rules):
    """A NamedSharding per leaf, from the axis names given where it was created."""
    specs = nn.get_partition_spec(abstract_tree)
    return nn.logical_to_mesh_sharding(specs, mesh, tuple(rules.items()))


def abstract(init: Callable[[jax.Array], Any], mesh, rules):
    """What `init(key)` makes, as ShapeDtypeStructs sharded by the names of its axes.

    Raises:
      ConfigError: an axis that the mesh does not divide.
    """
    # The key too is abstract: the devices of the mesh need not be here.
    boxed = jax.eval_shape(lambda: init(jax.random.key(0)))
    placed = lambda leaf, where: jax.ShapeDtypeStruct(
        leaf.shape, leaf.dtype, sharding=where
    )
    unboxed = jax.eval_shape(nn.unbox, boxed)
    tree = jax.tree.map(placed, unboxed, shardings(boxed, mesh, rules))
    problems = []
    for name, leaf in trees.named_leaves(tree).items():
        try:
            leaf.sharding.shard_shape(leaf.shape)
        except ValueError:
            problems.append(
                f"mesh: {dict(leaf.sharding.mesh.shape)} does not divide {name} of "
                f"shape {leaf.shape}, which is sharded as {leaf.sharding.spec}; change "
                "the mesh, or the axis in sharding_rules"
            )
    if problems:
        raise errors.ConfigError(problems)
    return tree


def batch_sharding(mesh, rules) -> NamedSharding:
    """How the rows of a batch lie on the mesh."""
    return NamedSharding(mesh, PartitionSpec(rules["batch"]))


def batch_divisor(mesh, rules) -> int:
    """The number of parts that the mesh cuts a batch into."""
    return math.prod(mesh.shape[axis] for axis in axis_names(rules["batch"]))


def local_rows(batch_size: int, mesh, rules) -> np.ndarray:
    """The rows of a global batch that this process's devices hold, in order."""
    sharding = batch_sharding(mesh, rules)
    indices = sharding.addressable_devices_indices_map((batch_size,)).values()
    rows = {row for (rows,) in indices for row in range(*rows.indices(batch_size))}
    return np.array(sorted(rows))


def put_batch(batch, batch_size: int, mesh, rules):
    """Global arrays of `batch_size` rows, of which this process loaded `local_rows`.

    Works for any mesh, also where several processes hold the same rows.
    """
    sharding = batch_sharding(mesh, rules)
    where = {row: i for i, row in enumerate(local_rows(batch_size, mesh, rules))}

    def put(x):
        def piece(index):
            start, stop, _ = index[0].indices(batch_size)
            return x[where[start] : where[stop - 1] + 1]

        return jax.make_array_from_callback((batch_size, *x.shape[1:]), sharding, piece)

    return jax.tree.map(put, batch)
