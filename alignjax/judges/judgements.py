# SPDX-License-Identifier: Apache-2.0
"""Judgements as rows: who preferred which of two answers, in which order, by what."""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar, Literal

from alignjax import bounds

SCHEMA = "alignjax.judgement/1"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Answer:
    """Which answer of the rows was judged, and what is known of it.

    Attributes:
      run, digest, step, sample: as its row has them.
      tokens: its length.
      gold: its true reward, where it has one.
    """

    run: str
    digest: str | None = None
    step: bounds.CountOrZero | None = None
    sample: bounds.CountOrZero
    tokens: bounds.CountOrZero
    gold: float | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Judgement:
    """One judge on one pair in one order.

    Attributes:
      schema: of this row.
      judge, judge_digest: its name, and a digest of what decides its judgements.
      rubric, rubric_digest: `id@version` and digest of the rubric, if it had one.
      suite_digest, slice, prompt, cluster: of the prompt, as its rows have them.
      arm, base: the two answers.
      arm_first: whether the arm's was shown first.
      preference: for the arm's answer, from 0 to 1, 1/2 for a tie; None for a failure.
      failure, retries: why there is none; how often the judge was called again.
      arm_scores, base_scores: levels by criterion.
      provenance: of the judge and of this judgement, where its digest would not tell:
        model, host, prompt, parameters, tokens.
    """

    PRINTED: ClassVar[tuple[str, ...]] = (
        *("judge", "judge_digest", "rubric", "rubric_digest", "suite_digest"),
        *("slice", "cluster", "failure"),
    )

    schema: Literal["alignjax.judgement/1"] = SCHEMA
    judge: str
    judge_digest: str | None = None
    rubric: str | None = None
    rubric_digest: str | None = None
    suite_digest: str
    slice: str | None = None
    prompt: bounds.CountOrZero
    cluster: str | None = None
    arm: Answer
    base: Answer
    arm_first: bool
    preference: bounds.Fraction | None = None
    failure: str | None = None
    retries: bounds.CountOrZero = 0
    arm_scores: dict[str, float] | None = None
    base_scores: dict[str, float] | None = None
    provenance: dict[str, Any] | None = None

    @property
    def pair(self) -> tuple:
        """What judgements of one pair share, whoever judged."""
        ends = ((a.run, a.digest, a.step, a.sample) for a in (self.arm, self.base))
        return self.suite_digest, self.prompt, *ends

    @property
    def key(self) -> tuple:
        """What no two judgements of a study share."""
        return (
            self.judge,
            self.judge_digest,
            self.rubric_digest,
            self.pair,
            self.arm_first,
        )

    def as_json(self) -> dict[str, Any]:
        """Its fields, in their order."""
        return dataclasses.asdict(self)
