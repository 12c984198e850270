# SPDX-License-Identifier: Apache-2.0
"""Ends a process as `kill -9` does, at a point within a rollout.

Functions to be called before a command (`before` of `tests.train.launch`). Checkpoints
are written before anything else is done, so that the one before it is there.
"""

import os
import signal

from alignjax import checkpoint, rewards
from alignjax.rollouts import source


def _save_at_once() -> None:
    save = checkpoint.Checkpoints.maybe_save

    def waited(self, *arguments, **options):
        save(self, *arguments, **options)
        self.wait()

    checkpoint.Checkpoints.maybe_save = waited


def within_a_rollout() -> None:
    """While the responses of the second rollout have their rewards computed."""
    _save_at_once()
    score, calls = rewards.score, []

    def killed(*arguments):
        calls.append(arguments)
        if len(calls) == 2:
            os.kill(os.getpid(), signal.SIGKILL)
        return score(*arguments)

    rewards.score = killed


def between_minibatches() -> None:
    """Before the third of the four updates of the second rollout."""
    _save_at_once()
    batch = source.Source.__call__

    def killed(self, step, state):
        if step == 6:
            os.kill(os.getpid(), signal.SIGKILL)
        return batch(self, step, state)

    source.Source.__call__ = killed
