# SPDX-License-Identifier: Apache-2.0
"""The small experiment, and one rollout of it; each worker builds them once."""

import pytest

from tests.rollouts import small


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("rollouts")


@pytest.fixture(scope="session")
def experiment(tmp_path_factory):
    return small.begun(small.section(tmp_path_factory.mktemp("experiment")))


@pytest.fixture(scope="session")
def made(experiment):
    return small.make(experiment, experiment[0].rollouts)
