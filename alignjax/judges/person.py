# SPDX-License-Identifier: Apache-2.0
"""A person as a judge, asked in a terminal."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from alignjax import judges
from alignjax.judges import rubric as rubrics

TIE, SKIP, STOP = "=", "s", "q"
CHOICES = {"1": 1.0, "2": 0.0, TIE: 0.5}


class Stopped(Exception):
    """The person has had enough; what was judged so far is kept."""


def make(
    name: str,
    rubric: rubrics.Rubric | None,
    ask: Callable[[str], str],
    show: Callable[[str], None],
) -> judges.Judge:
    """The judge `person:NAME`.

    Criteria are asked one at a time, of both responses, and the preference last, so
    that it does not colour them.

    Args:
      ask: returns the line that the person typed after a prompt; EOFError stops.
      show: prints a line.
    """

    def typed(question: str) -> str:
        try:
            text = ask(question).strip().lower()
        except EOFError:
            raise Stopped from None
        if text == STOP:
            raise Stopped
        return text

    def answer(question: str, choices: Sequence[str]) -> str:
        while (text := typed(f"{question} [{' '.join(choices)}] ")) not in choices:
            show(f"  one of: {', '.join(choices)}; {STOP} stops")
        return text

    def level_of(c: rubrics.Criterion, question: str) -> float:
        low, high = c.ends
        if c.range is None:
            levels = [str(level) for level in range(len(c.levels))]
            return float(answer(question, levels))
        while True:
            text = typed(f"{question} [{low:g} to {high:g}] ")
            try:
                level = float(text)
            except ValueError:
                level = None
            if c.takes(level):
                return level
            show(f"  a number from {low:g} to {high:g}; {STOP} stops")

    def judge(pair: judges.Shown) -> judges.Verdict:
        for role, text in pair.prompt["turns"]:
            show(f"{_plain(role)}: {_plain(text)}")
        for i in (0, 1):
            end = "" if pair.finished[i] else "  (cut off at the limit of its length)"
            show(f"\n[{i + 1}] {_plain(pair.responses[i])}{end}")
        show("")
        scores = dict(pair.scores[0]), dict(pair.scores[1])
        for c in rubric.criteria if rubric else ():
            if not c.is_asked_of("human"):
                continue
            show(c.text)
            if c.range:
                anchors = zip(c.ends, c.range.anchors, strict=True)
            else:
                anchors = enumerate(c.levels)
            for level, anchor in anchors:
                show(f"  {level:g}: {anchor}")
            for i in (0, 1):
                scores[i][c.id] = level_of(c, f"  [{i + 1}]")
        choice = answer(
            "which is better? 1, 2, = a tie, s cannot say", [*CHOICES, SKIP]
        )
        if choice == SKIP:
            return judges.Verdict(None, "could not say")
        return judges.Verdict(CHOICES[choice], scores=scores if rubric else None)

    def compare(pairs: Sequence[judges.Shown]) -> Iterator[judges.Verdict]:
        return map(judge, pairs)

    return judges.Judge(f"person:{name}", None, compare)


def _plain(text: str) -> str:
    """A text of anybody's, which must not steer the terminal."""
    keep = lambda c: (
        c if c.isprintable() or c == "\n" else c.encode("unicode_escape").decode()
    )
    return "".join(map(keep, text))
