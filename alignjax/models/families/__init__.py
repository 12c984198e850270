# SPDX-License-Identifier: Apache-2.0
"""Families of models, one file each: sizes, defaults and checkpoint tensors.

A family's `CONFIGS` are its sizes by name, `DEFAULTS` what all of them share, both as
fields of `decoder_config.DecoderConfig`.
"""

from __future__ import annotations

import importlib
import pkgutil
from types import ModuleType


def names() -> list[str]:
    """The families that there are."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__))


def module(name: str) -> ModuleType:
    """The module of a family."""
    return importlib.import_module(f"{__name__}.{name}")
