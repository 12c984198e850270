# SPDX-License-Identifier: Apache-2.0
"""One corpus and one cache for all tests of the command."""

import os
import sys

import pytest

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
