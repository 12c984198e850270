# SPDX-License-Identifier: Apache-2.0
"""Runs one after the other into the file of results."""

from __future__ import annotations

import dataclasses
import pathlib
import time
from collections.abc import Sequence
from typing import Any

from alignjax import errors, world
from alignjax.tracking import progress
from alignjax.world.assessment import (
    amounts,
    answers,
    asked,
    narration,
    policy,
    results,
    rewards,
    subject,
    summary,
)

# The world that is asked about where no run says which.
_PRESET, _SEED = "small", 0


def run(
    runs: Sequence[Any],
    out: pathlib.Path,
    settings: amounts.Settings,
    *,
    checkpoints: Sequence[str] = (),
    anew: bool = False,
    terminal: progress.Terminal,
) -> dict[str, Any]:
    """Assesses every run that the file has not yet, and writes it after each.

    Args:
      runs: `name`, `path` and `step` (or None) of each, in the order of the stages.
      out: the file.
      settings: how much is asked; a file that was asked otherwise starts afresh.
      checkpoints: names of runs whose every checkpoint is measured as well.
      anew: whether to forget what is in the file.
      terminal: where to say how it is getting on.

    Raises:
      ConfigError: names that are given twice, or runs of different worlds.
      CheckpointError: a run that cannot be read.
    """
    names = [entry.name for entry in runs]
    if len(set(names)) != len(names):
        raise errors.ConfigError(f"run: a name is given twice in {names}")
    if unknown := set(checkpoints) - set(names):
        raise errors.ConfigError(f"checkpoints: {unknown} is not among the runs")
    opened = [subject.open_subject(e.name, e.path, e.step) for e in runs]
    for one in opened:
        if one.name in checkpoints and one.stage == "reward":
            raise errors.ConfigError(
                f"checkpoints: {one.name} is a reward model, and all checkpoints are "
                "measured of models that talk alone; leave it out"
            )
    preset, seed = _world(opened)
    town = world.build(preset, seed)
    found = results.empty(preset, seed, settings)
    if out.exists() and not anew:
        old = results.read(out)
        if results.fitting(old, found):
            found = old
        else:
            terminal.say(f"{out} was asked otherwise; starting it afresh")
    questions = asked.draw(town, settings.each, settings.kinds)
    found["prompts"] = [policy.question_as_json(question) for question in questions]
    asked_now = []
    for one in opened:
        kept = found["models"].get(one.name) or found["rewards"].get(one.name)
        if not _same(kept, one):
            asked_now.append(one.name)
            began = time.monotonic()
            _add(found, one, town, questions, settings, terminal)
            seconds = time.monotonic() - began
            terminal.say(f"{one.name}: assessed in {seconds:.0f} s")
        if one.name in checkpoints and "trajectory" not in found["models"][one.name]:
            half = dataclasses.replace(settings, each=max(1, settings.each // 2))
            reference = _reference(one, opened)
            show = lambda line: terminal.show(lambda width: line[:width])
            found["models"][one.name]["trajectory"] = policy.trajectory(
                one, town, half, reference, tell=show
            )
        results.write(out, found)
        if one.name in asked_now:
            _tell(found, one.name, terminal)
    if not asked_now:  # then all of them are what somebody wants to read
        for one in opened:
            _tell(found, one.name, terminal)
    terminal.close()
    return found


def _tell(found, name: str, terminal) -> None:
    for line in narration.tell(found, name):
        terminal.say(line)


def _add(found, one, town, questions, settings, terminal) -> None:
    """One run's figures, and what it changed from the model before."""
    show = lambda line: terminal.show(lambda width: line[:width])
    if one.stage == "reward":
        labeler = one.world.get("labeler") or "clean"
        figures = rewards.assess(one, town, settings, labeler, tell=show)
        found["rewards"][one.name] = one.described | {"labeler": labeler} | figures
        return
    figures = policy.assess(one, town, settings, _reference(one, ()), tell=show)
    found["models"][one.name] = one.described | figures
    found["changes"] = _changes(found["models"], questions, settings.seed)


def _changes(models, questions, seed: int) -> list[dict[str, Any]]:
    """From the model that each one started from, or else the one before it."""
    said = {
        name: [
            answers.from_json(question.prompt, fields)
            for question, fields in zip(
                questions, model["sampled"]["answers"], strict=True
            )
        ]
        for name, model in models.items()
    }
    pairs = zip(_parents(models), list(models)[1:], strict=True)
    return [
        {
            "from": before,
            "to": after,
            **summary.change(questions, said[before], said[after], seed=seed),
        }
        for before, after in pairs
    ]


def _parents(models) -> list[str]:
    """For every model but the first: whose parameters it started from."""
    names, parents = list(models), []
    for i, name in enumerate(names[1:]):
        origin = models[name].get("started_from")
        same = [other for other in names[: i + 1] if models[other]["path"] == origin]
        parents.append(same[-1] if same else names[i])
    return parents


def _same(kept: dict | None, one: subject.Subject) -> bool:
    """Whether what is kept is of these very parameters."""
    same = one.described
    fields = ("path", "step", "digest")
    return kept is not None and all(kept[f] == same[f] for f in fields)


def _reference(one, opened) -> subject.Subject | None:
    """The model that a run's objective compares with, if it reads the same way."""
    if one.compared_with is None:
        return None
    path, step = one.compared_with
    name = next(
        (o.name for o in opened if o.run.path == pathlib.Path(path).absolute()),
        pathlib.Path(path).name,
    )
    reference = subject.open_subject(name, path, step)
    return reference if reference.format.name == one.format.name else None


def _world(opened) -> tuple[str, int]:
    """The preset and seed of the world that all runs were trained on."""
    found = {
        (one.world.get("preset", _PRESET), one.world.get("seed", _SEED))
        for one in opened
        if one.world
    }
    if len(found) > 1:
        raise errors.ConfigError(f"run: the runs are of different worlds: {found}")
    return found.pop() if found else (_PRESET, _SEED)
