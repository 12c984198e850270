# SPDX-License-Identifier: Apache-2.0
"""Whether a directory is a Hugging Face folder."""

from __future__ import annotations

import pathlib

from alignjax import errors
from alignjax.storage import json_files

_FILES = ("*.safetensors", "pytorch_model*.bin", "adapter_config.json")


def is_folder(path: pathlib.Path) -> bool:
    """Whether it looks like one, sound or not; the directory of a run does not."""
    if (path / "checkpoints").is_dir():
        return False
    if any(any(path.glob(name)) for name in _FILES):
        return True
    try:
        known = json_files.read(path / "config.json", dict)
    except errors.DataError:
        return False
    return bool({"model_type", "architectures"} & known.keys())
