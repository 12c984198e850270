# SPDX-License-Identifier: Apache-2.0
"""Checkpoints that are what was written: saving, resuming, and opening a run."""

from alignjax.checkpoint.manager import Checkpoints, NonFiniteError
from alignjax.checkpoint.run import Run, open_run
from alignjax.checkpoint.settings import CheckpointConfig
from alignjax.checkpoint.storage import CheckpointError

__all__ = [
    "CheckpointConfig",
    "CheckpointError",
    "Checkpoints",
    "NonFiniteError",
    "Run",
    "open_run",
]
