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


def stage(config: Mapping[str, Any]) -> str:
    """The stage of a run's config: "pretraining", "sft", "reward" or "preference".

    The last is also that of runs which learn from rewards of their responses.
    """
    if config.get("rollouts"):
        return "preference"
    stages = {"reward_model": "reward", "preference": "preference"}
    sections = (config.get(name) for name in ("data", "objective"))
    data, objective = (s if isinstance(s, dict) else {} for s in sections)
    imitates = data.get("chat") and data.get("train_on") != "everything"
    objective = str(objective.get("name"))
    return stages.get(objective, "sft" if imitates else "pretraining")


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
    results = json_files.read(path, dict, error=errors.ConfigError)
    problem = f"not results of format {FORMAT}"
    if results.get("format") == FORMAT:
        fields = empty("", 0, benchmarks.Settings()).items()
        missing = [k for k, x in fields if not isinstance(results.get(k), type(x))]
        of = {"models": "sampled", "rewards": "splits"}
        missing += [
            f"{group}.{name:.60}.{field}"
            for group, figures in of.items()
            for name, model in ({} if missing else results[group]).items()
            for field in ("path", "step", "stage", figures)
            if not (isinstance(model, dict) and field in model)
        ]
        if not missing:
            return results
        problem = f"results without {errors.some(missing, count=7)}"
    remedy = "write them again with alignjax assess --anew"
    raise errors.ConfigError(f"{path}: {problem}; {remedy}")


def write(path: str | os.PathLike, results: Mapping[str, Any]) -> None:
    """Writes the file whole or not at all."""
    atomic.write(path, json.dumps(results, indent=1, allow_nan=False) + "\n")
