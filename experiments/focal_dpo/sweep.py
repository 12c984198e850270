# SPDX-License-Identifier: Apache-2.0
r"""Trains with every loss and seed from one fine-tuned run, and measures them all.

    python -m experiments.focal_dpo.sweep --sft=runs/sft --out=runs/focal_dpo

What is finished is not done again. The first run fills the store of the reference's
log-probabilities, and no other loads the reference at all.
"""

import argparse
import pathlib
import subprocess
import sys

CONFIG = "experiments/focal_dpo/config.py"
MODULE = "experiments.focal_dpo.losses"
# Loss, and what of it is not as in the config.
LOSSES = {
    "dpo": {"loss": "dpo"},
    "robust": {"loss": "robust", "label_smoothing": 0.3},
    "focal": {"loss": f"{MODULE}:focal_dpo", "gamma": 2.0},
    "easy": {"loss": f"{MODULE}:easy_dpo", "gamma": 1.0},
}


def training(sft, out: pathlib.Path, name: str, seed: int, more=()) -> list[str]:
    """The command that trains with the loss `name`."""
    options = [f"--config.objective.{k}={v}" for k, v in LOSSES[name].items()]
    return [
        *(sys.executable, "-m", "alignjax.train", f"--config={CONFIG}"),
        *(f"--workdir={out / f'{name}_{seed}'}", f"--config.init.run={sft}"),
        *(f"--config.seed={seed}", *options, *more),
    ]


def measuring(sft, out: pathlib.Path, seeds, each: int) -> list[str]:
    """The command that measures the true reward of what all of them say."""
    runs = [f"--run=sft={sft}"]
    for name in LOSSES:
        runs += [f"--run={name}_{s}={out / f'{name}_{s}'}" for s in seeds]
    file = out / "assessment.json"
    return [
        *(sys.executable, "-m", "alignjax", "assess", f"--out={file}"),
        *(f"--each={each}", *runs),
    ]


def main() -> None:
    add = (parser := argparse.ArgumentParser(description=__doc__)).add_argument
    add("--sft", required=True, help="a run of configs/sft/world.py")
    add("--out", required=True, type=pathlib.Path, help="where the runs go")
    add("--seeds", type=int, default=3)
    add("--each", type=int, default=32, help="prompts of a slice")
    options, more = parser.parse_known_args()
    seeds = range(options.seeds)
    for seed in seeds:
        for name in LOSSES:
            command = training(options.sft, options.out, name, seed, more)
            subprocess.run(command, check=True)
    command = measuring(options.sft, options.out, seeds, options.each)
    subprocess.run(command, check=True)


if __name__ == "__main__":
    main()
