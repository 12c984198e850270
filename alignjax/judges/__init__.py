# SPDX-License-Identifier: Apache-2.0
"""Who prefers what: one interface for labelers, models, functions and people.

A judge sees two responses to a prompt, blind, in one order, and gives the probability
that the first is better: 1/2 is a tie, None a failure, which is counted and never
dropped.

kinds            judges by their names
language_model   a run that learned dialogues, asked for a verdict
endpoint         an OpenAI-compatible endpoint
person           somebody at a terminal
rubric           criteria, weights and anchors as data
study            the pairs that are to be judged, and their judgements
judgements       one judge on one pair in one order, as a row
summary          win rates, biases and agreement
audits           a rubric: coverage, attacks, redundancy and ablation
rewards          a judge as a reward of rollouts
judge, rate      the commands
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from alignjax.evals import rows

BATCH = 64  # pairs that a judge is shown at one time


class Shown(NamedTuple):
    """Two responses to a prompt in the order in which a judge sees them.

    Attributes:
      prompt: as the suite has it: its `turns`, and what decides its scores.
      responses: two texts.
      finished: whether each ended by itself.
      scores: of each response, by criteria that need no judge.
    """

    prompt: Mapping[str, Any]
    responses: tuple[str, str]
    finished: tuple[bool, bool] = (True, True)
    scores: tuple[Mapping[str, float], Mapping[str, float]] = ({}, {})


class Verdict(NamedTuple):
    """What a judge says of two responses.

    Attributes:
      first: the probability that the first is better; None where there is none.
      failure: why there is none.
      retries: how often the judge was called again.
      scores: of each response, by criterion of a rubric.
      details: of this one judgement, such as the tokens that it cost.
    """

    first: float | None
    failure: str | None = None
    retries: int = 0
    scores: tuple[dict[str, float], dict[str, float]] | None = None
    details: Mapping[str, Any] | None = None


class Judge(NamedTuple):
    """A name, and a function of shown pairs; see `judges.kinds`.

    Attributes:
      name: as its judgements have it, such as "labeler:clean".
      digest: of what decides its judgements, such as parameters, where there is one.
      compare: a verdict for each pair, in order; may be lazy.
      provenance: what decides its judgements, in words, where a digest alone would not
        tell.
      ask: what it is asked about a pair, of judges that are asked in words.
    """

    name: str
    digest: str | None
    compare: Callable[[Sequence[Shown]], Iterable[Verdict]]
    provenance: Mapping[str, Any] | None = None
    ask: Callable[[Shown], str] | None = None


class Failure(Exception):
    """Raised by a function that cannot judge a pair; its text is the reason.

    OSError counts as one too: connections that are lost, and what takes too long.
    """


def verdicts(judge: Judge, pairs: Sequence[Shown]) -> Iterator[Verdict]:
    """The verdict of each pair, a failure where it is no probability.

    Reasons are one printable line, as rows have them, whoever gave them.
    """
    for start in range(0, len(pairs), BATCH):
        block = pairs[start : start + BATCH]
        for _, verdict in zip(block, judge.compare(block), strict=True):
            first = verdict.first
            if first is not None and not 0 <= first <= 1:
                reason = f"{first!r:.40} is no probability"
                verdict = verdict._replace(first=None, failure=reason)
            if verdict.first is None:
                verdict = verdict._replace(
                    failure=line(verdict.failure or "") or "no reason given"
                )
            yield verdict


def line(text: str) -> str:
    """A text of anybody's as one printable line of the length of a name."""
    words = "".join(c if c.isprintable() else " " for c in text).split()
    return " ".join(words)[: rows.MOST_LETTERS]
