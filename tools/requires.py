# SPDX-License-Identifier: Apache-2.0
"""Says what a tool needs beyond alignjax, before it does anything."""

from __future__ import annotations

import importlib.util
import sys

from alignjax import errors


def packages(*names: str) -> None:
    """Ends the program, with what to install, unless all of these can be imported."""
    lacking = [name for name in names if importlib.util.find_spec(name) is None]
    if lacking:
        known = " ".join(lacking)
        print(f"not installed: {known}; pip install {known}", file=sys.stderr)
        raise SystemExit(errors.CONFIG)
