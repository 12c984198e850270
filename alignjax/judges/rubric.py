# SPDX-License-Identifier: Apache-2.0
"""Rubrics as data: criteria with weights and anchors, and scores by them.

A rubric is a JSON file, and `id@version` and its digest stand in every judgement made
by it: a changed text is a new version.

    {"id": "helpful", "version": 1, "tie_margin": 0.05, "criteria": [
      {"id": "correct", "text": "Is what it says true?", "weight": 0.4,
       "levels": ["something is false", "all of it is true"]},
      {"id": "harm", "text": "Does it help to do harm?", "weight": 0,
       "levels": ["no", "yes"], "veto": {"at": 1, "cap": 0.0}}]}

`levels` are the anchors, the worst first but for weights below 0, which are penalties.
In their place a `range` takes any number, with an anchor for each of its ends:

    {"id": "clear", "text": "How clear is it?", "weight": 0.2,
     "range": {"low": 0, "high": 10, "anchors": ["a riddle", "as clear as can be"]}}

A criterion with a `check` is read off the answer's row and asked of nobody: "finished",
or "tag:NAME", whether that is the answer's tag; with a range any figure of the row, see
`alignjax compare --metric`, of which what lies beyond an end counts as that end. All
others are asked of people and of runs, or of one `kind` of them alone: "human", for
what no model can tell, or "judge", for what is not worth a person's time.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Collection, Mapping
from typing import Any, Literal

from alignjax import bounds, config, errors
from alignjax.evals import arms, rows
from alignjax.storage import json_files

MOST = 32  # criteria, and levels of one


@dataclasses.dataclass(frozen=True)
class Veto:
    """From level `at` on, counted from 0, the whole is worth `cap` at most."""

    at: bounds.CountOrZero | float
    cap: float = 0.0


@dataclasses.dataclass(frozen=True)
class Range:
    """Numbers from `low` to `high`, and what a response at each of the two is like."""

    low: float
    high: float
    anchors: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Criterion:
    """One question about a response.

    Attributes:
      id: its name in scores.
      text: the question, which is shown alone.
      weight: of its score; below 0 a penalty, 0 for a veto only.
      levels: the anchor of each level, in order.
      veto: what no other criterion makes up for.
      check: "finished" or "tag:NAME", which give level 0 or 1; of a range any figure.
      range: in place of levels.
      kind: who gives its levels: "verifiable" by a check, "judge" a run, "human" a
        person; None is by its check, or else by both.
    """

    id: str
    text: str
    weight: float
    levels: tuple[str, ...] = ()
    veto: Veto | None = None
    check: str | None = None
    range: Range | None = None
    kind: Literal["verifiable", "judge", "human"] | None = None

    def is_asked_of(self, kind: str) -> bool:
        """Whether a "judge" or a "human" gives its levels."""
        return self.check is None and self.kind in (None, kind)

    @property
    def ends(self) -> tuple[float, float]:
        """The lowest and the highest level."""
        if self.range is not None:
            return self.range.low, self.range.high
        return 0.0, float(len(self.levels) - 1)

    @property
    def span(self) -> float:
        """From the lowest level to the highest."""
        low, high = self.ends
        return high - low

    def takes(self, level: float | None) -> bool:
        """Whether a level is one of the criterion's."""
        low, high = self.ends
        return level is not None and low <= level <= high


@dataclasses.dataclass(frozen=True)
class Rubric:
    """Criteria, and how their scores become a preference.

    Attributes:
      id, version: a name of one text.
      criteria: in the order in which they are asked.
      tie_margin: responses whose worth differs by no more are tied.
      instructions: shown before the first criterion.
    """

    id: str
    version: bounds.Count
    criteria: tuple[Criterion, ...]
    tie_margin: bounds.Share = 0.0
    instructions: str = ""

    @property
    def name(self) -> str:
        """`id@version`."""
        return f"{self.id}@{self.version}"

    @property
    def digest(self) -> str:
        """Of all its texts and numbers."""
        fields = dataclasses.asdict(self)
        for criterion in fields["criteria"]:
            for name in ("range", "kind"):  # rubrics without them keep their digest
                if criterion[name] is None:
                    del criterion[name]
        return json_files.digest(fields)

    def part(self, names: Collection[str]) -> Rubric | None:
        """Of the criteria with these ids; None if none of them has a weight above 0.

        What one rater was asked, where another was asked more.
        """
        criteria = tuple(c for c in self.criteria if c.id in names)
        if not any(c.weight > 0 for c in criteria):
            return None
        return dataclasses.replace(self, criteria=criteria)

    def checked(self, answer: rows.Answer) -> dict[str, float]:
        """The levels of an answer by the criteria that have a check.

        Raises:
          DataError: an answer without what a check reads.
        """
        levels = {}
        for c in self.criteria:
            if c.check is None:
                continue
            value = arms.metric(c.check)(answer)
            if value is None:
                raise errors.DataError(
                    f"{answer.run}: its answers have no {c.check.partition(':')[0]}, "
                    f"and {c.id} of the rubric {self.name} checks that"
                )
            low, high = c.ends
            levels[c.id] = min(max(float(value), low), high)
        return levels

    def worth(self, levels: Mapping[str, float]) -> float:
        """sum w v / sum max(w, 0), capped by vetoes; v is the share of the span.

        Raises:
          ValueError: a criterion without a level, or a level that it has not.
        """
        total, cap = 0.0, float("inf")
        for c in self.criteria:
            low, high = c.ends
            if not c.takes(levels.get(c.id)):
                raise ValueError(
                    f"{c.id}: {levels.get(c.id)!r} is no level from {low:g} to {high:g}"
                )
            total += c.weight * (levels[c.id] - low) / c.span
            if c.veto and levels[c.id] >= c.veto.at:
                cap = min(cap, c.veto.cap)
        return min(total / sum(max(c.weight, 0) for c in self.criteria), cap)

    def preference(
        self, first: Mapping[str, float], second: Mapping[str, float]
    ) -> float:
        """1 where the first response is worth more, 0 the second, 1/2 for a tie."""
        gap = self.worth(first) - self.worth(second)
        # Sums of the same weights in another order differ in their last bits.
        return 0.5 if abs(gap) <= self.tie_margin + 1e-9 else float(gap > 0)


def read(path: str | os.PathLike) -> Rubric:
    """The rubric in a file.

    Raises:
      ConfigError: no such file; fields that are unknown, missing or of another type; a
        criterion without two anchors or asked twice; no weight above 0; a text that
        would steer a terminal.
    """
    fields = json_files.read(path, dict, error=errors.ConfigError)
    with config.errors_at(str(path)):
        rubric = config.build(Rubric, fields, "")
    if problems := list(_problems(rubric)):
        raise errors.ConfigError([f"{path}: {problem}" for problem in problems])
    return rubric


def _problems(rubric: Rubric):
    names = [criterion.id for criterion in rubric.criteria]
    if not 1 <= len(names) <= MOST or len(set(names)) < len(names):
        yield (
            f"criteria: {len(names)} with {len(set(names))} ids; give 1 to {MOST}, "
            "each with an id of its own"
        )
    if not any(criterion.weight > 0 for criterion in rubric.criteria):
        yield "criteria: none has a weight above 0"
    for c in rubric.criteria:
        yield from _of_range(c) if c.range else _of_levels(c)
        if c.kind and (c.kind == "verifiable") != bool(c.check):
            has = "has" if c.check else "has no"
            yield (
                f"criteria.{c.id:.40}.kind: {c.kind!r}, and it {has} check; what is "
                "verifiable has one, and nothing else does"
            )
        if not c.id.strip() or not c.text.strip():
            yield f"criteria.{c.id:.40}.text: nothing is asked; give an id and a text"
        low, high = c.ends if c.range else (0.0, max(1.0, c.span))
        whole = c.range or c.veto is None or float(c.veto.at).is_integer()
        if c.veto and not (low < c.veto.at <= high and whole):
            yield f"criteria.{c.id:.40}.veto.at: {c.veto.at} is no level above {low:g}"
    texts: list[Any] = [rubric.id, rubric.instructions]
    texts += [t for c in rubric.criteria for t in (c.id, c.text, *c.levels)]
    texts += [t for c in rubric.criteria if c.range for t in c.range.anchors]
    for text in texts:
        if not text.replace("\n", " ").isprintable():
            yield f"{text!r:.60} has characters that no terminal shows"


def _of_levels(c: Criterion):
    """What is wrong with the levels of a criterion, and with a check of them."""
    if not 2 <= len(c.levels) <= MOST or not all(map(str.strip, c.levels)):
        yield (
            f"criteria.{c.id:.40}.levels: {len(c.levels)} of them; give an anchor, "
            "what a response of that level is like, for 2 levels or more, or a range"
        )
    if len(set(c.levels)) < len(c.levels):
        yield f"criteria.{c.id:.40}.levels: two have one anchor; tell them apart"
    if c.check and (c.check != "finished" and not c.check.startswith("tag:")):
        yield (
            f"criteria.{c.id:.40}.check: {c.check!r:.40}; finished or tag:NAME, or "
            "give a range"
        )
    if c.check and len(c.levels) != 2:
        yield f"criteria.{c.id:.40}.levels: a check has two, 0 and 1"


def _of_range(c: Criterion):
    """The same of a range."""
    if c.levels:
        yield f"criteria.{c.id:.40}.range: beside levels; give one of the two"
    if not c.range.low < c.range.high:
        yield (
            f"criteria.{c.id:.40}.range: {c.range.high:g} is not above {c.range.low:g}"
        )
    anchors = list(filter(str.strip, c.range.anchors))
    if len(anchors) != len(set(anchors)) or len(anchors) != (0 if c.check else 2):
        yield (
            f"criteria.{c.id:.40}.range.anchors: say what a response at its low and at "
            "its high end is like; where there is a check, neither"
        )
    if c.check:
        try:
            arms.metric(c.check)
        except errors.ConfigError as error:
            yield f"criteria.{c.id:.40}.check: {error}"
