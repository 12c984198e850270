# SPDX-License-Identifier: Apache-2.0
"""What there is to tell of: folders of stages, and what was measured of models."""

from __future__ import annotations

import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from alignjax import errors
from alignjax.report import drawing
from alignjax.tracking import journal

# The stages of a whole story, in their order, and what each is for.
KINDS = {
    "pretraining": "learns the language and the facts",
    "sft": "learns to answer, from demonstrations",
    "reward": "learns what people prefer",
    "preference": "learns to answer as people prefer",
}
_OBJECTIVES = {"reward_model": "reward", "preference": "preference"}


class Stage(NamedTuple):
    """One run of the story.

    Attributes:
      name: what it is called.
      kind: a key of `KINDS`.
      rows: of its metrics.jsonl.
      settings: its config.
    """

    name: str
    kind: str
    rows: list[dict[str, Any]]
    settings: Mapping[str, Any]

    def series(self, metric: str) -> tuple[list[int], list[float]]:
        """Steps, from 1, and values of a metric, where there are any."""
        found = [(r["step"] + 1, r[metric]) for r in self.rows if metric in r]
        return [step for step, _ in found], [value for _, value in found]


class Story(NamedTuple):
    """Everything that the report is made of.

    Attributes:
      stages: in the order in which they ran.
      results: the file of `python -m alignjax.world.assessment`, or None.
    """

    stages: list[Stage]
    results: Mapping[str, Any] | None

    @property
    def models(self) -> dict[str, Any]:
        """Figures of the models that talk, by name, in order."""
        return dict(self.results["models"]) if self.results else {}

    @property
    def rewards(self) -> dict[str, Any]:
        """Figures of the reward models, by name."""
        return dict(self.results["rewards"]) if self.results else {}

    @property
    def missing(self) -> list[str]:
        """What a whole story has and this one has not, a sentence each."""
        kinds = {stage.kind for stage in self.stages}
        measured = {model["stage"] for model in self.models.values()}
        measured |= {"reward" for _ in self.rewards}
        gaps = []
        for kind, what in KINDS.items():
            lacks = [
                *(["its folder was not given (--stage)"] * (kind not in kinds)),
                *(["its model was not assessed"] * (kind not in measured)),
            ]
            if lacks:
                gaps.append(f"{kind}, which {what}: {' and '.join(lacks)}")
        return gaps

    @property
    def path(self) -> list[str]:
        """Models from the first to the last stage; of several at the end, the first.

        That is the line along which figures by stage are drawn.
        """
        seen, names = set(), []
        for name, model in self.models.items():
            if model["stage"] not in seen or model["stage"] != "preference":
                names.append(name)
            seen.add(model["stage"])
        return names

    def color(self, name: str) -> str:
        """The colour of a model: that of its stage, or one of its own."""
        models = {**self.models, **self.rewards}
        kind = models[name]["stage"]
        same = [other for other in models if models[other]["stage"] == kind]
        place = same.index(name)
        if place == 0:
            return drawing.COLORS[kind]
        return drawing.FURTHER[(place - 1) % len(drawing.FURTHER)]

    def change(self, name: str) -> Mapping[str, Any] | None:
        """What was measured to have changed up to this model."""
        changes = self.results["changes"] if self.results else []
        return next((c for c in changes if c["to"] == name), None)

    @property
    def steps(self) -> list[tuple[str, Mapping[str, Any], Mapping[str, Any]]]:
        """Along `path`, with what each model started from: name, change, model before.

        A model that nothing was compared with is left out.
        """
        found = [(name, self.change(name)) for name in self.path]
        return [
            (name, change, self.models[change["from"]])
            for name, change in found
            if change is not None and change["from"] in self.models
        ]

    @property
    def order(self) -> list[str]:
        """Names of all that was assessed, as the stages ran, others at the end."""
        measured = [*self.models, *self.rewards]
        given = [stage.name for stage in self.stages if stage.name in measured]
        return given + [name for name in measured if name not in given]


def load(folders: Sequence[tuple[str, str]], results: Mapping | None) -> Story:
    """The story of runs, `(name, workdir)` each.

    Raises:
      ConfigError: a folder that is no run's.
    """
    return Story([load_stage(name, folder) for name, folder in folders], results)


def load_stage(name: str, folder: str) -> Stage:
    """One run's metrics and config.

    Raises:
      ConfigError: it is no run's folder, or its metrics cannot be read.
    """
    path = pathlib.Path(folder).expanduser()
    try:
        settings = json.loads((path / "config.json").read_text(encoding="utf-8"))
        metrics = path / "metrics.jsonl"
        rows = list(journal.read(metrics)) if metrics.is_file() else []
    except (OSError, ValueError) as error:
        raise errors.ConfigError(f"stage {name}: {error}") from error
    objective = settings.get("objective", {}).get("name", "")
    data = settings.get("data", {})
    replies = data.get("chat") and data.get("train_on") != "everything"
    talks = "sft" if replies else "pretraining"
    return Stage(name, _OBJECTIVES.get(objective, talks), rows, settings)
