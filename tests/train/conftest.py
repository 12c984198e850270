# SPDX-License-Identifier: Apache-2.0
"""One corpus and one cache for all tests of the command."""

import os
import sys

import jax
import pytest
from jax.experimental.compilation_cache import compilation_cache

from tests.train import small


@pytest.fixture(scope="session")
def corpus(tmp_path_factory):
    return small.write_corpus(tmp_path_factory.mktemp("corpus") / "corpus.txt")


@pytest.fixture(scope="session")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(autouse=True)
def path(monkeypatch):
    """The server that forks the commands looks for what it imports only here."""
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))


@pytest.fixture(autouse=True, scope="session")
def compiled(tmp_path_factory):
    """What one test compiles, the next need not."""
    names = "jax_compilation_cache_dir", "jax_persistent_cache_min_compile_time_secs"
    before = [getattr(jax.config, name) for name in names]
    compilation_cache.reset_cache()
    jax.config.update(names[0], str(tmp_path_factory.mktemp("compiled")))
    jax.config.update(names[1], 0.1)
    yield
    for name, value in zip(names, before, strict=True):
        jax.config.update(name, value)
    compilation_cache.reset_cache()
