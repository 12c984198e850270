# SPDX-License-Identifier: Apache-2.0
"""Sums in words, of two terms and of three.

Metadata: `terms` and `answer`, as words.

The functions of a task have the signatures of `prompts.Task`.
"""

from __future__ import annotations

import functools
import re

from alignjax.world import chance, prompts

QUESTIONS = ("what is {sum}?", "can you work out {sum}?", "how much is {sum}?")
_EQUATION = r"([a-z]+) plus ([a-z]+) is ([a-z]+)\."
_ONE = re.compile(_EQUATION)
_TWO = re.compile(f"{_EQUATION} {_EQUATION}")


def draw_terms(rng, words, count: int) -> list[int]:
    """`count` terms whose sum has a name."""
    terms = [int(rng.random() * (words.largest_term + 1)) for _ in range(count)]
    if sum(terms) >= len(words.numbers):
        return draw_terms(rng, words, count)
    return terms


def equation(words, first: int, second: int, total: int) -> str:
    """A sum as a sentence, true or not."""
    a, b, c = words.numbers[first], words.numbers[second], words.numbers[total]
    return f"{a} plus {b} is {c}."


def two_equations(words, terms, middle: int, total: int) -> str:
    """Two sums, the second beginning where the first ends; true or not."""
    first, second, third = terms
    start = equation(words, first, second, middle)
    return f"{start} {equation(words, middle, third, total)}"


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


def right_sum(rng, words, meta) -> str:
    """The equation."""
    del rng
    first, second = _terms(words, meta)
    return equation(words, first, second, first + second)


def wrong_sum(rng, words, meta) -> str:
    """The equation with another result."""
    first, second = _terms(words, meta)
    numbers = range(len(words.numbers))
    total = chance.pick_other(rng, numbers, first + second)
    return equation(words, first, second, total)


def right_chain(rng, words, meta) -> str:
    """Two equations."""
    del rng
    terms = _terms(words, meta)
    return two_equations(words, terms, sum(terms[:2]), sum(terms))


def wrong_chain(rng, words, meta) -> str:
    """One false step: the first, with its consequence, or the second."""
    terms, count = _terms(words, meta), len(words.numbers)
    middle, total = sum(terms[:2]), sum(terms)
    if rng.random() < 0.5:
        middle = chance.pick_other(rng, range(count - terms[2]), middle)
        total = middle + terms[2]
    else:
        total = chance.pick_other(rng, range(count), total)
    return two_equations(words, terms, middle, total)


def _read_result(words, meta, core) -> prompts.Reading | None:
    if core.endswith(".") and core[:-1] in words.numbers:
        return prompts.Reading(core[:-1] == meta["answer"], value=core[:-1])
    return None


def read_sum(words, meta, core) -> prompts.Reading | None:
    """An equation of the question's terms, or a bare number."""
    match = _ONE.fullmatch(core)
    if match is None:
        return _read_result(words, meta, core)
    *terms, result = match.groups()
    if terms != meta["terms"] or result not in words.numbers:
        return None
    return prompts.Reading(result == meta["answer"], value=result)


def read_chain(words, meta, core) -> prompts.Reading | None:
    """Two equations, each true or false by itself, or a bare number."""
    match = _TWO.fullmatch(core)
    if match is None:
        return _read_result(words, meta, core)
    names = match.groups()
    same_terms = [names[0], names[1], names[4]] == meta["terms"]
    connected = names[2] == names[3]
    if not (same_terms and connected and all(n in words.numbers for n in names)):
        return None
    a, b, c, d, e, f = map(words.numbers.index, names)
    steps = (a + b == c, d + e == f)
    return prompts.Reading(all(steps), steps=steps, value=names[5])


TASKS = {
    "arithmetic": prompts.Task(
        functools.partial(_ask, "arithmetic", 2), right_sum, wrong_sum, read_sum
    ),
    "chain": prompts.Task(
        functools.partial(_ask, "chain", 3), right_chain, wrong_chain, read_chain
    ),
}
