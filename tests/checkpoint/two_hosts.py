# SPDX-License-Identifier: Apache-2.0
"""One of two processes that share a run: `two_hosts.py PORT INDEX WORKDIR SCENE`.

Prints a JSON object of what happened.
"""

import json
import os
import pathlib
import resource
import shutil
import sys
import time

from alignjax import errors

sys.path.insert(0, str(pathlib.Path(__file__).parents[2]))
os.environ["JAX_PLATFORMS"] = "cpu"
# Two devices here, and otherwise the flags of the tests, which bits depend on.
os.environ["XLA_FLAGS"] = os.environ["XLA_FLAGS"].replace("count=8", "count=2")

import jax
from jax.experimental import multihost_utils

from tests.fixtures import tiny


def bits(state) -> str:
    whole = lambda x: multihost_utils.process_allgather(x, tiled=True)
    return tiny.bits(jax.tree.map(whole, state))


def save(workdir, like, index):
    with tiny.checkpoints_of(workdir) as checkpoints:
        state, step = checkpoints.restore_or_init(like, lambda: tiny.state_at(0, like))
        first = bits(state)
        for number in (5, 10):
            checkpoints.maybe_save(number, tiny.state_at(number, like))
    return {"start": step, "bits": first, "steps": checkpoints.steps}


def resume(workdir, like, index):
    """From a run whose newest step is broken; and on from there."""
    with tiny.checkpoints_of(workdir) as checkpoints:
        state, step = checkpoints.restore_or_init(like, None)
        aside = checkpoints.quarantined
        checkpoints.maybe_save(20, tiny.state_at(20, like))
        found = {"start": step, "bits": bits(state), "aside": aside}
        checkpoints.wait()
        return {**found, **refusals(checkpoints, workdir, like, index)}


def refusals(checkpoints, workdir, like, index):
    """What goes wrong on process 1 alone must stop both."""
    usage, out = shutil.disk_usage, {}
    if index == 1:
        shutil.disk_usage = lambda path: usage(path)._replace(free=2**20)
    out["full"] = error_of(lambda: checkpoints.maybe_save(25, tiny.state_at(25, like)))
    shutil.disk_usage = usage
    other = {**tiny.CONFIG, "steps": 40 + index}
    out["unlike"] = error_of(lambda: entered(workdir, config=other))
    out["locked"] = error_of(lambda: entered(workdir))
    out["apart"] = error_of(lambda: entered(f"{workdir}-{index}"))
    return out


def fail(workdir, like, index):
    """A write that fails on process 1 alone, while process 0 goes on."""
    checkpoints = entered(workdir, timeout=10)
    like = tiny.abstract(tiny.mesh_of(4), size=4096)
    if index == 1:
        hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
        resource.setrlimit(resource.RLIMIT_FSIZE, (2**16, hard))
    start = time.monotonic()
    checkpoints.maybe_save(25, tiny.state_at(25, like))
    error = error_of(checkpoints.wait)
    seconds = time.monotonic() - start
    return {"error": error, "seconds": seconds, "steps": checkpoints.steps}


def entered(workdir, **options):
    """Checkpoints that are never left, as by a process that dies."""
    return tiny.checkpoints_of(workdir, **options).__enter__()


def error_of(call):
    try:
        call()
    except (errors.CheckpointError, errors.ConfigError) as error:
        return f"{type(error).__name__}: {error}"
    return None


if __name__ == "__main__":
    port, index, workdir, scene = sys.argv[1:]
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.distributed.initialize(f"127.0.0.1:{port}", 2, int(index))
    like = tiny.abstract(tiny.mesh_of(4))
    print(json.dumps(globals()[scene](workdir, like, int(index))), flush=True)
    os._exit(0)  # a lost peer must not hold up the other's end
