# SPDX-License-Identifier: Apache-2.0
"""Refuses to run a tool without the packages that it needs beyond alignjax's own."""

from __future__ import annotations

import importlib.util
import os
import sys
import warnings

from alignjax import errors


def packages(*names: str) -> None:
    """Ends the program, with what to install, unless all of these can be imported."""
    missing = [name for name in names if importlib.util.find_spec(name) is None]
    if missing:
        listed = " ".join(missing)
        print(f"not installed: {listed}; pip install {listed}", file=sys.stderr)
        raise SystemExit(errors.CONFIG)


def trl() -> None:
    """Ends the program unless TRL is there, which then fetches and reports nothing.

    Called before any library of Hugging Face is imported: they read this once.
    """
    packages("torch", "transformers", "datasets", "trl")
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")
    import datasets
    import transformers

    datasets.disable_progress_bars()
    datasets.disable_caching()
    transformers.logging.set_verbosity_error()
    warnings.simplefilter("ignore", FutureWarning)  # transformers', of its own names
