# SPDX-License-Identifier: Apache-2.0
"""A run that learned dialogues as a judge: by the log-probs of two verdicts.

Nothing is sampled: P(first) = s(log p("A" | question) - log p("B" | question)), which
spends one pass a verdict and has no verdict that cannot be read. By a rubric, each
response is first graded alone by each criterion: its level is the mean of the levels,
weighted by the probabilities of their numbers. A range is graded in STEPS + 1 numbers.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Sequence

import numpy as np
from scipy import special

from alignjax import analysis, errors, judges
from alignjax.judges import rubric as rubrics

VERDICTS = ("A", "B")
STEPS = 10  # of a range, from its low end to its high one
ENDS = 8  # tokens that a template may write around a turn
QUESTION = """Two replies to a dialogue are to be compared.

{dialogue}

Reply A:
{first}

Reply B:
{second}

Which reply is better? Answer with A or B alone."""
CRITERION = """A reply to a dialogue is to be graded by one question.

{dialogue}

Reply:
{reply}

{text}
{levels}

Answer with the number of the level alone."""


def make(
    name: str, path: str, *, network: bool = False, rubric: rubrics.Rubric | None = None
) -> judges.Judge:
    """The judge `run:DIR`.

    Args:
      rubric: by whose criteria it grades, but for those of people.

    Raises:
      CheckpointError: no such run.
      ConfigError: it did not learn dialogues.
    """
    run = analysis.open_run(path, network=network)
    if not run.chats:
        raise errors.ConfigError(
            f"judge: {path} did not learn dialogues (data.chat); name a run that did"
        )
    criteria = [c for c in rubric.criteria if c.is_asked_of("judge")] if rubric else []

    def compare(pairs: Sequence[judges.Shown]) -> Iterator[judges.Verdict]:
        questions = [_questions(pair, criteria) for pair in pairs]
        fits = [all(_fits(run, *one) for one in each) for each in questions]
        flat = [
            ([("user", text)], answer)
            for each, fit in zip(questions, fits, strict=True)
            for text, answers in (each if fit else ())
            for answer in answers
        ]
        scores = run.score(*map(list, zip(*flat, strict=True))) if flat else []
        logps = iter([score.logp for score in scores])
        for pair, each, fit in zip(pairs, questions, fits, strict=True):
            if not fit:
                yield judges.Verdict(None, "longer than the judge's context")
                continue
            *levels, (first, second) = (
                [next(logps) for _ in answers] for _, answers in each
            )
            preference = 1 / (1 + math.exp(min(second - first, 700.0)))
            graded = _levels(pair, criteria, levels) if rubric else None
            yield judges.Verdict(preference, scores=graded)

    return judges.Judge(name, run.digest(), compare, ask=question)


def _questions(
    pair: judges.Shown, criteria: Sequence[rubrics.Criterion]
) -> list[tuple[str, Sequence[str]]]:
    """Questions and their answers: of each response every criterion, then of both."""
    graded = [
        (criterion_question(pair, i, c), labels(c)) for i in (0, 1) for c in criteria
    ]
    return [*graded, (question(pair), VERDICTS)]


def _fits(run: analysis.Run, text: str, answers: Sequence[str]) -> bool:
    longest = max(len(run.tokenizer.encode(answer)) for answer in answers)
    room = run.model.config.max_length - longest - ENDS
    return len(run.prompt_ids([("user", text)])) <= room


def _levels(pair: judges.Shown, criteria, logps) -> tuple[dict, dict]:
    """The levels of both responses, those that need no judge among them."""
    out = dict(pair.scores[0]), dict(pair.scores[1])
    places = [(i, c) for i in (0, 1) for c in criteria]
    for (i, c), own in zip(places, logps, strict=True):
        low, high = c.ends
        values = np.linspace(low, high, len(own))
        out[i][c.id] = float(np.clip(special.softmax(own) @ values, low, high))
    return out


def labels(criterion: rubrics.Criterion) -> list[str]:
    """The numbers that stand for the levels of a criterion, from 0."""
    count = STEPS + 1 if criterion.range else len(criterion.levels)
    return [str(i) for i in range(count)]


def criterion_question(
    pair: judges.Shown, place: int, criterion: rubrics.Criterion
) -> str:
    """The question about one response by one criterion, its texts fenced."""
    numbers, anchors = labels(criterion), criterion.levels
    if criterion.range:
        numbers, anchors = (numbers[0], numbers[-1]), criterion.range.anchors
    lines = [f"{n}: {text}" for n, text in zip(numbers, anchors, strict=True)]
    if criterion.range:
        lines.append("and the numbers between them")
    dialogue, reply = _fenced([_dialogue(pair), pair.responses[place]])
    fields = dict(text=criterion.text, levels="\n".join(lines))
    return CRITERION.format(dialogue=dialogue, reply=reply, **fields)


def question(pair: judges.Shown, template: str = QUESTION) -> str:
    """The question about a pair, every text of which is in a fence that it has not.

    Args:
      template: with places for `dialogue`, `first` and `second`.
    """
    dialogue, first, second = _fenced([_dialogue(pair), *pair.responses])
    return template.format(dialogue=dialogue, first=first, second=second)


def _dialogue(pair: judges.Shown) -> str:
    return "\n".join(f"{role}: {text}" for role, text in pair.prompt["turns"])


def _fenced(texts: Sequence[str]) -> list[str]:
    """Each text in a fence that none of them has."""
    tag = hashlib.sha256("\0".join(texts).encode()).hexdigest()[:6]
    return [f"<{tag}>\n{text}\n</{tag}>" for text in texts]
