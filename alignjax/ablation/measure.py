# SPDX-License-Identifier: Apache-2.0
"""Answers of a run's checkpoints to the world's prompts, as rows beside the run."""

from __future__ import annotations

import pathlib
from collections.abc import Mapping, Sequence

import numpy as np

from alignjax import errors, world
from alignjax.analysis import scoring
from alignjax.checkpoint import step_folders
from alignjax.evals import likelihood, rows, suites
from alignjax.world.assessment import answers, benchmarks, run_models

FILE, LOG = "rows.jsonl", "sweep.log"
TEMPERATURE = 1.0


def steps_of(section: Mapping, workdir: pathlib.Path, count: int) -> list[int]:
    """Up to `count` checkpoints of a run that has ended, equally far apart.

    Those that every run of its config has: a run that was interrupted has more.
    """
    every, last = section["checkpoint"]["every"], section["steps"]
    steps = [
        step
        for step in step_folders.complete_steps(workdir / "checkpoints")
        if step % every == 0 or step == last
    ]
    if not steps:
        return []
    places = np.linspace(0, len(steps), min(count, len(steps)) + 1)[1:].astype(int) - 1
    return [steps[place] for place in places]


def is_measured(path: pathlib.Path, steps: Sequence[int], suite: str) -> bool:
    """Whether a file has answers to these prompts at exactly these steps."""
    try:
        answered = {(row.step, row.suite_digest) for row in rows.read(path)}
    except errors.DataError:
        return False
    return answered == {(step, suite) for step in steps}


def measure(
    name: str,
    path: pathlib.Path,
    steps: Sequence[int | None],
    benchmark: benchmarks.Benchmark,
    reference: run_models.RunModel | None,
    out: pathlib.Path,
) -> None:
    """Writes the rows of a run's checkpoints, and the prompts to a folder above.

    Args:
      name: of the run, in the rows.
      path: of the run.
      reference: the model that divergences are from.

    Raises:
      ConfigError: the model cannot read the prompts.
      CheckpointError: a step that cannot be read.
    """
    prompts = [question.prompt for question in benchmark.questions]
    length = benchmark.settings.length
    answered = []
    for step in steps:
        model = run_models.open_model(name, str(path), step)
        model.check_responds("arms")
        texts = [model.format.prompt(prompt.turns) for prompt in prompts]
        run_models.check_reads(model, texts, "prompts", length)
        responses = run_models.sample(
            model,
            prompts,
            temperature=TEMPERATURE,
            seed=benchmark.settings.seed,
            length=length,
            score=world.gold_reward,
        )
        sums = likelihood.measure(
            model.run.model,
            model.params,
            [scoring.Row(r.prompt_ids, r.ids) for r in responses],
            reference and reference.params,
        )
        answered += answers.make(
            model, benchmark, responses, TEMPERATURE, sums, reference
        )
        print(f"{name}: {len(responses)} answers at step {model.step}", flush=True)
    rows.write(out, answered)
    suite = out.parent.parent / "suites" / f"{benchmark.digest[:16]}.jsonl"
    if not suite.exists():
        suites.write(suite, benchmark.suite)
