# SPDX-License-Identifier: Apache-2.0
"""Checkpoints that are what was written: saving and resuming."""

from alignjax.checkpoint.manager import Checkpoints
from alignjax.checkpoint.settings import CheckpointConfig

__all__ = [
    "CheckpointConfig",
    "Checkpoints",
]
