# SPDX-License-Identifier: Apache-2.0
r"""How often halves of equal runs are called different, by each kind of interval.

    python -m experiments.equal_runs.check --out=runs/equal_runs

reads the rows that the sweep left there. An interval that holds what it promises calls
one split in twenty different; with ten splits, which share their runs, one at most.
"""

import argparse
import itertools
import pathlib
from collections.abc import Iterator, Sequence

from alignjax.evals import arms, compare, rows

MOST = 0.10  # of the splits


def splits(names: Sequence[str]) -> Iterator[tuple[set[str], set[str]]]:
    """Every way of parting runs into two halves."""
    first, *rest = names
    for others in itertools.combinations(rest, len(names) // 2 - 1):
        half = {first, *others}
        yield half, set(names) - half


def different(answers: Sequence[rows.Answer], interval: str) -> list[bool]:
    """Of every split, whether the interval of its difference leaves out 0."""
    out = []
    for halves in splits(sorted({answer.run for answer in answers})):
        a, b = (
            arms.of([x for x in answers if x.run in half], "half") for half in halves
        )
        fields = compare.compare(a, b, interval=interval, paired=False)
        out.append(fields["low"] > 0 or fields["high"] < 0)
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", required=True, type=pathlib.Path)
    files = sorted(parser.parse_args().out.glob("dpo_*/rows.jsonl"))
    answers = [answer for file in files for answer in rows.read(file)]
    for interval in ("prompts", "runs"):
        calls = different(answers, interval)
        share = sum(calls) / len(calls)
        holds = "holds" if share <= MOST else "does not hold"
        print(
            f"{interval}: {sum(calls)} of {len(calls)} splits are called different; "
            f"at most {MOST:.0%} {holds}"
        )


if __name__ == "__main__":
    main()
