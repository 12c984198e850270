# SPDX-License-Identifier: Apache-2.0
r"""Trains reward models from few and from many pairs, and chooses by them, best of n.

    python -m experiments.best_of_n.run --sft=runs/sft --out=runs/best_of_n

What is finished is not done again. The last lines are the table and whether the shape
that was expected is there; `figure.svg` is written beside the runs.
"""

import argparse
import pathlib
import subprocess
import sys
from collections.abc import Sequence

from alignjax import world
from alignjax.evals import best_of_n, by_prompt, rows, suites
from alignjax.report import drawing
from alignjax.world.assessment import benchmarks

CONFIG = "configs/reward/world.py"
PRESET, SEED = "nano", 0  # the world of that config
PAIRS = {"few": 200, "many": 8000}
TURN = 8  # the n from which the true reward was expected to fall, for few pairs


def training(sft, out: pathlib.Path, name: str, seed: int, more=()) -> list[str]:
    """The command that trains a reward model; both sizes take as many steps."""
    source = "--config.data.sources.world"
    return [
        *(sys.executable, "-m", "alignjax.train", f"--config={CONFIG}"),
        *(f"--workdir={out / f'{name}_{seed}'}", f"--config.init.run={sft}"),
        *(f"--config.seed={seed}", f"{source}.documents={PAIRS[name]}", *more),
    ]


def evaluating(sft, out: pathlib.Path, names: Sequence[str], samples: int):
    """The command that samples and scores the answers."""
    return [
        *(sys.executable, "-m", "alignjax", "evaluate", f"sft={sft}"),
        *(f"--out={out / 'evaluation'}", f"--data=town={out / 'town.jsonl'}"),
        *(f"--samples={samples}", "--max_tokens=48"),
        *(f"--reward={name}={out / name}" for name in names),
    ]


def curves(answers: Sequence[rows.Answer], chooser: str) -> dict[str, dict]:
    """By n, values by prompt of the reward that chooses and of the true one."""
    by: dict[int, list[rows.Answer]] = {}
    for answer in answers:
        if f"reward.{chooser}" in answer.components:  # an empty answer has none
            by.setdefault(answer.prompt, []).append(answer)
    count = min(map(len, by.values()))
    sizes = [2**k for k in range(count.bit_length()) if 2**k <= count]
    out: dict[str, dict] = {"reward": {}, "gold": {}}
    for n in sizes:
        for name in out:
            totals = {}
            for prompt, own in by.items():
                scores = [a.components[f"reward.{chooser}"] for a in own]
                values = scores if name == "reward" else [a.gold for a in own]
                totals[prompt] = best_of_n.expected(scores, values, n)
            out[name][n] = by_prompt.Values(totals)
    return out


def table(by_model: dict[str, dict]) -> str:
    """Rewards by n, each less that of n = 1 with its interval over prompts."""
    sizes = list(next(iter(by_model.values()))["gold"])
    lines = [f"| chosen by | | {' | '.join(f'n = {n}' for n in sizes)} |"]
    lines.append(f"|---|---|{'---|' * len(sizes)}")
    for model, out in by_model.items():
        for name, title in (("reward", "its own reward"), ("gold", "true reward")):
            cells = [f"{by_prompt.interval(out[name][1])['mean']:.2f}"]
            cells += [shown(out[name][1], out[name][n]) for n in sizes[1:]]
            lines.append(f"| {model} | {title} | {' | '.join(cells)} |")
    return "\n".join(lines)


def shown(before: by_prompt.Values, after: by_prompt.Values) -> str:
    """A difference with its interval."""
    gain = by_prompt.difference(before, after)
    return f"{gain['mean']:+.2f} ({gain['low']:+.2f} to {gain['high']:+.2f})"


def verdicts(by_model: dict[str, dict]):
    """Whether the shape is there, for each reward model, whatever its sign."""
    for model, out in by_model.items():
        last = max(out["gold"])
        turn = min(TURN, last)
        peak = max(
            out["gold"], key=lambda n: by_prompt.interval(out["gold"][n])["mean"]
        )
        rise = by_prompt.difference(out["reward"][1], out["reward"][last])
        fall = by_prompt.difference(out["gold"][turn], out["gold"][last])
        yield (
            f"{model}: its reward rises to n = {last}: {rise['low'] > 0}; the true one "
            f"falls from n = {turn}: {fall['high'] < 0} "
            f"({shown(out['gold'][turn], out['gold'][last])}), its peak is at {peak}"
        )


def figure(by_model: dict[str, dict]) -> str:
    """The gains of both rewards by n, as SVG."""
    with drawing.canvas("best_of_n", 1, 2, height=2.4) as (drawn, *axes):
        names = ("reward", "gold")
        titles = ("its own reward, gain", "true reward, gain")
        for name, title, axis in zip(names, titles, axes, strict=True):
            for model, out in by_model.items():
                size, _, seed = model.partition("_")
                gains = [
                    by_prompt.difference(out[name][1], x) for x in out[name].values()
                ]
                style = dict(color={"few": drawing.ORANGE, "many": drawing.BLUE}[size])
                style |= dict(marker=drawing.MARKERS[int(seed) % 6], label=model)
                drawing.whiskers(axis, list(out[name]), gains, **style)
            axis.axhline(0, color=drawing.INK, linewidth=0.8)
            axis.set_xscale("log", base=2)
            axis.set_xticks(list(out[name]), [f"{n}" for n in out[name]])
            axis.set_ylabel(title)
        axes[-1].set_xlabel("n")
        axes[0].legend(loc="best")
        return drawn.finish("Best of n", "", []).svg


def main() -> None:
    add = (parser := argparse.ArgumentParser(description=__doc__)).add_argument
    add("--sft", required=True, help="a run of configs/sft/world.py")
    add("--out", required=True, type=pathlib.Path, help="where the runs go")
    add("--seeds", type=int, default=2)
    add("--each", type=int, default=10, help="prompts of a slice")
    add("--samples", type=int, default=64, help="answers to a prompt")
    options, more = parser.parse_known_args()
    names = [f"{name}_{s}" for name in PAIRS for s in range(options.seeds)]
    for name in names:
        size, _, seed = name.partition("_")
        command = training(options.sft, options.out, size, int(seed), more)
        subprocess.run(command, check=True)
    town, settings = world.build(PRESET, SEED), benchmarks.Settings(each=options.each)
    suite = benchmarks.Benchmark(town, settings).suite
    suites.write(options.out / "town.jsonl", suite)
    command = evaluating(options.sft, options.out, names, options.samples)
    subprocess.run(command, check=True)
    answers = list(
        rows.read(options.out / "evaluation" / "rows" / "sft" / "town.jsonl")
    )
    by_model = {name: curves(answers, name) for name in names}
    (options.out / "figure.svg").write_text(figure(by_model))
    print(table(by_model))
    for line in verdicts(by_model):
        print(line)


if __name__ == "__main__":
    main()
