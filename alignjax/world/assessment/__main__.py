# SPDX-License-Identifier: Apache-2.0
r"""Measures the models of runs on the embedded world, and what each stage changed.

    alignjax assess --out=runs/assessment.json \
        --run=base=runs/base --run=sft=runs/sft --run=reward=runs/reward
    alignjax assess --out=runs/assessment.json --run=dpo=runs/dpo --checkpoints=dpo

`NAME=DIR` is a run as of its newest checkpoint, `NAME=DIR@STEP` of another one. Runs
are added to the file; those that it has from the same parameters and settings are not
measured again. Each language model is compared with the one that it started from. Exit
codes are those of `alignjax.errors`.
"""

from __future__ import annotations

import argparse
import contextlib
import pathlib
import sys
from collections.abc import Sequence
from typing import NamedTuple

from alignjax import cli
from alignjax.experiment import sections
from alignjax.tracking import progress
from alignjax.world.assessment import benchmarks, command


def parser() -> argparse.ArgumentParser:
    """The options of the command."""
    out = cli.parser("assess", __doc__)
    add, default = out.add_argument, benchmarks.Settings()
    add(
        "--run",
        action="append",
        default=[],
        required=True,
        type=parse_run,
        metavar="NAME=DIR[@STEP]",
        help="a run, and its name in the results; repeatable",
    )
    add("--out", required=True, metavar="FILE", help="the results, JSON")
    add(
        "--checkpoints",
        action="append",
        default=[],
        metavar="NAME",
        help="measure all checkpoints of this run, on half as many prompts",
    )
    add(
        "--each",
        type=int,
        default=default.each,
        help="prompts of a slice (%(default)s)",
    )
    add("--seed", type=int, default=default.seed, help="of sampling (%(default)s)")
    add("--kinds", default=",".join(benchmarks.KINDS), help="slices (%(default)s)")
    add("--anew", action="store_true", help="start the file again")
    add(
        "--cache_dir",
        default=sections.CACHE_DIR,
        help="for compiled programs (%(default)s)",
    )
    return out


class NamedRun(NamedTuple):
    """A run of the command line."""

    name: str
    path: str
    step: int | None


def parse_run(text: str) -> NamedRun:
    """`NAME=DIR` or `NAME=DIR@STEP`.

    Raises:
      ArgumentTypeError: it is neither.
    """
    name, equals, path = text.partition("=")
    folder, at, step = path.rpartition("@")
    if not (name and equals and path):
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=DIR or NAME=DIR@STEP")
    if at and step.isdecimal() and not pathlib.Path(path).expanduser().exists():
        return NamedRun(name, folder, int(step))
    return NamedRun(name, path, None)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns its exit code."""
    options = parser().parse_args(arguments)
    terminal = progress.Terminal()

    def assess() -> None:
        cli.keep_programs(options.cache_dir)
        out = cli.output(options.out)
        settings = benchmarks.Settings(
            each=options.each, seed=options.seed, kinds=tuple(options.kinds.split(","))
        )
        with contextlib.closing(terminal):
            command.run(
                options.run,
                out,
                settings,
                checkpoints=options.checkpoints,
                anew=options.anew,
                terminal=terminal,
            )

    return cli.exit_code(assess)


if __name__ == "__main__":
    sys.exit(main())
