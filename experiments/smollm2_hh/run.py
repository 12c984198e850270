# SPDX-License-Identifier: Apache-2.0
r"""SFT, a reward model and three losses from SmolLM2 on HH's pairs, beside the base.

    python -m experiments.smollm2_hh.run --base=runs/smollm2 --hh=hh.jsonl \
        --data=held_out.jsonl --data=gsm8k.jsonl --data=text.jsonl \
        --out=runs/smollm2_hh

Each command is printed before it is run; what is finished is not done again. The last
lines are those of `alignjax evaluate`.
"""

import argparse
import pathlib
import shlex
import subprocess
import sys

from alignjax.ablation import sweep_file

HERE = pathlib.Path(__file__).parent
STAGES = {"sft": f"{HERE / 'sft.py'}", "reward": "configs/reward/smollm2.py"}
ROWS = 2  # of a batch


def fields(base: str, hh: str, steps: int) -> dict[str, str]:
    """Of the configs of all runs: each trains on as many rows, and evaluates once."""
    same = dict.fromkeys(("steps", "checkpoint.every", "evaluation.every"), f"{steps}")
    return {
        "init.run": base,
        "data.sources.hh.path": hh,
        "batch_size": f"{ROWS}",
        "evaluation.batches": "none",
        "schedule.warmup_steps": f"{steps // 10}",
        **same,
    }


def commands(options: argparse.Namespace) -> list[list[str]]:
    """What is to be run, in order."""
    own = fields(options.base, options.hh, options.steps)
    flags = [f"--config.{name}={value}" for name, value in own.items()]
    runs, out = {"base": options.base}, []
    for name, config in STAGES.items():
        runs[name] = str(options.out / name)
        out.append(["train", f"--config={config}", f"--workdir={runs[name]}", *flags])
    losses, file = options.out / "losses", str(HERE / "sweep.py")
    out.append(["sweep", file, f"--out={losses}", *flags])
    plan = sweep_file.load(file, list(own.items()))
    runs |= {run.arm: str(losses / run.folder) for run in plan.runs}
    evaluate = [f"{name}={path}" for name, path in runs.items()]
    evaluate += ["--reference=base", f"--out={options.out / 'evaluation'}"]
    evaluate += [f"--data={file}" for file in (HERE / "refusals.jsonl", *options.data)]
    evaluate += ["--temperature=0", f"--max_tokens={options.max_tokens}"]
    return [*out, ["evaluate", *evaluate]]


def parser() -> argparse.ArgumentParser:
    out = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = out.add_argument
    add("--base", required=True, help="the run of tools/real_model.sh")
    add("--hh", required=True, help="pairs to train on, JSON lines of HH")
    held_out = "what is evaluated, besides refusals.jsonl; repeatable"
    add("--data", action="append", default=[], metavar="[NAME=]FILE", help=held_out)
    add("--out", required=True, type=pathlib.Path, help="where the runs go")
    add("--steps", type=int, default=60, help="of every run (%(default)s)")
    add("--max_tokens", type=int, default=160, help="of an answer (%(default)s)")
    return out


def main() -> None:
    for command in commands(parser().parse_args()):
        print(f"alignjax {shlex.join(command)}", flush=True)
        subprocess.run([sys.executable, "-m", "alignjax", *command], check=True)


if __name__ == "__main__":
    main()
