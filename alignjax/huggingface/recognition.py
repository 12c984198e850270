# SPDX-License-Identifier: Apache-2.0
"""Whether a directory is a Hugging Face folder; in a module that imports nothing."""

from __future__ import annotations

import json
import pathlib

_FILES = ("*.safetensors", "pytorch_model*.bin", "adapter_config.json")


def is_folder(path: pathlib.Path) -> bool:
    """Whether it looks like one, sound or not; the directory of a run does not."""
    if (path / "checkpoints").is_dir():
        return False
    if any(any(path.glob(name)) for name in _FILES):
        return True
    try:
        known = json.loads((path / "config.json").read_text())
    except (OSError, ValueError):
        return False
    return isinstance(known, dict) and bool(
        {"model_type", "architectures"} & set(known)
    )
