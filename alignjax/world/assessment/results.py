# SPDX-License-Identifier: Apache-2.0
"""The file with everything that was measured, which grows by a run at a time.

format     1
world      preset and seed
settings   `amounts.Settings`
prompts    what was asked: slice, text, best, novelty
models     {name: figures of `policy.assess`, and what the run is}
changes    [{from, to, ...}] to each model that talks, from where it started
rewards    {name: figures of `rewards.assess`, and what the run is}
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Mapping
from typing import Any

from alignjax import errors
from alignjax.storage import atomic, json_files
from alignjax.world.assessment import amounts

FORMAT = 1


def empty(preset: str, seed: int, settings: amounts.Settings) -> dict[str, Any]:
    """Results without a run."""
    fields = dataclasses.asdict(settings)
    return {
        "format": FORMAT,
        "world": {"preset": preset, "seed": seed},
        "settings": {**fields, "kinds": list(settings.kinds)},
        "prompts": [],
        "models": {},
        "changes": [],
        "rewards": {},
    }


def read(path: str | os.PathLike) -> dict[str, Any]:
    """The results in a file.

    Raises:
      ConfigError: it is no such file.
    """
    found = json_files.read(path, error=errors.ConfigError)
    if not isinstance(found, dict) or found.get("format") != FORMAT:
        raise errors.ConfigError(
            f"{path}: not results of format {FORMAT}; write them anew with "
            "python -m alignjax.world.assessment"
        )
    whole = empty("", 0, amounts.Settings())
    lacks = [k for k, x in whole.items() if not isinstance(found.get(k), type(x))]
    if lacks:
        raise errors.ConfigError(
            f"{path}: results without {', '.join(lacks)}; write them anew with "
            "python -m alignjax.world.assessment --anew"
        )
    return found


def write(path: str | os.PathLike, results: Mapping[str, Any]) -> None:
    """Writes the file whole or not at all."""
    atomic.write(path, json.dumps(results, indent=1, allow_nan=False) + "\n")


def fitting(old: Mapping[str, Any], new: Mapping[str, Any]) -> bool:
    """Whether runs of `old` were asked the same as those of `new`."""
    return all(old[name] == new[name] for name in ("world", "settings"))
