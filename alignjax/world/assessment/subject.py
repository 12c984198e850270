# SPDX-License-Identifier: Apache-2.0
"""A run as it is assessed: its parameters, its format, and what its config tells."""

from __future__ import annotations

import pathlib
from typing import Any, NamedTuple

import jax

from alignjax import analysis
from alignjax.world.assessment import formats

# What a run is, by the name of its objective; the rest are "pretraining" or "sft".
_STAGES = {"reward_model": "reward", "preference": "preference"}


class Subject(NamedTuple):
    """A run that was opened to be assessed.

    Attributes:
      name: what it is called.
      run: as `checkpoint.open_run` gives it.
      step: of its checkpoint.
      params: on the default device.
      format: how it reads dialogues.
    """

    name: str
    run: analysis.Run
    step: int
    params: Any
    format: formats.Format

    @property
    def stage(self) -> str:
        """ "pretraining", "sft", "reward" or "preference"."""
        objective = self.run.config.get("objective", {}).get("name", "")
        learned = self.run.config.get("data", {}).get("train_on")
        pretrains = self.format.name == "plain" or learned == "everything"
        return _STAGES.get(objective, "pretraining" if pretrains else "sft")

    @property
    def world(self) -> dict[str, Any]:
        """The section of the world in its data, {} where there is none."""
        sources = self.run.config.get("data", {}).get("sources") or {}
        found = [s for s in sources.values() if s and s.get("kind") == "world"]
        return found[0] if found else {}

    @property
    def compared_with(self) -> tuple[str, int | None] | None:
        """The run and step that a preference objective compares with, or None."""
        if self.stage != "preference":
            return None
        for section in ("reference", "init"):
            fields = self.run.config.get(section) or {}
            if fields.get("run"):
                return fields["run"], fields.get("step")
        return None

    @property
    def described(self) -> dict[str, Any]:
        """What the report says of it, as JSON data."""
        objective = self.run.config.get("objective", {})
        fields = ("loss", "beta")
        origin = (self.run.config.get("init") or {}).get("run")
        return {
            "path": str(self.run.path),
            "started_from": origin and str(pathlib.Path(origin).absolute()),
            "step": self.step,
            "digest": self.run.digest(self.step),
            "stage": self.stage,
            "reads": self.format.name,
            **{k: objective[k] for k in fields if objective.get(k) is not None},
        }


def open_subject(name: str, path: str, step: int | None = None) -> Subject:
    """The run at `path` as of `step`, by default of its newest.

    Raises:
      CheckpointError: there is no such run or step.
      ConfigError, ValueError: its model or tokenizer cannot be used here.
    """
    run = analysis.open_run(path, step)
    step = run.meta()["step"] if step is None else step
    params = jax.device_put(run.params(step))
    return Subject(name, run, step, params, formats.of_run(run))
