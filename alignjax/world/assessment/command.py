# SPDX-License-Identifier: Apache-2.0
"""Assesses runs, one after the other, into the file of results."""

from __future__ import annotations

import dataclasses
import pathlib
import time
from collections.abc import Sequence
from typing import Any

from alignjax import errors, world
from alignjax.tracking import progress
from alignjax.world.assessment import (
    benchmarks,
    language_model,
    prose,
    response_set,
    results,
    reward_model,
    run_models,
    summary,
)

# The world of runs whose data have none.
_PRESET, _SEED = "small", 0


def run(
    runs: Sequence[Any],
    out: pathlib.Path,
    settings: benchmarks.Settings,
    *,
    checkpoints: Sequence[str] = (),
    anew: bool = False,
    terminal: progress.Terminal,
) -> dict[str, Any]:
    """Assesses every run that the file does not have, and writes it after each.

    Args:
      runs: `name`, `path` and `step` (or None) of each, in the order of the stages.
      out: the file.
      settings: of the benchmark; a file of other settings starts again.
      checkpoints: names of runs to measure at every checkpoint as well.
      anew: whether to start the file again.
      terminal: for progress and the lines of each run.

    Raises:
      ConfigError: names that occur twice, or runs of different worlds.
      CheckpointError: a run that cannot be read.
    """
    names = [entry.name for entry in runs]
    if len(set(names)) != len(names):
        raise errors.ConfigError(f"run: a name is given twice in {names}")
    if unknown := set(checkpoints) - set(names):
        raise errors.ConfigError(f"checkpoints: {unknown} is not among the runs")
    models = [run_models.open_model(e.name, e.path, e.step) for e in runs]
    for model in models:
        if model.name in checkpoints and model.stage == "reward":
            raise errors.ConfigError(
                f"checkpoints: {model.name} is a reward model; name runs of "
                "pretraining, fine-tuning or preferences"
            )
    preset, seed = _world(models)
    benchmark = benchmarks.Benchmark(world.build(preset, seed), settings)
    figures = results.empty(preset, seed, settings)
    if out.exists() and not anew:
        old = results.read(out)
        if results.same_benchmark(old, figures):
            figures = old
        else:
            terminal.say(f"{out} has another world or other settings; starting again")
    figures["prompts"] = list(map(_prompt_json, benchmark.questions))
    new = []
    for model in models:
        if not _is_current(figures, model):
            new.append(model.name)
            start = time.monotonic()
            _add(figures, model, benchmark, terminal)
            seconds = time.monotonic() - start
            terminal.say(f"{model.name}: assessed in {seconds:.0f} s")
        if (
            model.name in checkpoints
            and "trajectory" not in figures["models"][model.name]
        ):
            half = dataclasses.replace(settings, each=max(1, settings.each // 2))
            figures["models"][model.name]["trajectory"] = language_model.trajectory(
                model,
                dataclasses.replace(benchmark, settings=half),
                _reference(model, models),
                progress=_show(terminal),
            )
        results.write(out, figures)
        if model.name in new:
            _print(figures, model.name, terminal)
    if not new:  # then somebody wants to read about all of them
        for model in models:
            _print(figures, model.name, terminal)
    terminal.close()
    return figures


def _prompt_json(question: benchmarks.Question) -> dict[str, Any]:
    prompt = question.prompt
    return {
        "slice": question.slice,
        "text": prompt.text,
        "best": prompt.best,
        "novelty": prompt.novelty,
    }


def _print(figures, name: str, terminal) -> None:
    for line in prose.lines(figures, name):
        terminal.say(line)


def _show(terminal):
    return lambda line: terminal.show(lambda width: line[:width])


def _add(figures, model, benchmark: benchmarks.Benchmark, terminal) -> None:
    """Adds a run's figures, and the changes from the model that it started from."""
    options = dict(progress=_show(terminal))
    if model.stage == "reward":
        labeler = model.world.get("labeler") or "clean"
        figures["rewards"][model.name] = {
            **model.description,
            "labeler": labeler,
            **reward_model.assess(model, benchmark, labeler, **options),
        }
        return
    reference = _reference(model, ())
    figures["models"][model.name] = {
        **model.description,
        **language_model.assess(model, benchmark, reference, **options),
    }
    figures["changes"] = changes(figures["models"], benchmark)


def changes(models, benchmark: benchmarks.Benchmark) -> list[dict[str, Any]]:
    """Changes to each model from the one it started from, or else the one before it."""
    responses = {
        name: [
            response_set.from_json(question.prompt, fields, benchmark.score)
            for question, fields in zip(
                benchmark.questions, model["sampled"]["answers"], strict=True
            )
        ]
        for name, model in models.items()
    }
    seed = benchmark.settings.seed
    return [
        {
            "from": before,
            "to": after,
            **summary.change(
                *(benchmark.questions, responses[before], responses[after]), seed=seed
            ),
        }
        for before, after in zip(_parents(models), list(models)[1:], strict=True)
    ]


def _parents(models) -> list[str]:
    """For every model but the first: the one whose parameters it started from."""
    names, parents = list(models), []
    for i, name in enumerate(names[1:]):
        origin = models[name].get("started_from")
        same = [other for other in names[: i + 1] if models[other]["path"] == origin]
        parents.append(same[-1] if same else names[i])
    return parents


def _is_current(figures, model: run_models.RunModel) -> bool:
    """Whether the file has figures of these very parameters."""
    old = figures["models"].get(model.name) or figures["rewards"].get(model.name)
    new = model.description
    return old is not None and all(old[f] == new[f] for f in ("path", "step", "digest"))


def _reference(model, models) -> run_models.RunModel | None:
    """The model that a run's objective compares with, if it has the same format."""
    if model.reference is None:
        return None
    path, step = model.reference
    name = next(
        (m.name for m in models if m.run.path == pathlib.Path(path).absolute()),
        pathlib.Path(path).name,
    )
    reference = run_models.open_model(name, path, step)
    return reference if reference.format.name == model.format.name else None


def _world(models) -> tuple[str, int]:
    """The preset and seed of the world that all runs were trained on."""
    worlds = {
        (model.world.get("preset", _PRESET), model.world.get("seed", _SEED))
        for model in models
        if model.world
    }
    if len(worlds) > 1:
        raise errors.ConfigError(f"run: the runs are of different worlds: {worlds}")
    return worlds.pop() if worlds else (_PRESET, _SEED)
