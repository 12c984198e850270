# SPDX-License-Identifier: Apache-2.0
"""Ends a process as `kill -9` does, at a point within a rollout.

Functions to be called before a command (`before` of `tests.train.launch`).
"""

import os
import signal

from alignjax import rewards
from alignjax.rollouts import source


def within_a_rollout() -> None:
    """While the responses of the second rollout have their rewards computed."""
    score, calls = rewards.score, []

    def killed(*arguments):
        calls.append(arguments)
        if len(calls) == 2:
            os.kill(os.getpid(), signal.SIGKILL)
        return score(*arguments)

    rewards.score = killed


def between_minibatches() -> None:
    """Before the third of the four updates of the second rollout."""
    batch = source.Source.__call__

    def killed(self, step, state):
        if step == 6:
            os.kill(os.getpid(), signal.SIGKILL)
        return batch(self, step, state)

    source.Source.__call__ = killed
