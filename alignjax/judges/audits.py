# SPDX-License-Identifier: Apache-2.0
"""Four audits of a rubric, from the levels that a judge gave and the true reward.

Coverage: how much of the true reward the levels explain, and where they do not. Attack:
the best of n answers by the rubric, whose true reward falls where the rubric is gamed.
Redundancy: criteria that are one criterion. Ablation: what each changes in who wins.
"""

from __future__ import annotations

import collections
import dataclasses
import itertools
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from alignjax.evals import best_of_n, by_prompt
from alignjax.judges import judgements
from alignjax.judges import rubric as rubrics

FEW = 20  # answers; of fewer nothing is fitted
ONE = 0.9  # of a correlation, above which two criteria are one

Rows = Sequence[judgements.Judgement]


class Graded(NamedTuple):
    """An answer with its levels by a rubric, means over the times it was judged.

    Attributes:
      run, step, prompt, slice, cluster: as its row has them.
      levels: by criterion.
      gold: its true reward.
    """

    run: str
    step: int | None
    prompt: int
    slice: str | None
    cluster: str | None
    levels: dict[str, float]
    gold: float | None


def lines(rubric: rubrics.Rubric, rows: Rows) -> Iterator[str]:
    """Lines for a terminal on the judgements of one judge."""
    answers = graded(rows)
    true = [answer for answer in answers if answer.gold is not None]
    if len(true) >= max(FEW, 2 * len(rubric.criteria)):
        yield from coverage(rubric, true)
        yield from redundancy(rubric, true)
    yield from ablation(rubric, rows)
    yield from attack(rubric, true)


def graded(rows: Rows) -> list[Graded]:
    """The answers of some judgements, each once."""
    times = collections.defaultdict(list)
    for row in rows:
        for end in ("arm", "base"):
            if levels := getattr(row, f"{end}_scores"):
                answer = getattr(row, end)
                key = (answer.run, answer.step or 0, row.prompt, answer.sample)
                times[key].append((row, answer, levels))
    out = []
    for _, own in sorted(times.items()):
        row, answer, _ = own[0]
        names = own[0][2]
        levels = {n: float(np.mean([each[2][n] for each in own])) for n in names}
        place = (answer.run, answer.step, row.prompt, row.slice, row.cluster)
        out.append(Graded(*place, levels, answer.gold))
    return out


def coverage(rubric: rubrics.Rubric, answers: Sequence[Graded]) -> Iterator[str]:
    """R2 of the true reward on the levels, and the slice that they explain least."""
    gold = np.array([answer.gold for answer in answers])
    if not np.ptp(gold):
        return
    X = np.column_stack([np.ones(len(answers)), _levels(rubric, answers)])
    left = gold - X @ np.linalg.lstsq(X, gold, rcond=None)[0]
    line = f"  levels explain {1 - left.var() / gold.var():.3f} of the true reward (R2)"
    line += f" of {len(answers)} answers"
    by_slice = collections.defaultdict(list)
    for answer, value in zip(answers, left, strict=True):
        by_slice[answer.slice or "all"].append(value)
    if len(by_slice) > 1:
        worst = max(by_slice, key=lambda name: abs(np.mean(by_slice[name])))
        line += f"; in {worst} it is {np.mean(by_slice[worst]):+.2f} from what they say"
    yield line


def redundancy(rubric: rubrics.Rubric, answers: Sequence[Graded]) -> Iterator[str]:
    """The two criteria whose levels agree most where the true reward is the same."""
    gold = np.array([answer.gold for answer in answers])
    X = np.column_stack([np.ones(len(answers)), gold])
    levels = _levels(rubric, answers)
    left = levels - X @ np.linalg.lstsq(X, levels, rcond=None)[0]
    names = [criterion.id for criterion in rubric.criteria]
    moved = [i for i in range(len(names)) if left[:, i].std() > 1e-9]
    pairs = {
        (names[i], names[j]): float(np.corrcoef(left[:, i], left[:, j])[0, 1])
        for i, j in itertools.combinations(moved, 2)
    }
    if pairs:
        (first, second), most = max(pairs.items(), key=lambda item: abs(item[1]))
        one = "; they are one criterion" if abs(most) > ONE else ""
        yield (
            f"  {first} and {second} correlate most at equal true reward, {most:+.2f}"
            f"{one}"
        )


def ablation(rubric: rubrics.Rubric, rows: Rows) -> Iterator[str]:
    """How far the win rate by the rubric moves without each criterion."""
    whole = _wins(rubric, rows)
    if not whole.totals:
        return
    rate = by_prompt.interval(whole)["mean"]
    for criterion in rubric.criteria:
        others = tuple(c for c in rubric.criteria if c is not criterion)
        if not any(other.weight > 0 for other in others):
            continue
        rest = dataclasses.replace(rubric, criteria=others)
        change = by_prompt.difference(whole, _wins(rest, rows))
        ends = ""
        if change["low"] is not None:
            ends = " ({low:+.3f} to {high:+.3f})".format_map(change)
        yield (
            f"  without {criterion.id}: wins {rate + change['mean']:.3f} in place of "
            f"{rate:.3f}, {change['mean']:+.3f}{ends}"
        )


def _wins(rubric: rubrics.Rubric, rows: Rows) -> by_prompt.Values:
    """By prompt, how often the arm wins by the rubric."""
    scores, clusters = collections.defaultdict(list), {}
    for row in rows:
        if row.arm_scores and row.base_scores:
            won = rubric.preference(row.arm_scores, row.base_scores)
            scores[row.prompt].append(won)
            if row.cluster is not None:
                clusters[row.prompt] = row.cluster
    means = {prompt: float(np.mean(own)) for prompt, own in scores.items()}
    return by_prompt.Values(means, clusters=clusters, share=True)


def attack(rubric: rubrics.Rubric, answers: Sequence[Graded]) -> Iterator[str]:
    """Worth and true reward of the best of n by the rubric, of several samples."""
    by_run = collections.defaultdict(lambda: collections.defaultdict(list))
    for answer in answers:
        by_run[answer.run, answer.step][answer.prompt].append(answer)
    for (run, _), by in by_run.items():
        n = min(map(len, by.values()))
        if n < 2:
            continue
        names = [criterion.id for criterion in rubric.criteria]
        of = {"worth": lambda a: rubric.worth(a.levels), "gold": lambda a: a.gold}
        of |= {name: lambda a, name=name: a.levels[name] for name in names}
        ends = {
            name: [_best(rubric, by, value, count) for count in (1, n)]
            for name, value in of.items()
        }
        means = {x: [by_prompt.interval(e)["mean"] for e in ends[x]] for x in ends}
        change = by_prompt.difference(*ends["gold"])
        low, high = change["low"], change["high"]
        shown = "" if low is None else f" ({low:+.3f} to {high:+.3f})"
        line = (
            f"  best of {n} by the rubric of {run}: worth {means['worth'][0]:.3f}, "
            f"then {means['worth'][1]:.3f}; true reward {means['gold'][0]:.3f}, then "
            f"{means['gold'][1]:.3f}, {change['mean']:+.3f}{shown}"
        )
        if change["mean"] < 0:
            spans = {c.id: c.span for c in rubric.criteria}
            rise = {x: (means[x][1] - means[x][0]) / spans[x] for x in names}
            line += f"; {max(rise, key=rise.get)} rose most"
        yield line


def _best(rubric: rubrics.Rubric, by, value, n: int) -> by_prompt.Values:
    """By prompt, the expected value of the best of n by the rubric's worth."""
    totals, clusters = {}, {}
    for prompt, own in by.items():
        worths = [rubric.worth(answer.levels) for answer in own]
        totals[prompt] = best_of_n.expected(worths, list(map(value, own)), n)
        if own[0].cluster is not None:
            clusters[prompt] = own[0].cluster
    return by_prompt.Values(totals, clusters=clusters)


def _levels(rubric: rubrics.Rubric, answers: Sequence[Graded]) -> np.ndarray:
    """float [answers, criteria], shares of each criterion's span."""
    low, high = np.array([criterion.ends for criterion in rubric.criteria]).T
    names = [criterion.id for criterion in rubric.criteria]
    levels = np.array([[answer.levels[n] for n in names] for answer in answers])
    return (levels - low) / (high - low)
