# SPDX-License-Identifier: Apache-2.0
"""Every test sees 8 virtual CPU devices; set before jax is imported."""

import ctypes
import gc
import os
import pathlib
import resource
import sys
import tempfile

import pytest

from alignjax import cli
from tests import xla_flags

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ["XLA_FLAGS"] = f"{xla_flags.flags(8)} {os.environ.get('XLA_FLAGS', '')}"
cli.enough_threads()  # for the processes that tests start, too
# What one process compiles the others need not, of this run alone: a process that a
# test kills may leave half a program behind.
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    programs = tempfile.TemporaryDirectory(prefix="programs")  # ends with this process
    os.environ["JAX_COMPILATION_CACHE_DIR"] = programs.name
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")

# Bytes of a process, of which tools/test.sh has up to four: an eighth of the memory.
LARGE = max(2 * 2**30, os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 8)
_limit = LARGE


@pytest.fixture(autouse=True)
def release_programs():
    """Compiled programs are kept for ever, gigabytes of them over the whole suite."""
    global _limit
    yield
    if "jax" in sys.modules and _resident() > _limit:
        sys.modules["jax"].clear_caches()
        gc.collect()
        if sys.platform == "linux":
            ctypes.CDLL("libc.so.6").malloc_trim(0)
        _limit = max(LARGE, _resident() + 2**29)  # what stays is not released


def _resident() -> int:
    """Bytes of memory that this process holds; on macOS the most that it has held."""
    try:
        pages = pathlib.Path("/proc/self/statm").read_text().split()[1]
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return int(pages) * os.sysconf("SC_PAGE_SIZE")


def pytest_collection_modifyitems(items):
    """The files that take longest go first: else one worker ends alone."""
    longest = {"train", "test_invariance.py", "test_attention.py"}
    items.sort(key=lambda item: longest.isdisjoint(item.path.parts))
