# SPDX-License-Identifier: Apache-2.0
r"""Lets judges compare the answers of a study, and says who wins and how they agree.

    alignjax judge study.json --judge=labeler:clean --judge=reward:runs/reward
    alignjax judge study.json     # of the judgements so far

A judge is labeler:NAME of the embedded world; reward:DIR, a reward model's run;
run:DIR, a run of dialogues that is asked for a verdict; endpoint:FILE, an
OpenAI-compatible endpoint; rubric, the study's where all its criteria are checks; or
module:function, `(turns, first, second) -> probability that the first is better`. Each
pair is judged in both orders. Judgements are rows beside the study, appended one by
one; started again, the command goes on. docs/evaluation.md has the files of a study and
of an endpoint.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
from collections.abc import Sequence

from alignjax import cli
from alignjax.judges import study as studies
from alignjax.judges import summary
from alignjax.tracking import progress


def parser() -> argparse.ArgumentParser:
    """The options of the command."""
    out = cli.parser("judge", __doc__)
    out.add_argument("study", metavar="STUDY", help="a file, JSON")
    names = "labeler:NAME, reward:DIR, run:DIR, endpoint:FILE, rubric, module:function"
    out.add_argument("--judge", action="append", default=[], help=names)
    does = "say how much there is to judge and what is asked, and judge nothing"
    out.add_argument("--dry_run", action="store_true", help=does)
    cli.add_run_options(out)
    return out


def run(options: argparse.Namespace) -> None:
    """Judges what is not judged yet, and prints the lines of all judgements.

    Raises:
      ConfigError, DataError, CheckpointError: what cannot be read or written.
    """
    study = studies.read(options.study)
    panel = [
        studies.find(study, name, network=options.network)
        for name in dict.fromkeys(options.judge)
    ]
    done = studies.stored(study)
    if options.dry_run:
        for judge in panel:
            queue = studies.waiting(study, judge, done)
            print(f"{judge.name}: {len(queue):,} judgements to make")
            if queue and judge.ask:
                print(judge.ask(studies.shown(study, queue[0])))
        return
    with contextlib.closing(progress.Terminal(sys.stderr)) as terminal:
        for judge in panel:
            cli.keep_programs(options.cache_dir)
            with studies.appended(study.file_of(judge.name)) as append:
                queue = studies.waiting(study, judge, done)
                rows = studies.judged(study, judge, queue)
                for count, row in enumerate(rows, start=1):
                    append(row)
                    terminal.show(f"{judge.name}: {count:,} of {len(queue):,}")
    for line in summary.lines(study, studies.stored(study)):
        print(line)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns its exit code."""
    options = parser().parse_args(arguments)
    return cli.exit_code(lambda: run(options))


if __name__ == "__main__":
    sys.exit(main())
