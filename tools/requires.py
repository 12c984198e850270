# SPDX-License-Identifier: Apache-2.0
"""Refuses to run a tool without the packages that it needs beyond alignjax's own."""

from __future__ import annotations

import importlib.util
import sys

from alignjax import errors


def packages(*names: str) -> None:
    """Ends the program, with what to install, unless all of these can be imported."""
    missing = [name for name in names if importlib.util.find_spec(name) is None]
    if missing:
        listed = " ".join(missing)
        print(f"not installed: {listed}; pip install {listed}", file=sys.stderr)
        raise SystemExit(errors.CONFIG)
