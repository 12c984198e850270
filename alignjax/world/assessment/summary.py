# SPDX-License-Identifier: Apache-2.0
"""Answers to numbers: rewards, shares, lengths, and what changed between two models.

All that is returned is JSON data; an interval is `{"mean", "low", "high", "count"}`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from alignjax.evals import statistics
from alignjax.world import gold, prompts
from alignjax.world.assessment import answers, asked

# name: (slice, tag). How often answers to the prompts of a slice are of a kind.
RATES = {
    "unsafe_refusal": ("eval_unsafe", prompts.REFUSE),
    "unsafe_help": ("eval_unsafe", prompts.RIGHT),
    "border_refusal": ("eval_border", prompts.REFUSE),
    "safe_refusal": ("eval_safe", prompts.REFUSE),
    "unknown_abstention": ("eval_unknown", prompts.ABSTAIN),
    "unknown_fabrication": ("eval_unknown", gold.WRONG),
    "fact_recall": ("eval_fact", prompts.RIGHT),
    "arithmetic": ("eval_arithmetic", prompts.RIGHT),
}

Questions = Sequence[asked.Asked]
Answers = Sequence[answers.Answer]


def summarise(questions: Questions, said: Answers, *, seed: int = 0) -> dict[str, Any]:
    """All figures of a model's answers to `questions`, one each, in their order.

    Returns:
      slices: for each `eval_...`: count, `gold` (interval), its `components` and the
        shares of `tags`, means of `LENGTHS` and `unfinished`.
      gold: intervals over `seen` prompts (the slice of familiar ones), `unfamiliar`
        ones (of the other slices) and `nine`, the mean over those slices' means.
      rates: shares with intervals, see `RATES`; `malformed` and `unfinished` are over
        all prompts but the familiar slice.
      lengths: means a response over the same prompts.
      distinct: different texts, as a share of all.
    """
    slices = {
        name: _slice([said[i] for i in rows], seed)
        for name, rows in by_slice(questions).items()
    }
    rates = {
        name: statistics.share(*_count(questions, said, where, tag))
        for name, (where, tag) in RATES.items()
        if where in slices
    }
    wide = [a for q, a in zip(questions, said, strict=True) if q.slice != _FAMILIAR]
    if wide:
        for name, fault in _FAULTS.items():
            rates[name] = statistics.share(sum(map(fault, wide)), len(wide))
    return {
        "slices": slices,
        "gold": {k: v._asdict() for k, v in golds(questions, said, seed=seed).items()},
        "rates": {name: rate._asdict() for name, rate in rates.items()},
        "lengths": {
            name: statistics.mean(list(map(measure, wide or said)), seed=seed)._asdict()
            for name, measure in LENGTHS.items()
        },
        "distinct": len({a.text for a in said}) / len(said),
    }


_FAMILIAR = asked.FAMILIAR
_FAULTS: dict[str, Callable[[answers.Answer], bool]] = {
    "malformed": lambda a: a.reward.tag == gold.MALFORMED,
    "unfinished": lambda a: not a.finished,
}
LENGTHS: dict[str, Callable[[answers.Answer], float]] = {
    "tokens": lambda a: a.tokens,
    "words": lambda a: a.reward.parts.tokens,
    "fillers": lambda a: a.reward.parts.fillers,
    "certainties": lambda a: a.reward.parts.certainties,
}


def by_slice(questions: Questions) -> dict[str, list[int]]:
    """The rows of every slice, in the order in which slices appear."""
    rows: dict[str, list[int]] = {}
    for i, question in enumerate(questions):
        rows.setdefault(question.slice, []).append(i)
    return rows


def views(questions: Questions) -> dict[str, list[list[int]]]:
    """The rows behind each headline, in strata that count the same."""
    slices = by_slice(questions)
    nine = [rows for name, rows in slices.items() if name != _FAMILIAR]
    found = {
        "seen": [slices.get(_FAMILIAR, [])],
        "unfamiliar": [[i for r in nine for i in r if not questions[i].familiar]],
        "nine": nine,
    }
    return {name: strata for name, strata in found.items() if strata and strata[0]}


def golds(
    questions: Questions, said: Answers, *, seed: int = 0
) -> dict[str, statistics.Interval]:
    """The mean true reward of every headline, under its name in `views`."""
    values = [a.reward.total for a in said]
    return _stratified(questions, values, seed)


def change(
    questions: Questions, before: Answers, after: Answers, *, seed: int = 0
) -> dict[str, Any]:
    """What a stage changed, prompt by prompt, so that luck with prompts cancels.

    Returns:
      gold: intervals of the mean difference, by headline and by slice.
      rates: the same of the shares that `summarise` gives.
      lengths: the same of `LENGTHS`, over all prompts but the familiar slice.
    """
    both = list(zip(before, after, strict=True))
    gained = [b.reward.total - a.reward.total for a, b in both]
    slices = by_slice(questions)
    rates = {}
    for name, (where, tag) in RATES.items():
        if where in slices:
            hit = lambda a, tag=tag: float(a.reward.tag == tag)
            pairs = [both[i] for i in slices[where]]
            moved = [hit(b) - hit(a) for a, b in pairs]
            rates[name] = statistics.mean(moved, seed=seed)._asdict()
    wide = [i for i, q in enumerate(questions) if q.slice != _FAMILIAR]
    for name, fault in _FAULTS.items():
        if wide:
            moved = [float(fault(both[i][1])) - fault(both[i][0]) for i in wide]
            rates[name] = statistics.mean(moved, seed=seed)._asdict()
    lengths = {
        name: statistics.mean(
            [measure(both[i][1]) - measure(both[i][0]) for i in wide], seed=seed
        )._asdict()
        for name, measure in LENGTHS.items()
        if wide
    }
    golds = _stratified(questions, gained, seed) | {
        name: statistics.mean([gained[i] for i in rows], seed=seed)
        for name, rows in slices.items()
    }
    return {
        "gold": {name: interval._asdict() for name, interval in golds.items()},
        "rates": rates,
        "lengths": lengths,
    }


def _stratified(questions, values, seed) -> dict[str, statistics.Interval]:
    return {
        name: statistics.stratified(
            [[values[i] for i in rows] for rows in strata], seed=seed
        )
        for name, strata in views(questions).items()
    }


def _count(questions, said, where: str, tag: str) -> tuple[int, int]:
    both = zip(questions, said, strict=True)
    tags = [a.reward.tag for q, a in both if q.slice == where]
    return tags.count(tag), len(tags)


def _slice(said: Answers, seed: int) -> dict[str, Any]:
    mean = lambda measure: sum(map(measure, said)) / len(said)
    return {
        "count": len(said),
        "gold": statistics.mean([a.reward.total for a in said], seed=seed)._asdict(),
        "components": {
            name: mean(lambda a, name=name: a.reward.components[name])
            for name in gold.COMPONENTS
        },
        "tags": {
            tag: mean(lambda a, tag=tag: a.reward.tag == tag) for tag in gold.TAGS
        },
        **{name: mean(measure) for name, measure in LENGTHS.items()},
        "unfinished": mean(lambda a: not a.finished),
    }
