# SPDX-License-Identifier: Apache-2.0
"""The loop: batches wait on the devices, and metrics are read a step later."""

import threading

import jax
import jax.numpy as jnp
import numpy as np

from alignjax.distributed import sharding
from alignjax.tracking import throughput
from alignjax.training import loop
from alignjax.types import Frozen, TrainState


def rows(indices):
    tokens = np.asarray(indices, np.int32)[:, None] + np.zeros(4, np.int32)
    names = ("inputs", "targets", "segment_ids", "positions")
    return {**dict.fromkeys(names, tokens), "weights": np.float32(tokens)}


def test_batches_are_on_the_devices_before_their_step():
    """Threads read and copy them, and the loop only takes them."""
    rules, threads = sharding.rules(), []
    mesh = sharding.make_mesh({"data": 2, "fsdp": 4, "tensor": 1})
    batch = loop.row_batches(rows, 16, mesh, rules)

    def noted(i):
        threads.append(threading.current_thread().name)
        return batch(i)

    with loop.prefetched(noted, start=3, steps=6, depth=2) as batches:
        for i in range(3, 6):
            sequences = batches(i, None)
            assert sequences.inputs[:, 0].tolist() == list(range(16 * i, 16 * i + 16))
            for x in jax.tree.leaves(sequences):
                assert x.committed
                assert x.sharding == sharding.batch_sharding(mesh, rules)
    assert len(threads) == 3
    assert all(name.startswith("prefetch") for name in threads)


def test_metrics_are_read_when_the_next_step_is_under_way():
    """So that a device never waits for the host to read and write them."""
    events = []

    def train_step(state, frozen, batch, key):
        events.append(f"step {batch}")
        return state.replace(step=state.step + 1), {"loss": jnp.float32(batch)}

    def evaluate(step, state, figures):
        events.append(f"evaluate {step}")
        return {"eval/loss": 1.0}

    reported = {}

    def report(i, numbers):
        events.append(f"report {i}")
        reported[i] = numbers

    loop.run(
        TrainState(np.int32(0), {}, ()),
        Frozen(),
        None,
        steps=5,
        batches=lambda i, state: i,
        train_step=train_step,
        tokens=lambda i: 10 + i,
        meter=throughput.Meter(),
        before_step=lambda i: None,
        report=report,
        stop_after=lambda i: False,
        evaluations=[loop.Hook(evaluate, every=3)],
    )
    assert events == [
        *("step 0", "step 1", "report 0", "step 2", "report 1"),
        *("evaluate 3", "report 2"),
        *("step 3", "step 4", "report 3", "report 4"),
    ]
    assert [x["loss"] for x in reported.values()] == [0, 1, 2, 3, 4]
    assert [x["tokens"] for x in reported.values()] == [10, 21, 33, 46, 60]
    assert [i for i, x in reported.items() if "eval/loss" in x] == [2]
