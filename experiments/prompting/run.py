# SPDX-License-Identifier: Apache-2.0
r"""Fine-tunes, asks the base the same prompts behind a few words more, and compares.

    python -m experiments.prompting.run --base=runs/quickstart/pretrain \
        --out=runs/prompting

What is finished is not done again. The last lines are the table and whether what was
expected holds; `figure.svg` is written beside the runs.
"""

import argparse
import dataclasses
import pathlib
import subprocess
import sys
from collections.abc import Mapping, Sequence

from alignjax import world
from alignjax.ablation import claim, figures
from alignjax.evals import arms, compare, rows
from alignjax.world import chance, examples
from alignjax.world.assessment import answers, benchmarks, run_models
from experiments.prompting import sweep

PRESET, SEED = "nano", 0  # the world of that config
EACH, TEMPERATURE = 16, 1.0  # as the sweep asks
SHOTS = 3
ORDER = "be brief."  # one of the two that the world's system prompts give
PROMPTS = ("base", "base_system", "base_shots", "base_both")
SLICES = {
    "familiar": [benchmarks.FAMILIAR],
    "unfamiliar": [f"eval_{kind}" for kind in benchmarks.KINDS],
}


def training(base: str, out: pathlib.Path) -> list[str]:
    """The command that fine-tunes."""
    return [
        *(sys.executable, "-m", "alignjax", "sweep"),
        str(pathlib.Path(__file__).with_name("sweep.py")),
        *(f"--out={out / 'sft'}", f"--config.init.run={base}"),
    ]


def in_front(prompt: world.Prompt, name: str, shots: Sequence) -> world.Prompt:
    """A prompt with a system turn, examples, or both before its question."""
    system = [turn for turn in prompt.turns if turn[0] == "system"]
    rest = [turn for turn in prompt.turns if turn[0] != "system"]
    if name in ("base_system", "base_both"):  # one that it has already stays
        system = system or [("system", ORDER)]
    if name in ("base_shots", "base_both"):
        rest = [*shots, *rest]
    return prompt._replace(turns=(*system, *rest))


def shots(town: world.World, seed: int) -> list:
    """Demonstrations without a system turn, as turns of a dialogue."""
    rng = chance.stream(town.seed, "shots", seed)
    count = examples.splits(PRESET)["demonstrations"]
    drawn = (
        examples.read(town, "demonstrations", int(rng.random() * count))
        for _ in range(20 * SHOTS)
    )
    plain = [d.turns for d in drawn if len(d.turns) == 2]
    return [turn for turns in plain[:SHOTS] for turn in turns]


def ask(base: str, out: pathlib.Path, seeds: int) -> None:
    """Writes rows of the base's answers, a file for each prompting and seed."""
    town = world.build(PRESET, SEED)
    benchmark = benchmarks.Benchmark(town, benchmarks.Settings(each=EACH))
    model = run_models.open_model("base", base)
    for name in PROMPTS:
        for seed in range(seeds if "shots" in name or "both" in name else 1):
            path = out / "base" / f"{name}_{seed}.jsonl"
            if path.exists():
                continue
            own = shots(town, seed)
            questions = [in_front(q.prompt, name, own) for q in benchmark.questions]
            responses = run_models.sample(
                model,
                questions,
                length=benchmark.settings.length,
                temperature=TEMPERATURE,
                seed=benchmark.settings.seed,
                score=world.gold_reward,
            )
            answered = answers.make(model, benchmark, responses, TEMPERATURE)
            # Of one model: its examples are what another seed changes.
            fields = dict(run=f"{name}_{seed}", seed=seed, digest=None)
            rows.write(path, [dataclasses.replace(row, **fields) for row in answered])
            print(f"{name}_{seed}: {len(answered)} answers", flush=True)


def read(out: pathlib.Path) -> dict[str, list[rows.Answer]]:
    """The answers of each arm, the base's first."""
    files = {name: f"base/{name}_[0-9].jsonl" for name in PROMPTS}
    files |= {f"sft_{n}": f"sft/sft_{n}_*/rows.jsonl" for n in sweep.EPOCHS}
    return {
        name: [answer for file in sorted(out.glob(glob)) for answer in rows.read(file)]
        for name, glob in files.items()
    }


def arm(by_arm: Mapping[str, list[rows.Answer]], name: str, part: str) -> arms.Arm:
    """The true reward of an arm on the familiar or on the unfamiliar prompts."""
    runs = arms.of(by_arm[name], name, slices=SLICES[part])
    return runs._replace(name=name)


def means(by_arm, part: str) -> dict[str, list[float]]:
    """The mean of each run of each arm."""
    return {n: arm(by_arm, n, part).values_SP.mean(1).tolist() for n in by_arm}


def table(by_arm) -> str:
    """The true reward of each arm, and of each of its runs."""
    lines = ["| | familiar | each | unfamiliar | each |", "|---|---|---|---|---|"]
    parts = [means(by_arm, part) for part in SLICES]
    for name in by_arm:
        cells = [name]
        for each in parts:
            values = each[name]
            cells.append(f"{sum(values) / len(values):.3f}")
            cells.append(", ".join(f"{x:.3f}" for x in values))
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


EXPECTED = (
    ("sft_16", "below", "sft_4", "unfamiliar"),
    ("sft_16", "above", "sft_4", "familiar"),
    ("base_shots", "below", "sft_4", "familiar"),
    ("base_shots", "above", "sft_4", "unfamiliar"),
)


def verdicts(by_arm):
    """Whether each inequality that was expected is there, whatever its sign."""
    for name, side, other, part in EXPECTED:
        pair = arm(by_arm, other, part), arm(by_arm, name, part)
        stated = claim.Claim(f"reward of {part} prompts", expects={name: side})
        yield from claim.outcomes(stated, [compare.compare(*pair, paired=False)])


def figure(by_arm) -> str:
    """Every run's reward on unfamiliar prompts, as SVG."""
    values = means(by_arm, "unfamiliar")
    none = dict.fromkeys(values, 0)
    label = "true reward, unfamiliar prompts"
    return figures.runs("prompting", label, label, values, none, None).svg


def main() -> None:
    add = (parser := argparse.ArgumentParser(description=__doc__)).add_argument
    add("--base", required=True, help="a run of configs/pretrain/world.py")
    add("--out", required=True, type=pathlib.Path, help="where the runs go")
    add("--seeds", type=int, default=5, help="draws of examples")
    options = parser.parse_args()
    subprocess.run(training(options.base, options.out), check=True)
    ask(options.base, options.out, options.seeds)
    by_arm = read(options.out)
    (options.out / "figure.svg").write_text(figure(by_arm))
    print(table(by_arm))
    for line in verdicts(by_arm):
        print(line)


if __name__ == "__main__":
    main()
