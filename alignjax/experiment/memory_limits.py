# SPDX-License-Identifier: Apache-2.0
"""Refuses what cannot fit into memory, before anything of it is allocated."""

from __future__ import annotations

import os

import jax

from alignjax import errors
from alignjax.experiment import sections


def check_batches(c: sections.Config) -> None:
    """Batches in flight, and a rollout as a whole, against the memory of the host.

    Raises:
      ConfigError: they do not fit.
    """
    # Six numbers of 4 bytes a token; of drawn responses twice as many.
    rows, of_token = c.batch_size * (c.prefetch + 1), 24
    fields = "batch_size, length, prefetch"
    if c.rollouts is not None:
        rows = c.batch_size * c.rollouts.minibatches * c.rollouts.samples
        of_token, fields = 48, "batch_size, length, rollouts.minibatches and samples"
    need = -(-rows // jax.process_count()) * c.length * of_token
    _check("batch_size", f"its batches in flight ({fields}) take", need, _host_bytes())


def check_model(nbytes: int) -> None:
    """What a model and its training keep, against the memory of a device.

    Raises:
      ConfigError: it does not fit.
    """
    what = "parameters, gradient and optimizer's state take, on each device,"
    _check("model", what, nbytes, device_bytes())


def device_bytes() -> int:
    """The memory of one device; those of a CPU share that of the host."""
    devices = jax.local_devices()
    stats = devices[0].memory_stats() or {}
    return stats.get("bytes_limit") or _host_bytes() // len(devices)


def _host_bytes() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _check(field: str, what: str, need: int, size: int) -> None:
    if need > size:
        raise errors.ConfigError(
            f"{field}: {what} {need / 2**30:,.1f} GiB of {size / 2**30:,.1f}; make it "
            "smaller, or spread it over more devices"
        )
