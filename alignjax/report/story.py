# SPDX-License-Identifier: Apache-2.0
"""The data of a report: the runs of the stages, and the figures of their models."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from alignjax import analysis, errors
from alignjax.checkpoint import step_folders
from alignjax.report import drawing
from alignjax.storage import filenames
from alignjax.tracking import journal
from alignjax.world.assessment import prose, results

# The stages of a whole story, in their order, and the purpose of each.
KINDS = {
    "pretraining": "learns the language and the facts",
    "sft": "learns to answer, from demonstrations",
    "reward": "learns what people prefer",
    "preference": "learns to answer as people prefer",
}


class Missing(Exception):
    """There is no such figure of this story, for the reason that is its text."""


class Stage(NamedTuple):
    """One run of the story.

    Attributes:
      name: of the run.
      kind: a key of `KINDS`.
      rows: of its metrics.jsonl.
      config: its config.json.
      versions: of what saved its newest checkpoint.
    """

    name: str
    kind: str
    rows: list[dict[str, Any]]
    config: Mapping[str, Any] = {}
    versions: Mapping[str, str] = {}

    def field(self, section: str, name: str) -> Any:
        """A field of a section of its config, or None."""
        fields = self.config.get(section)
        return fields.get(name) if isinstance(fields, dict) else None

    def series(self, metric: str) -> tuple[list[int], list[float]]:
        """Steps, from 1, and values of a metric, of the rows that have it."""
        points = [(r["step"] + 1, r[metric]) for r in self.rows if metric in r]
        return [step for step, _ in points], [value for _, value in points]


class Story(NamedTuple):
    """Everything that the report is made of.

    Attributes:
      stages: in the order in which they ran.
      results: the file of `alignjax assess`; without one, results of no model.
    """

    stages: list[Stage]
    results: Mapping[str, Any] = {"models": {}, "changes": [], "rewards": {}}

    @property
    def models(self) -> Mapping[str, Any]:
        """Figures of the language models, by name, in order."""
        return self.results["models"]

    @property
    def gaps(self) -> list[str]:
        """The stages of a whole story that are not in this one, a sentence each."""
        trained = {stage.kind for stage in self.stages}
        measured = {model["stage"] for model in self.models.values()}
        measured |= {"reward" for _ in self.results["rewards"]}
        gaps = []
        for kind, purpose in KINDS.items():
            reasons = []
            if kind not in trained:
                reasons.append("its folder was not given (--stage)")
            if kind not in measured:
                reasons.append("its model was not assessed")
            if reasons:
                gaps.append(f"{kind}, which {purpose}: {' and '.join(reasons)}")
        return gaps

    @property
    def reward_model(self) -> tuple[str, Mapping[str, Any]]:
        """Name and figures of the first reward model; raises `Missing` without one."""
        for name, model in self.results["rewards"].items():
            return name, model
        raise Missing("no reward model was assessed")

    @property
    def path(self) -> list[str]:
        """Models from the first to the last stage; of several preference models one.

        Figures by stage are drawn along this line. Raises `Missing` without a model.
        """
        stages, names = set(), []
        for name, model in self.models.items():
            if model["stage"] not in stages or model["stage"] != "preference":
                names.append(name)
            stages.add(model["stage"])
        if not names:
            raise Missing("no language model was assessed")
        return names

    def sampled(self, group: str) -> dict[str, Mapping[str, Any]]:
        """A group of figures of sampled responses, by model along `path`."""
        return {name: self.models[name]["sampled"][group] for name in self.path}

    def color(self, name: str) -> str:
        """The colour of a model: that of its stage, or one of its own."""
        kind = self.models[name]["stage"]
        same = [other for other, m in self.models.items() if m["stage"] == kind]
        own = drawing.FURTHER[(same.index(name) - 1) % len(drawing.FURTHER)]
        return drawing.COLORS[kind] if name == same[0] else own

    @property
    def steps(self) -> list[tuple[str, Mapping, Mapping, Mapping]]:
        """Name, change and figures of the model before and after it, along `path`.

        A model without a change from the one that it started from is left out.
        """
        models, path = self.models, self.path
        return [
            (change["to"], change, models[change["from"]], models[change["to"]])
            for change in self.results["changes"]
            if change["to"] in path and change["from"] in models
            if prose.descends(self.results, change)
        ]

    def reference(self, name: str) -> Mapping[str, Any] | None:
        """The assessed model that a model's divergence is from, if there is one."""
        digest = self.models[name]["kl"].get("digest")
        same = (m for m in self.models.values() if digest and m.get("digest") == digest)
        return next(same, None)

    @property
    def order(self) -> list[str]:
        """Names of all assessed models, as the stages ran, others at the end."""
        measured = [*self.models, *self.results["rewards"]]
        ran = [stage.name for stage in self.stages if stage.name in measured]
        return list(dict.fromkeys(ran + measured))


def load(folders: Sequence[tuple[str, str]], figures: Mapping | None) -> Story:
    """The story of runs, `(name, workdir)` each, and of the results of `assess`.

    Raises:
      ConfigError: a folder that is not a run's, or metrics that cannot be read.
    """
    stages = []
    for name, folder in folders:
        path = filenames.expanded(folder)
        if name in [stage.name for stage in stages]:
            raise errors.ConfigError(f"stage {name}: given twice; name each once")
        try:
            config = step_folders.read_config(path)
            metrics = path / "metrics.jsonl"
            rows = list(journal.read(metrics)) if metrics.is_file() else []
        except (OSError, ValueError) as error:
            raise errors.ConfigError(f"stage {name}: {error}") from error
        versions = {}
        with contextlib.suppress(errors.AlignError):  # without one it can be told of
            versions = analysis.open_run(path).meta().get("versions", {})
        stages.append(Stage(name, results.stage(config), rows, config, versions))
    return Story(stages) if figures is None else Story(stages, figures)
