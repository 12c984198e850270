# SPDX-License-Identifier: Apache-2.0
"""Meshes, rules and batches on 8 virtual devices."""

import jax
import numpy as np
import pytest

from alignjax import errors
from alignjax.distributed import sharding


@pytest.mark.parametrize(
    "shape,sizes",
    [
        ({}, None),
        (dict(fsdp=-1), (1, 8, 1)),
        (dict(data=2, fsdp=-1, tensor=2), (2, 2, 2)),
        (dict(data=8, fsdp=1, tensor=1), (8, 1, 1)),
        (dict(data=None, fsdp=-1, tensor=None), (1, 8, 1)),
    ],
    ids=str,
)
def test_mesh_sizes(shape, sizes):
    if sizes is None:
        with pytest.raises(errors.ConfigError, match="needs 1 devices, there are 8"):
            sharding.make_mesh(shape)
    else:
        mesh = sharding.make_mesh(shape)
        assert mesh.devices.shape == sizes and mesh.axis_names == sharding.MESH_AXES


@pytest.mark.parametrize(
    "shape,message",
    [
        (dict(data=3, fsdp=-1), "needs a multiple of 3 devices, there are 8"),
        (dict(data=4, fsdp=4), "needs 16 devices"),
        (dict(data=-1, fsdp=-1), "one may be -1"),
        (dict(data=0, fsdp=-2), "sizes are positive"),
        (dict(modle=2), "mesh.modle: no such axis; the axes are data, fsdp, tensor"),
    ],
    ids=str,
)
def test_refuses_meshes(shape, message):
    with pytest.raises(errors.ConfigError) as error:
        sharding.make_mesh(shape)
    assert message in str(error.value)


def test_rules_are_checked():
    assert sharding.rules({"seq": "tensor"})["seq"] == "tensor"
    assert sharding.rules({"batch": ["data"]})["batch"] == ("data",)
    with pytest.raises(errors.ConfigError) as error:
        sharding.rules({"heds": "tensor", "seq": "sequence"})
    assert "sharding_rules.heds: no array has this axis" in str(error.value)
    assert "the mesh has no axis 'sequence'" in str(error.value)


@pytest.mark.parametrize(
    "shape", [dict(fsdp=8), dict(data=2, fsdp=2, tensor=2)], ids=str
)
def test_put_batch_puts_every_row_in_its_place(shape):
    mesh, rules = sharding.make_mesh(shape), sharding.rules()
    batch = {"x": np.arange(16 * 3).reshape(16, 3)}
    mine = sharding.local_rows(16, mesh, rules)
    np.testing.assert_array_equal(mine, np.arange(16))
    placed = sharding.put_batch(batch, 16, mesh, rules)["x"]
    np.testing.assert_array_equal(placed, batch["x"])
    parts = sharding.batch_divisor(mesh, rules)
    shard = placed.addressable_shards[0].data
    assert shard.shape == (16 // parts, 3)


def test_constrain_without_a_mesh_changes_nothing():
    x = jax.numpy.ones((2, 3))
    np.testing.assert_array_equal(sharding.constrain(x, "batch", "embed"), x)
