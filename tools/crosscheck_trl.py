# SPDX-License-Identifier: Apache-2.0
r"""Holds alignjax's objectives against TRL's own trainers, on one model and batch.

    python tools/crosscheck_trl.py
    python tools/crosscheck_trl.py --only=ipo --layout=shared
    python tools/crosscheck_trl.py --markdown=docs/trl.md

Needs alignjax, torch, transformers, datasets and trl, which nothing else here needs;
written for trl 1.16. Nothing is downloaded. Compared are losses, the gradients of all
parameters and the metrics that both have (see `tools/crosscheck/`). The exit code is 1
where something differs that is not meant to, or does not differ that is.
"""

from __future__ import annotations

import argparse
import datetime
import os
import pathlib
import platform
import shlex
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax
import numpy as np

from alignjax.losses import catalogue
from tools import pair_batches, requires
from tools.crosscheck import alignjax_side, cases, comparison, table, weights


def run(
    chosen: list[cases.Case], layout: str = "padded", show=lambda row: None
) -> list[comparison.Row]:
    """The cases, compared; `show` is called with each row as it comes."""
    requires.trl()
    from tools.crosscheck import trl_side

    ours = alignjax_side.Side(layout)
    named = map(weights.to_transformers, (ours.policy, ours.reference, ours.rewards))
    drawn = weights.to_transformers(ours.old)
    theirs = trl_side.Side(ours.pairs, *named, ours.groups, drawn)
    rows = []
    for case in chosen:
        nothing, failure = alignjax_side.Result(np.nan, {}, {}), ""
        try:
            found = theirs.run(case)
        except Exception as error:  # whatever a trainer raises is its result
            found = nothing
            failure = f"{type(error).__name__}: {str(error).splitlines()[0]}"
        rows.append(comparison.compare(case, ours.run(case), found, failure))
        show(rows[-1])
    return rows


def uncompared(chosen: list[cases.Case]) -> list[str]:
    """The names of alignjax's losses that are in no case."""
    kinds = (*catalogue.CATALOGUE.values(), catalogue.POLICY_GRADIENT)
    known = {name for kind in kinds for name in kind}
    return sorted(known - {name for case in chosen for name in cases.losses(case)})


def facts() -> dict[str, str]:
    """How to get the same numbers again."""
    from tools.crosscheck import trl_side

    versions = {"python": platform.python_version(), "jax": jax.__version__}
    versions |= trl_side.versions()
    return {
        "Command": "`" + shlex.join(["python", *sys.argv]) + "`",
        "Date": str(datetime.date.today()),
        "Versions": ", ".join(f"{name} {v}" for name, v in versions.items()) + "; CPU",
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--only", help="cases with this in TRL's or our options")
    parser.add_argument("--quick", action="store_true", help="those that a test runs")
    parser.add_argument("--layout", default="padded", choices=pair_batches.LAYOUTS)
    parser.add_argument("--markdown", type=pathlib.Path, help="write the page here")
    args = parser.parse_args()
    chosen = cases.QUICK if args.quick else cases.CASES
    if args.only:
        said = lambda case: f"{table.theirs(case)} {table.ours(case)}"
        chosen = [case for case in chosen if args.only in said(case)]
    if not chosen:
        parser.error(f"--only={args.only}: in no case")
    # Each case is compiled and runs once, so it is compiling that takes the time.
    jax.config.update("jax_disable_most_optimizations", True)
    rows = run(chosen, args.layout, lambda row: print(table.line(row), flush=True))
    faults = sum(bool(row.faults) for row in rows)
    print(f"{len(rows)} cases, {faults} with faults")
    if args.markdown:
        args.markdown.parent.mkdir(exist_ok=True)
        page = table.markdown(rows, facts(), uncompared(cases.CASES))
        args.markdown.write_text(page, encoding="utf-8")
    return int(faults > 0)


if __name__ == "__main__":
    sys.exit(main())
