# SPDX-License-Identifier: Apache-2.0
"""Checkpoints that are what was written: saving, resuming, and opening a run."""

from alignjax.analysis.run import Run, open_run
from alignjax.checkpoint.manager import Checkpoints
from alignjax.checkpoint.settings import CheckpointConfig
from alignjax.errors import CheckpointError
from alignjax.errors import NonFinite as NonFiniteError

__all__ = [
    "CheckpointConfig",
    "CheckpointError",
    "Checkpoints",
    "NonFiniteError",
    "Run",
    "open_run",
]
