# SPDX-License-Identifier: Apache-2.0
"""A sweep that nobody trained: a plan, workdirs, made-up answers and known numbers."""

import json

import numpy as np

from alignjax.ablation import claim, measure, running, states, sweep_file
from alignjax.checkpoint import step_folders
from alignjax.evals import rows

PROMPTS, STEPS = 24, 20
SUITE = "41" * 32
LOSSES = ("dpo", "ipo", "kto")


def plan(arms=LOSSES, seeds=3, prompts=4, **fields) -> sweep_file.Plan:
    """Runs of some losses; `fields` are of the claim."""
    runs = [
        sweep_file.PlannedRun(
            folder=f"{arm}_{seed}-{seed:08x}",
            arm=arm,
            seed=seed,
            flags=(("objective.loss", arm), ("seed", str(seed))),
            section={"steps": STEPS, "checkpoint": {"every": 10}},
            digest=f"{arm} {seed}",
        )
        for seed in range(seeds)
        for arm in arms
    ]
    settings = {arm: {"objective.loss": arm} for arm in arms}
    stated = claim.Claim(**fields) if fields else None
    arms_of_file = tuple(settings.values())
    sweep = sweep_file.Sweep(arms=arms_of_file, prompts=prompts, claim=stated)
    return sweep_file.Plan(
        sweep, "c.py", runs, list(arms), settings, ("sft", 0), "shared", []
    )


def answers(name, loss, seed, gap, step, reach=1.0) -> list[rows.Answer]:
    hard = np.random.default_rng(5).normal(1, 1, PROMPTS)
    rng = np.random.default_rng([*name.encode(), step])
    gold = hard + gap * step / STEPS + rng.normal(0, 0.02)
    gold += rng.normal(0, 0.1, PROMPTS)
    return [
        rows.Answer(
            run=name,
            digest=f"{name} {step}",
            step=step,
            loss=loss,
            seed=seed,
            suite="town",
            suite_digest=SUITE,
            slice=f"eval_{'ab'[i % 2]}",
            prompt=i,
            cluster=f"act/{i}",
            decoding=rows.Decoding(1.0, None, 64, i),
            text="<script>alert(1)</script>",
            tokens=5 + seed if seed else 5,
            finished=True,
            gold=float(gold[i]),
            tag="right",
            kl=reach * step / STEPS * (1 + i / 100),
            entropy=2.0,
            reference="start 0",
        )
        for i in range(PROMPTS)
    ]


def write(folder, made: sweep_file.Plan, gaps, *, diverged=()) -> None:
    """The folder of a sweep whose runs have ended, or diverged.

    Args:
      gaps: by arm, how much better it is than where it began.
      diverged: folders of runs.
    """
    start = answers("start", None, None, 0.0, 0, reach=0.0)
    rows.write(folder / running.START / measure.FILE, start)
    for run in made.runs:
        workdir = folder / run.folder
        states.append(folder, run.folder, "queued", arm=run.arm, seed=run.seed)
        states.append(folder, run.folder, "running")
        lost = run.folder in diverged
        (workdir / "checkpoints").mkdir(parents=True)
        records = []
        for step in range(5 if lost else STEPS):
            record = {"step": step, "loss": 0.7 - step / 50, "tokens": 100 * (step + 1)}
            count = {"kto": "responses"}.get(run.arm, "pairs")
            record[count] = (8 if count == "responses" else 4) * (step + 1)
            record |= {"drift/chosen": -step / 10, "drift/rejected": -step / 5}
            records.append(record)
        if not lost:
            records[-1] |= {"eval/loss": 0.5, "eval/rewards/accuracies": 0.7}
            records[-1] |= {"eval/drift/chosen": -1.0 - run.seed / 10}
            for step in (10, STEPS):
                marker = workdir / "checkpoints" / str(step) / step_folders.MARKER
                marker.parent.mkdir()
                marker.touch()
            name = f"{run.arm}_{run.seed}"
            answered = [
                row
                for step in (10, STEPS)
                for row in answers(name, run.arm, run.seed, gaps[run.arm], step)
            ]
            rows.write(workdir / measure.FILE, answered)
        lines = "".join(f"{json.dumps(record)}\n" for record in records)
        (workdir / "metrics.jsonl").write_text(lines)
        ended = {"state": "failed", "code": 77, "error": "step 5: not finite; lower it"}
        ended = ended if lost else {"state": "done", "code": 0}
        more = {"seconds": 10.0, "cpu_seconds": 8.0, "host_bytes": 2**30}
        states.append(folder, run.folder, **ended, **more)
