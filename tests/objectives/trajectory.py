# SPDX-License-Identifier: Apache-2.0
"""One step of a small decoder on any mesh, in any layout, microbatches and chunks."""

import functools

import jax
import numpy as np
import optax

from alignjax import models, objectives, types
from alignjax.distributed import sharding
from alignjax.objectives import logprobs
from alignjax.training import state, step
from tests.objectives import batches

V, T = 40, 48
MODEL = dict(
    family="llama",
    name="nano",
    d_model=16,
    layers=2,
    d_ff=24,
    kv_heads=2,
    max_length=T,
    init_std=0.3,
)
MESHES = {
    "one": dict(fsdp=1),
    "fsdp": dict(fsdp=8),
    "all": dict(data=2, fsdp=2, tensor=2),
}
# Rows that 8 devices can share in 4 microbatches each; some of them are padding.
ROWS = {"padded": 64, "packed": 32, "shared": 32}
GROUPS = 50


def model(heads=0):
    return models.build(MODEL | {"score_heads": heads}, V)


@functools.cache
def batch(layout, K):
    groups = batches.groups(GROUPS, V, K=K)
    return batches.make(groups, layout, T, rows=ROWS[layout])


def take(
    section,
    K,
    *,
    heads=0,
    mesh="one",
    microbatches=1,
    layout="padded",
    chunk=None,
    store=False,
):
    """Returns (metrics, what the step took off the parameters), as numpy.

    The optimizer is descent with momentum, whose first trace is the update itself: as
    the difference of parameters about 1 it would be known to 6e-8 only.
    """
    sizes = MESHES[mesh]
    devices = tuple(jax.devices()[: int(np.prod(list(sizes.values())))])
    grid, rules = sharding.make_mesh(sizes, devices), sharding.rules()
    built = model(heads)
    section = section if chunk is None else {**section, "chunk": chunk}
    objective = objectives.build(built, section)
    optimizer = optax.sgd(1.0, momentum=0.9)
    rows = batch(layout, K)
    with sharding.use(grid, rules):
        abstract = state.abstract_state(built, optimizer, grid, rules)
        start = lambda seed: state.init_state(
            built, optimizer, abstract, jax.random.key(seed)
        )
        frozen = types.Frozen()
        if objective.needs.reference:
            frozen = types.Frozen(reference=start(1).params)
        if store:
            found = logprobs.tokens(
                built, frozen.reference, logprobs.flatten_sequences(rows)
            )
            logp = np.asarray(found.logp).reshape(rows.responses.shape)
            rows, frozen = rows.replace(reference=logp), types.Frozen()
        now = start(0)
        run = jax.jit(
            step.make_train_step(objective, optimizer, microbatches=microbatches),
            out_shardings=(state.shardings(abstract), None),
        )
        rows = sharding.put_batch(rows, ROWS[layout], grid, rules)
        after, metrics = run(now, frozen, rows, jax.random.key(2))
    took = optax.tree.get(after.opt_state, "trace")
    return {k: float(x) for k, x in metrics.items()}, jax.device_get(took)


def assert_same(found, expected):
    """Loss, metrics and update, to 1e-5."""
    (metrics, took), (metrics_too, took_too) = found, expected
    assert set(metrics) == set(metrics_too)
    for name, value in metrics_too.items():
        np.testing.assert_allclose(
            metrics[name], value, rtol=1e-5, atol=1e-5, err_msg=name
        )
    flat = lambda tree: np.concatenate([np.ravel(x) for x in jax.tree.leaves(tree)])
    error, size = flat(took) - flat(took_too), np.linalg.norm(flat(took_too))
    assert size > 0 and np.linalg.norm(error) <= 1e-5 * size
    assert np.abs(error).max() <= 1e-5 * np.abs(flat(took_too)).max()
