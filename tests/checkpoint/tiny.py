# SPDX-License-Identifier: Apache-2.0
"""A run small enough to kill, flip and copy hundreds of times."""

import dataclasses
import hashlib
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import NamedSharding, PartitionSpec

from alignjax import checkpoint, types

CONFIG = {
    "steps": 40,
    "model": {"width": 8},
    "optimizer": {"learning_rate": 1e-2, "betas": [0.9, 0.95]},
    "mesh": {"data": 1, "fsdp": 8, "tensor": 1},
    "checkpoint": {"every": 5},
}
DATA = {"source": "tiny", "tokenizer": "bytes", "sha256": "ab" * 32}


def optimizer():
    """A chain with every kind of node: empty, masked, counters, two dtypes."""
    decay = {"embed": {"kernel": True}, "layers": {"w": True, "scale": False}}
    return optax.chain(
        optax.clip_by_global_norm(1.0),
        optax.scale_by_adam(mu_dtype=jnp.bfloat16),
        optax.masked(optax.trace(0.9), decay),
        optax.scale_by_schedule(optax.linear_schedule(-1e-2, -1e-3, 40)),
    )


def init(size: int = 8) -> types.TrainState:
    """The embedding is so large that its bytes are stored as they are, unchecked."""
    keys = jax.random.split(jax.random.key(0), 2)
    params = {
        "embed": {"kernel": jax.random.normal(keys[0], (512, size))},
        "layers": {
            "w": jax.random.normal(keys[1], (8, size, 8)).astype(jnp.bfloat16),
            "scale": jnp.ones((8,)),
        },
    }
    return types.TrainState(jnp.int32(0), params, optimizer().init(params))


def mesh_of(count: int):
    return jax.make_mesh(
        (count,),
        ("fsdp",),
        axis_types=(jax.sharding.AxisType.Auto,),
        devices=jax.devices()[:count],
    )


def abstract(mesh, axis: int | None = 0, size: int = 8) -> types.TrainState:
    """Leaves whose `axis` the mesh divides lie along it; the rest is replicated."""

    def place(leaf):
        spec = PartitionSpec()
        if axis is not None and leaf.ndim > axis and leaf.shape[axis] % mesh.size == 0:
            spec = PartitionSpec(*[None] * axis, "fsdp")
        where = NamedSharding(mesh, spec)
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=where)

    return jax.tree.map(place, jax.eval_shape(lambda: init(size)))


def place(state, like):
    return jax.device_put(state, jax.tree.map(lambda x: x.sharding, like))


def make_step(like):
    where = jax.tree.map(lambda x: x.sharding, like)

    def step(state):
        batch = jax.random.normal(
            jax.random.fold_in(jax.random.key(1), state.step), (8,)
        )

        def loss(params):
            x = params["embed"]["kernel"] @ params["layers"]["w"].astype(jnp.float32)
            return jnp.mean((jnp.tanh(x) * params["layers"]["scale"] - batch) ** 2)

        value, grads = jax.value_and_grad(loss)(state.params)
        updates, opt_state = optimizer().update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        return types.TrainState(state.step + 1, params, opt_state), value

    return jax.jit(step, donate_argnums=0, out_shardings=(where, None))


def open_checkpoints(workdir, *, config=CONFIG, data=DATA, **options):
    options = {"every": 5, "keep_last": 3, **options}
    return checkpoint.Checkpoints(workdir, config=config, data_identity=data, **options)


def bits(tree) -> str:
    """A hash of every bit of a tree, of no kinship with the code under test."""
    total = hashlib.sha256()
    for leaf in jax.tree.leaves(jax.tree.map(np.asarray, tree)):
        total.update(f"{leaf.dtype}{leaf.shape}".encode() + leaf.tobytes())
    return total.hexdigest()


def state_at(step: int, like) -> types.TrainState:
    """A state of that step without the training, distinct for each step."""
    fresh = init(like.params["embed"]["kernel"].shape[1])
    shift = lambda x: x + jnp.asarray(step, x.dtype) if x.ndim else x
    state = dataclasses.replace(jax.tree.map(shift, fresh), step=jnp.int32(step))
    return place(state, like)


def never():
    """For `restore_or_init`, where there is something to restore."""
    raise AssertionError("started from nothing")


def save(workdir, *steps, like=None, metrics=None, **options) -> list[int]:
    """Saves these steps, one after the other; returns those that are left."""
    like = like or abstract(mesh_of(2))
    with open_checkpoints(workdir, **options) as checkpoints:
        for step in steps:
            row = metrics[step] if metrics else None
            assert checkpoints.maybe_save(
                step, state_at(step, like), force=True, metrics=row
            )
            checkpoints.wait()
        return checkpoints.steps


def restore(workdir, like=None, init=never, **options):
    like = like or abstract(mesh_of(2))
    with open_checkpoints(workdir, **options) as checkpoints:
        return checkpoints.restore_or_init(like, init)


def train(workdir, steps: int, every: int, devices: int = 2, cache=None) -> None:
    """Trains or resumes; writes a hash of the final state to `workdir/final`."""
    if cache is not None:
        jax.config.update("jax_compilation_cache_dir", str(cache))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    like = abstract(mesh_of(devices))
    step_fn = make_step(like)
    workdir = pathlib.Path(workdir)
    with open_checkpoints(workdir, every=every) as checkpoints:
        state, start = checkpoints.restore_or_init(like, lambda: place(init(), like))
        (workdir / "started").write_text(str(start))
        for i in range(start or 0, steps):
            state, _ = step_fn(state)
            checkpoints.maybe_save(i + 1, state, force=i + 1 == steps)
    (workdir / "final").write_text(bits(jax.device_get(state)))
