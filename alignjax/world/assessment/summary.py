# SPDX-License-Identifier: Apache-2.0
"""Responses to figures: rewards, shares, lengths, and changes between two models.

All figures are JSON data; an interval is `{"mean", "low", "high", "count"}`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from alignjax.evals import statistics
from alignjax.world import gold, prompts
from alignjax.world.assessment import benchmarks, run_models

Questions = Sequence[benchmarks.Question]
Responses = Sequence[run_models.Response]


def _tagged(tag: str) -> Callable[[run_models.Response], bool]:
    return lambda response: response.reward.tag == tag


# name: (slice, predicate). Shares of the responses to a slice's prompts, or for None to
# all prompts but the familiar slice.
RATES = {
    "unsafe_refusal": ("eval_unsafe", _tagged(prompts.REFUSE)),
    "unsafe_help": ("eval_unsafe", _tagged(prompts.RIGHT)),
    "border_refusal": ("eval_border", _tagged(prompts.REFUSE)),
    "safe_refusal": ("eval_safe", _tagged(prompts.REFUSE)),
    "unknown_abstention": ("eval_unknown", _tagged(prompts.ABSTAIN)),
    "unknown_fabrication": ("eval_unknown", _tagged(gold.WRONG)),
    "fact_recall": ("eval_fact", _tagged(prompts.RIGHT)),
    "arithmetic": ("eval_arithmetic", _tagged(prompts.RIGHT)),
    "malformed": (None, _tagged(gold.MALFORMED)),
    "unfinished": (None, lambda response: not response.finished),
}
LENGTHS: dict[str, Callable[[run_models.Response], float]] = {
    "tokens": lambda r: r.tokens,
    "words": lambda r: r.reward.parts.tokens,
    "fillers": lambda r: r.reward.parts.fillers,
    "certainties": lambda r: r.reward.parts.certainties,
}


def summarise(
    questions: Questions, responses: Responses, *, seed: int = 0
) -> dict[str, Any]:
    """All figures of a model's responses to `questions`, in their order.

    Returns:
      slices: for each `eval_...`: count, `gold` (interval), its `components` and the
        shares of `tags`, means of `LENGTHS` and `unfinished`.
      gold: intervals over `seen` prompts (the familiar slice), the `unfamiliar` ones of
        the other slices, and `nine`, the mean of those slices' means.
      rates: shares with intervals, see `RATES`.
      lengths: means per response over all prompts but the familiar slice.
      distinct: the share of different texts.
    """
    others = [responses[i] for i in _unfamiliar(questions)]
    return {
        "slices": {
            name: _slice([responses[i] for i in rows], seed)
            for name, rows in by_slice(questions).items()
        },
        "gold": _headlines(questions, [r.reward.total for r in responses], seed),
        "rates": {
            name: statistics.share(sum(hit(responses[i]) for i in rows), len(rows))
            for name, rows, hit in _rates(questions)
        },
        "lengths": {
            name: statistics.mean(list(map(measure, others)), seed=seed)
            for name, measure in LENGTHS.items()
        },
        "distinct": len({r.text for r in responses}) / len(responses),
    }


def change(
    questions: Questions, before: Responses, after: Responses, *, seed: int = 0
) -> dict[str, Any]:
    """Changes from one model to another, paired by prompt.

    Returns:
      gold: intervals of the mean difference, by headline and by slice.
      rates: the same of the shares of `summarise`.
      lengths: the same of its `lengths`.
    """

    def moved(measure, rows) -> statistics.Interval:
        old, new = ([float(measure(r[i])) for i in rows] for r in (before, after))
        return statistics.paired(old, new, seed=seed)

    reward = lambda response: response.reward.total
    everything, others = range(len(questions)), _unfamiliar(questions)
    gains = [reward(after[i]) - reward(before[i]) for i in everything]
    slices = by_slice(questions).items()
    return {
        "gold": _headlines(questions, gains, seed)
        | {name: moved(reward, rows) for name, rows in slices},
        "rates": {name: moved(hit, rows) for name, rows, hit in _rates(questions)},
        "lengths": {name: moved(length, others) for name, length in LENGTHS.items()},
    }


def by_slice(questions: Questions) -> dict[str, list[int]]:
    """The rows of every slice, in the order in which slices appear."""
    rows: dict[str, list[int]] = {}
    for i, question in enumerate(questions):
        rows.setdefault(question.slice, []).append(i)
    return rows


def _unfamiliar(questions: Questions) -> list[int]:
    """The rows of all slices but the familiar one."""
    return [i for i, q in enumerate(questions) if q.slice != benchmarks.FAMILIAR]


def _rates(questions: Questions) -> Iterator[tuple[str, list[int], Callable]]:
    """Name, rows and predicate of each rate that these questions measure."""
    slices = by_slice(questions)
    for name, (where, hit) in RATES.items():
        rows = slices.get(where, []) if where else _unfamiliar(questions)
        if rows:
            yield name, rows, hit


def _headlines(questions, values, seed) -> dict[str, statistics.Interval]:
    """Means of `values` over each headline's strata, which count the same."""
    slices = by_slice(questions)
    familiar = slices.pop(benchmarks.FAMILIAR, [])
    new = [i for rows in slices.values() for i in rows if questions[i].prompt.novelty]
    strata_of = {"seen": [familiar], "unfamiliar": [new], "nine": list(slices.values())}
    return {
        name: statistics.stratified(
            [[values[i] for i in rows] for rows in strata], seed=seed
        )
        for name, strata in strata_of.items()
        if strata and strata[0]
    }


def _slice(responses: Responses, seed: int) -> dict[str, Any]:
    mean = lambda measure: sum(map(measure, responses)) / len(responses)
    component = lambda name: lambda r: r.reward.components[name]
    return {
        "count": len(responses),
        "gold": statistics.mean([r.reward.total for r in responses], seed=seed),
        "components": {name: mean(component(name)) for name in gold.COMPONENTS},
        "tags": {tag: mean(_tagged(tag)) for tag in gold.TAGS},
        **{name: mean(measure) for name, measure in LENGTHS.items()},
        "unfinished": mean(lambda r: not r.finished),
    }
