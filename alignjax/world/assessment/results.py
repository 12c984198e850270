# SPDX-License-Identifier: Apache-2.0
"""The file of all figures, which grows by a run at a time.

format     1
world      preset and seed
settings   `benchmarks.Settings`
prompts    [{slice, text, best, novelty}]
models     {name: a language model's description, and `language_model.assess`}
changes    [{from, to, ...}] to each language model from the one it started from
rewards    {name: a reward model's description, and `reward_model.assess`}
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Mapping
from typing import Any

from alignjax import errors
from alignjax.storage import atomic, json_files
from alignjax.world.assessment import benchmarks

FORMAT = 1
# Stages by the objective that they train on; the others are of language models.
STAGES = {"reward_model": "reward", "preference": "preference"}


def stage(config: Mapping[str, Any]) -> str:
    """The stage of a run by its config.

    Returns:
      "pretraining", "sft", "reward" or "preference".
    """
    objective = config.get("objective", {}).get("name", "")
    data = config.get("data", {})
    imitates = data.get("chat") and data.get("train_on") != "everything"
    return STAGES.get(objective, "sft" if imitates else "pretraining")


def empty(preset: str, seed: int, settings: benchmarks.Settings) -> dict[str, Any]:
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
      ConfigError: it is no file of results.
    """
    results = json_files.read(path, error=errors.ConfigError)
    if not isinstance(results, dict) or results.get("format") != FORMAT:
        raise errors.ConfigError(
            f"{path}: not results of format {FORMAT}; write them again with "
            "alignjax assess"
        )
    fields = empty("", 0, benchmarks.Settings())
    missing = [k for k, x in fields.items() if not isinstance(results.get(k), type(x))]
    if missing:
        raise errors.ConfigError(
            f"{path}: results without {', '.join(missing)}; write them again with "
            "alignjax assess --anew"
        )
    return results


def write(path: str | os.PathLike, results: Mapping[str, Any]) -> None:
    """Writes the file whole or not at all."""
    atomic.write(path, json.dumps(results, indent=1, allow_nan=False) + "\n")


def same_benchmark(old: Mapping[str, Any], new: Mapping[str, Any]) -> bool:
    """Whether the runs of both were measured on the same prompts."""
    return all(old[name] == new[name] for name in ("world", "settings"))
