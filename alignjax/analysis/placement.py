# SPDX-License-Identifier: Apache-2.0
"""A model over the devices of a mesh, to be read by one process.

    run = alignjax.open_run("runs/large", mesh={"fsdp": -1})

Parameters are read leaf by leaf, and each device gets its part.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from alignjax import errors, trees, types
from alignjax.distributed import sharding


class Placement(NamedTuple):
    """A mesh, and which axis of an array lies along which axis of it."""

    mesh: jax.sharding.Mesh
    rules: Mapping

    def use(self):
        """The context in which to compute."""
        return sharding.use(self.mesh, self.rules)


def make(mesh: Mapping[str, int] | jax.sharding.Mesh, rules: Mapping | None = None):
    """A `Placement`.

    Args:
      mesh: sizes of axes, as in a config's section `mesh`; or a mesh of these axes.
      rules: replacements, as in a config's section `sharding_rules`.

    Raises:
      ConfigError: a mesh or rules that do not fit, or of devices of other processes.
    """
    if isinstance(mesh, Mapping):
        mesh = sharding.make_mesh(mesh)
    if unknown := set(mesh.axis_names) - set(sharding.MESH_AXES):
        raise errors.ConfigError(
            f"mesh: no axis is called {unknown.pop()!r}; the axes are "
            f"{', '.join(sharding.MESH_AXES)}"
        )
    if mesh.is_multi_process:
        raise errors.ConfigError(
            "mesh: has devices of several processes, and a run is opened by one; give "
            "it the devices of this process: jax.local_devices()"
        )
    return Placement(mesh, sharding.rules(rules))


def use(placement: Placement | None):
    """The context in which to compute; without a placement there is none to enter."""
    return contextlib.nullcontext() if placement is None else placement.use()


def put(leaves: Mapping[str, Any], model: types.Model, placement: Placement):
    """Parameters on the mesh, of leaves that are read when they are sliced.

    Raises:
      ConfigError: an axis that the mesh does not divide.
    """
    with placement.use():
        abstract = sharding.abstract(model.init, *placement)
    arrays = {}
    for name, where in trees.named_leaves(abstract).items():
        # Copied, since on CPUs a device array may share memory with its source.
        part = lambda index, leaf=leaves[name]: np.array(leaf[index])
        arrays[name] = jax.make_array_from_callback(where.shape, where.sharding, part)
    return trees.nest(arrays)


def rows(count: int) -> int:
    """The number of rows, padding included, that the ambient mesh divides."""
    devices = max(1, jax.sharding.get_abstract_mesh().size)
    return -(-count // devices) * devices
