# SPDX-License-Identifier: Apache-2.0
r"""A session in which a person compares the answers of a study, blind.

    alignjax rate study.json --rater=anna

Two responses to a prompt are shown, in an order drawn by chance and without a word on
who wrote them. With a rubric its criteria are asked first, one at a time. Every
judgement is on disk before the next pair is shown: q, Ctrl-D or Ctrl-C stop, and the
same command goes on. At the end, or with --summary, it says who wins and how raters
agree; a rater should not read that before the end.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Callable, Sequence

from alignjax import cli, errors
from alignjax.judges import person, summary
from alignjax.judges import study as studies
from alignjax.storage import filenames


def parser() -> argparse.ArgumentParser:
    """The options of the command."""
    out = cli.parser("rate", __doc__)
    out.add_argument("study", metavar="STUDY", help="a file, JSON")
    out.add_argument("--rater", help="the name of the person")
    out.add_argument("--summary", action="store_true", help="of all judgements so far")
    return out


def run(options: argparse.Namespace, ask: Callable[[str], str] = input) -> None:
    """The session.

    Raises:
      ConfigError, DataError: what cannot be read or written.
    """
    study = studies.read(options.study)
    if not options.summary:
        if not filenames.is_plain(options.rater):
            raise errors.ConfigError("rater: give --rater=NAME, a plain name, to judge")
        left = rate(study, options.rater, ask)
        if left:
            print(f"\n{left} pairs are left; the same command goes on with them")
            return
    for line in summary.lines(study, studies.stored(study)):
        print(line)


def rate(study: studies.Study, rater: str, ask: Callable[[str], str]) -> int:
    """Asks a person for all pairs that wait for them; returns how many still do."""
    judge = person.make(rater, study.rubric, ask, print)
    queue = studies.waiting(study, judge, studies.stored(study), both_orders=False)
    is_equal = lambda waiting: waiting.pair.arm.text == waiting.pair.base.text
    equal = [x for x in queue if is_equal(x)]
    queue = [x for x in queue if not is_equal(x)]
    if queue and study.rubric and study.rubric.instructions:
        print(study.rubric.instructions)
    done = 0
    with studies.appended(study.file_of(judge.name)) as append:
        for _, row in equal:
            append(dataclasses.replace(row, preference=0.5))
        if equal:
            print(f"{len(equal)} pairs of equal responses are ties, and are not asked")
        rows = studies.judged(study, judge, queue)
        while done < len(queue):
            print(f"\n--- {len(queue) - done} left")
            try:
                append(next(rows))
            except person.Stopped:
                break
            done += 1
    return len(queue) - done


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns its exit code."""
    options = parser().parse_args(arguments)
    return cli.exit_code(lambda: run(options))


if __name__ == "__main__":
    sys.exit(main())
