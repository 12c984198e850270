# SPDX-License-Identifier: Apache-2.0
"""Every test sees 8 virtual CPU devices; set before jax is imported."""

import ctypes
import gc
import importlib.metadata
import os
import pathlib
import sys

import pytest

os.environ.setdefault("JAX_PLATFORMS", "cpu")
flags = os.environ.get("XLA_FLAGS", "")
if "host_platform_device_count" not in flags:
    flags += " --xla_force_host_platform_device_count=8"
if "backend_optimization_level" not in flags:
    # Tests compile far more than they compute; either of these halves the time of it.
    flags += " --xla_backend_optimization_level=0"
    if int(importlib.metadata.version("jaxlib").split(".")[1]) < 11:
        # Later compilers refuse it: they have no other way to write a fused kernel.
        flags += " --xla_cpu_use_fusion_emitters=false"
os.environ["XLA_FLAGS"] = flags


@pytest.fixture(autouse=True, scope="module")
def release_programs():
    """Compiled programs are kept for ever, gigabytes of them over the whole suite."""
    yield
    if "jax" in sys.modules and _resident() > 1.5 * 2**30:
        sys.modules["jax"].clear_caches()
        gc.collect()
        if sys.platform == "linux":
            ctypes.CDLL("libc.so.6").malloc_trim(0)


def _resident() -> float:
    """Bytes of memory that this process holds; infinite where the system hides it."""
    try:
        pages = pathlib.Path("/proc/self/statm").read_text().split()[1]
    except OSError:
        return float("inf")
    return int(pages) * os.sysconf("SC_PAGE_SIZE")


def pytest_collection_modifyitems(items):
    """Whole runs, which take longest, go first: else one worker ends alone."""
    items.sort(key=lambda item: "train" not in item.path.parts)
