# SPDX-License-Identifier: Apache-2.0
r"""Trains reward models of few and of many pairs, and policies against them.

    python -m experiments.overoptimisation.run --sft=runs/sft \
        --out=runs/overoptimisation

What is finished is not done again. The last lines are the table and whether what was
expected holds; `figure.svg` is written beside the runs.
"""

import argparse
import json
import pathlib
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from alignjax.evals import differences
from alignjax.report import drawing

PAIRS = {"few": 200, "many": 8000}
# How many reward models a policy learns from, and how they are combined.
ARMS = {
    "few": ("few", 1, "mean"),
    "few, mean of 3": ("few", 3, "mean"),
    "few, lowest of 3": ("few", 3, "lowest"),
    "many": ("many", 1, "mean"),
}
COLORS = dict(
    zip(
        ARMS, (drawing.ORANGE, drawing.YELLOW, drawing.GREEN, drawing.BLUE), strict=True
    )
)
# Of a policy's evaluations: the rollouts before, KL in nats a response, both rewards.
Curve = Mapping[str, np.ndarray]
COLUMNS = {
    "kl": "eval/kl/reference",
    "proxy": "eval/reward/proxy",
    "gold": "eval/reward/gold",
}


def commands(options: argparse.Namespace) -> Iterator[tuple[str, list[str]]]:
    """Names of runs and what trains them: reward models, then policies."""
    train = [sys.executable, "-m", "alignjax.train"]
    start = f"--config.init.run={options.sft}"
    for size, pairs in PAIRS.items():
        for seed in range(max(3, options.seeds)):
            yield (
                f"{size}_{seed}",
                [
                    *(*train, "--config=configs/reward/world.py", start),
                    f"--config.seed={seed}",
                    f"--config.data.sources.world.documents={pairs}",
                    *options.reward_model,
                ],
            )
    for seed in range(options.seeds):
        for arm, (size, count, how) in ARMS.items():
            models = [
                str(options.out / f"{size}_{(seed + i) % max(3, options.seeds)}")
                for i in range(count)
            ]
            config = f"experiments/overoptimisation/config.py:{','.join(models)},{how}"
            more = [f"--config.seed={seed}", *options.policy]
            yield workdir(arm, seed), [*train, f"--config={config}", start, *more]


def workdir(arm: str, seed: int) -> str:
    """The name of a policy's folder."""
    return f"policy_{arm.replace(', ', '_').replace(' ', '_')}_{seed}"


def curve(folder: pathlib.Path) -> Curve:
    """The evaluations of a policy, in their order."""
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    figures = [x for x in map(json.loads, lines) if COLUMNS["gold"] in x]
    return {
        name: np.array([x[column] for x in figures]) for name, column in COLUMNS.items()
    }


def table(curves: Mapping[str, Sequence[Curve]]) -> Iterator[str]:
    """Of each arm the true reward at its peak and at the end, and the proxy's gain."""
    yield (
        "| learned from | runs | true reward at its peak | KL there | at the end "
        "| KL there | gain of the learned reward |"
    )
    yield "|---|---:|---|---|---|---|---|"
    for arm, own in curves.items():
        peaks = [int(c["gold"].argmax()) for c in own]
        at = lambda name, peaks=peaks, own=own: [
            c[name][i] for c, i in zip(own, peaks, strict=True)
        ]
        ends = lambda name, own=own: [c[name][-1] for c in own]
        gains = [c["proxy"][-1] - c["proxy"][0] for c in own]
        cells = (at("gold"), at("kl"), ends("gold"), ends("kl"), gains)
        texts = map(differences.mean_in_words, cells)
        yield f"| {arm} | {len(own)} | {' | '.join(texts)} |"


def verdicts(curves: Mapping[str, Sequence[Curve]]) -> Iterator[str]:
    """What was expected, each with the differences over runs, whatever their sign."""
    falls = [c["gold"].max() - c["gold"][-1] for c in curves["few"]]
    fall = differences.mean_in_words(falls)
    yield f"few: the true reward falls from its peak by {fall}"
    tops = {arm: [c["gold"].max() for c in own] for arm, own in curves.items()}
    last = {arm: [c["gold"][-1] for c in own] for arm, own in curves.items()}
    for what, values, arm in (
        ("peak", tops, "many"),
        ("end", last, "few, mean of 3"),
        ("end", last, "few, lowest of 3"),
    ):
        gaps = np.subtract(values[arm], values["few"])
        yield f"{arm} above few at the {what}: {differences.mean_in_words(gaps)}"


def figure(curves: Mapping[str, Sequence[Curve]]) -> str:
    """Both rewards by the root of KL, a line a run, as SVG."""
    titles = {"proxy": "learned reward, deviations", "gold": "true reward"}
    with drawing.canvas("overoptimisation", 1, 2, height=2.6) as (drawn, *axes):
        for axis, (name, title) in zip(axes, titles.items(), strict=True):
            for arm, own in curves.items():
                for i, c in enumerate(own):
                    label = arm if i == 0 else None
                    roots = np.sqrt(np.maximum(c["kl"], 0))
                    axis.plot(roots, c[name], color=COLORS[arm], label=label)
            axis.set_xlabel("root of KL, nats a response")
            axis.set_ylabel(title)
        axes[1].legend()
        return drawn.finish("Over-optimisation", "", []).svg


def parser() -> argparse.ArgumentParser:
    """The options of this command."""
    kind = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=kind)
    add = parser.add_argument
    add("--sft", required=True, help="the fine-tuned run that all start from")
    add("--out", type=pathlib.Path, required=True, help="a folder for runs and tables")
    add("--seeds", type=int, default=5, help="policies of each arm (%(default)s)")
    add("--reward_model", action="append", default=[], help="a flag for their training")
    add("--policy", action="append", default=[], help="a flag for theirs")
    return parser


def main(arguments: Sequence[str] | None = None) -> None:
    """Trains what is not trained yet, and prints the table."""
    options = parser().parse_args(arguments)
    for name, command in commands(options):
        print(f"{name} ...", file=sys.stderr, flush=True)
        subprocess.run([*command, f"--workdir={options.out / name}"], check=True)
    curves = {
        arm: [curve(options.out / workdir(arm, i)) for i in range(options.seeds)]
        for arm in ARMS
    }
    print("\n".join(table(curves)), *verdicts(curves), sep="\n")
    (options.out / "figure.svg").write_text(figure(curves))


if __name__ == "__main__":
    main()
