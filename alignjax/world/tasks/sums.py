# SPDX-License-Identifier: Apache-2.0
"""Sums in words, of two terms and of three.

Metadata: `terms` and `answer`, as words.

The functions of a task have the signatures of `prompts.Task`.
"""

from __future__ import annotations

import functools
import itertools
import re

from alignjax.world import chance, prompts

QUESTIONS = ("what is {sum}?", "can you work out {sum}?", "how much is {sum}?")
_EQUATION = r"([a-z]+) plus ([a-z]+) is ([a-z]+)\."


def draw_terms(rng, words, count: int) -> list[int]:
    """`count` terms whose sum has a name."""
    terms = [int(rng.random() * (words.largest_term + 1)) for _ in range(count)]
    if sum(terms) >= len(words.numbers):
        return draw_terms(rng, words, count)
    return terms


def true_sums(terms: list[int]) -> list[int]:
    """The sum of the first two terms, of the first three, ..."""
    return list(itertools.accumulate(terms))[1:]


def equations(words, terms: list[int], sums: list[int]) -> str:
    """A sentence for each sum, which begins where the last one ends; true or not."""
    firsts = [terms[0], *sums]
    return " ".join(
        f"{words.numbers[a]} plus {words.numbers[b]} is {words.numbers[c]}."
        for a, b, c in zip(firsts, terms[1:], sums, strict=False)
    )


def _ask(kind: str, count: int, rng, world, reach) -> prompts.Prompt:
    words = world.lexicon
    terms = draw_terms(rng, words, count)
    wording = int(rng.random() * reach.wordings)
    names = [words.numbers[term] for term in terms]
    question = QUESTIONS[wording].format(sum=" plus ".join(names))
    meta = {"terms": names, "answer": words.numbers[sum(terms)], "wording": wording}
    return prompts.ask(rng, world, reach, kind, question, meta)


def _terms(words, meta) -> list[int]:
    return [words.numbers.index(name) for name in meta["terms"]]


def right(_, words, meta) -> str:
    """The true equations."""
    terms = _terms(words, meta)
    return equations(words, terms, true_sums(terms))


def wrong(rng, words, meta) -> str:
    """One false step: the last; or of two the first, with its consequence."""
    terms, count = _terms(words, meta), len(words.numbers)
    sums = true_sums(terms)
    if len(sums) == 2 and rng.random() < 0.5:
        sums[0] = chance.pick_other(rng, range(count - terms[2]), sums[0])
        sums[1] = sums[0] + terms[2]
    else:
        sums[-1] = chance.pick_other(rng, range(count), sums[-1])
    return equations(words, terms, sums)


def read(words, meta, core) -> prompts.Reading | None:
    """Equations of the question's terms, each true or false by itself; or a number."""
    if core.endswith(".") and core[:-1] in words.numbers:
        return prompts.Reading(core[:-1] == meta["answer"], value=core[:-1])
    count = len(meta["terms"]) - 1
    match = re.fullmatch(" ".join([_EQUATION] * count), core)
    if match is None or any(name not in words.numbers for name in match.groups()):
        return None
    numbers = list(map(words.numbers.index, match.groups()))
    firsts, seconds, sums = numbers[::3], numbers[1::3], numbers[2::3]
    if [firsts[0], *seconds] != _terms(words, meta) or firsts[1:] != sums[:-1]:
        return None
    steps = tuple(a + b == c for a, b, c in zip(firsts, seconds, sums, strict=True))
    several = steps if count > 1 else ()
    return prompts.Reading(all(steps), steps=several, value=words.numbers[sums[-1]])


TASKS = {
    kind: prompts.Task(functools.partial(_ask, kind, count), right, wrong, read)
    for kind, count in (("arithmetic", 2), ("chain", 3))
}
