# SPDX-License-Identifier: Apache-2.0
"""Decisions of several processes, seen from one of two: it always says its own."""

import numpy as np
import pytest

from alignjax import errors
from alignjax.distributed import multihost


@pytest.fixture
def votes(monkeypatch):
    """What this process says; the other one says that all is well."""
    said = []

    def allgather(x):
        said.append(bool(x))
        return np.array([x, True])

    monkeypatch.setattr(multihost.jax, "process_count", lambda: 2)
    monkeypatch.setattr(multihost.multihost_utils, "process_allgather", allgather)
    return said


@pytest.mark.parametrize(
    "error",
    [
        ValueError("of a user's reward"),
        StopIteration(3),
        errors.DataError("too many responses have no score"),
        errors.ConfigError("workdir: another"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_the_others_hear_of_whatever_fails_and_it_stays_what_it_was(error, votes):
    with pytest.raises(type(error)) as raised, multihost.all_or_none("saving"):
        raise error
    assert raised.value is error and votes == [False]


def test_a_file_that_cannot_be_written_is_a_checkpoint_error(votes):
    text = "saving: no space left"
    with (
        pytest.raises(errors.CheckpointError, match=text),
        multihost.all_or_none("saving"),
    ):
        raise OSError("no space left")
    assert votes == [False]


def test_what_another_process_says_ends_this_one(votes, monkeypatch):
    with multihost.all_or_none("saving"):
        pass
    assert votes == [True]
    others = lambda x: np.array([x, False])
    monkeypatch.setattr(multihost.multihost_utils, "process_allgather", others)
    with (
        pytest.raises(errors.DataError, match="another process says why"),
        multihost.all_or_none("rewards", errors.DataError),
    ):
        pass
