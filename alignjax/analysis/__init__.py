# SPDX-License-Identifier: Apache-2.0
"""Finished runs and model folders, opened anywhere to be looked into."""

from alignjax.analysis.run import Run, open_run

__all__ = ["Run", "open_run"]
