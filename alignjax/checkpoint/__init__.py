# SPDX-License-Identifier: Apache-2.0
"""Checkpoints that are what was written: saving and resuming."""

from alignjax.checkpoint.manager import Checkpoints
from alignjax.checkpoint.retention import CheckpointConfig

__all__ = ["CheckpointConfig", "Checkpoints"]
