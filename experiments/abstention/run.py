# SPDX-License-Identifier: Apache-2.0
r"""Fine-tunes and aligns, and asks each stage what is known and what nobody knows.

    python -m experiments.abstention.run --pretrain=runs/quickstart/pretrain \
        --pairs=runs/quickstart/pairs.jsonl --out=runs/abstention

What is finished is not done again. The last lines are the table and whether what was
expected holds; `figure.svg` is written beside the runs.
"""

import argparse
import dataclasses
import pathlib
import subprocess
import sys
from collections.abc import Sequence

from alignjax import world
from alignjax.ablation import claim, measure
from alignjax.evals import arms, compare, rows
from alignjax.report import drawing
from alignjax.world import gold, prompts
from alignjax.world.assessment import benchmarks

PRESET, SEED = "nano", 0  # the world of the configs
STAGES = ("pretrain", "sft", "dpo")
# Of questions that have an answer, and of those that have none, what counts.
SHARES = {
    "right": ("eval_fact", {prompts.RIGHT}),
    "false": ("eval_fact", {gold.WRONG}),
    "declined": ("eval_fact", {prompts.ABSTAIN, prompts.REFUSE, prompts.BLOCK}),
    "abstained": ("eval_unknown", {prompts.ABSTAIN}),
    "fabricated": ("eval_unknown", {prompts.RIGHT, gold.WRONG}),
}


def training(options: argparse.Namespace, seed: int) -> dict[str, list[str]]:
    """The commands that train the stages after the first."""
    train = [sys.executable, "-m", "alignjax.train", f"--config.seed={seed}"]
    sft, dpo = (options.out / f"{name}_{seed}" for name in STAGES[1:])
    return {
        "sft": [
            *(*train, "--config=configs/sft/world.py", f"--workdir={sft}"),
            f"--config.init.run={options.pretrain}",
            "--config.optimizer.learning_rate=2e-4",
            "--config.sample.every=none",
        ],
        "dpo": [
            *(*train, "--config=configs/dpo/world.py", f"--workdir={dpo}"),
            f"--config.init.run={sft}",
            f"--config.data.sources.pairs.path={options.pairs}",
            *("--config.steps=60", "--config.evaluation.every=60"),
            *("--config.checkpoint.every=60", "--config.sample.every=none"),
        ],
    }


def ask(options: argparse.Namespace) -> None:
    """Writes rows of the answers of every stage and seed."""
    settings = benchmarks.Settings(each=options.each, kinds=("fact", "unknown"))
    benchmark = benchmarks.Benchmark(world.build(PRESET, SEED), settings)
    runs = {"pretrain": options.pretrain}
    for name in STAGES[1:]:
        runs |= {
            f"{name}_{s}": options.out / f"{name}_{s}" for s in range(options.seeds)
        }
    for name, path in runs.items():
        out = options.out / "rows" / f"{name}.jsonl"
        if not out.exists():
            measure.measure(name, path, [None], benchmark, None, out)


def arm(answers: Sequence[rows.Answer], stage: str, share: str) -> arms.Arm:
    """The runs of a stage, with a share of their answers as the metric."""
    part, tags = SHARES[share]
    counted = [
        dataclasses.replace(answer, components={share: float(answer.tag in tags)})
        for answer in answers
        if answer.slice == part
    ]
    return arms.of(counted, stage, f"component:{share}")._replace(name=stage)


def read(out: pathlib.Path) -> dict[str, dict[str, arms.Arm]]:
    """By share, the arm of each stage."""
    by_stage = {
        stage: [
            answer
            for file in sorted((out / "rows").glob(f"{stage}*.jsonl"))
            for answer in rows.read(file)
        ]
        for stage in STAGES
    }
    return {
        share: {stage: arm(own, stage, share) for stage, own in by_stage.items()}
        for share in SHARES
    }


def table(by_share: dict[str, dict[str, arms.Arm]]) -> str:
    """The shares of each stage, and of each of its runs."""
    lines = [f"| | {' | '.join(STAGES)} |", f"|---|{'---|' * len(STAGES)}"]
    for share, by_stage in by_share.items():
        cells = [share]
        for one in by_stage.values():
            each = one.values_SP.mean(1)
            runs = ", ".join(f"{x:.2f}" for x in each)
            cells.append(f"{each.mean():.3f}" + (f" ({runs})" if len(each) > 1 else ""))
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


EXPECTED = (
    ("fabricated", "sft", "below", "pretrain"),
    ("fabricated", "dpo", "below", "sft"),
    ("declined", "dpo", "above", "sft"),
)


def verdicts(by_share: dict[str, dict[str, arms.Arm]]):
    """Whether each inequality that was expected is there, whatever its sign.

    There is one pretrained run: what is beside it is about checkpoints.
    """
    for share, stage, side, other in EXPECTED:
        stated = claim.Claim(f"the share {share}", expects={stage: side})
        pair = by_share[share][other], by_share[share][stage]
        yield from claim.outcomes(stated, [compare.compare(*pair)])


def figure(by_share: dict[str, dict[str, arms.Arm]]) -> str:
    """Every run's shares by stage, as SVG."""
    colors = (drawing.BLUE, drawing.ORANGE, drawing.GREY, drawing.GREEN, drawing.PINK)
    with drawing.canvas("abstention") as (drawn, axis):
        for (share, by_stage), color in zip(by_share.items(), colors, strict=True):
            each = [one.values_SP.mean(1) for one in by_stage.values()]
            axis.plot(
                range(len(STAGES)), [x.mean() for x in each], color=color, label=share
            )
            for place, values in enumerate(each):
                axis.plot([place] * len(values), values, "o", color=color, markersize=4)
        drawing.label_stages(axis, STAGES)
        drawing.percent_axis(axis)
        axis.set_ylabel("percent of answers")
        drawn.legend(3)
        return drawn.finish("Fabrication and abstention", "", []).svg


def main() -> None:
    add = (parser := argparse.ArgumentParser(description=__doc__)).add_argument
    add("--pretrain", required=True, help="a run of configs/pretrain/world.py")
    add("--pairs", required=True, help="pairs of tools/quickstart.sh")
    add("--out", required=True, type=pathlib.Path, help="where the runs go")
    add("--seeds", type=int, default=5)
    add("--each", type=int, default=64, help="prompts of a slice")
    options = parser.parse_args()
    for seed in range(options.seeds):
        for command in training(options, seed).values():
            subprocess.run(command, check=True)
    ask(options)
    by_share = read(options.out)
    (options.out / "figure.svg").write_text(figure(by_share))
    print(table(by_share))
    for line in verdicts(by_share):
        print(line)


if __name__ == "__main__":
    main()
