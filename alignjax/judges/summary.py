# SPDX-License-Identifier: Apache-2.0
"""What the judgements of a study say: win rates, biases of judges, and agreement."""

from __future__ import annotations

import collections
import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from alignjax.evals import (
    agreement,
    by_prompt,
    rater_bias,
    statistics,
    style,
    win_rates,
)
from alignjax.judges import audits, judgements, study
from alignjax.judges import rubric as rubrics

FEW = 50  # judgements; of fewer no biases are fitted
CONTROL_DRAWS = 401  # refits of a win rate at equal lengths, or equal style
FEW_LEVELS = 20  # judgements; of fewer no biases of a criterion's levels are
ATTENTIVE = 0.8  # of attention checks, below which a rater's judgements are doubtful
APART = 0.2  # of preferences that are not those of the scores
POOR = 0.4  # of Krippendorff's alpha: shown, but nothing is to be decided by it

Rows = Sequence[judgements.Judgement]


def lines(of: study.Study, rows: Rows) -> Iterator[str]:
    """Lines for a terminal: of each judge, then of all that judged the same pairs."""
    by_judge, checks = collections.defaultdict(list), collections.defaultdict(list)
    for row in rows:
        (checks if row.base.run == study.CHECK else by_judge)[_name(row)].append(row)
    rows = [row for own in by_judge.values() for row in own]
    for judge, own in by_judge.items():
        yield from _of_judge(of, judge, own)
        yield from _of_length(own)
        if judge in checks:
            yield from _of_checks(checks[judge])
        if of.rubric:
            rubric = of.rubric.part(_graded(own))
            if rubric is not None:
                yield from _of_weights(rubric, own)
            yield from _of_levels(of, own)
            if rubric is not None:
                yield from audits.lines(rubric, own)
    for first, second in itertools.combinations(by_judge, 2):
        yield from _of_two(first, second, by_judge[first], by_judge[second])
    if of.rubric and len(by_judge) > 1:
        yield from _of_criteria(of, rows)


def _name(row: judgements.Judgement) -> str:
    """A judge whose parameters are others is another judge."""
    return f"{row.judge} ({row.judge_digest:.8})" if row.judge_digest else row.judge


def win_rate(
    rows: Rows, texts: Mapping[tuple, tuple[str, str]] | None = None
) -> dict[str, Any]:
    """The win rate of the arm over the baseline, as JSON data.

    Args:
      texts: of the pairs, see `study.texts`; without them style is not controlled.

    Returns:
      rate, low, high: over prompts, clustered; a tie and a failure are 1/2, without
        an interval where all are failures.
      pairs, ties, failures: numbers; `judgements` of both orders together.
      orders: see `win_rates.of_orders`, of the pairs that have both.
      by_order: how often what was shown first won.
      length_controlled: see `win_rates.length_controlled`.
      length_controlled_ends: of its interval over the same clusters.
      style_controlled, style_controlled_ends: the same with gaps of markdown too; None
        where no response has any.
    """
    pairs = collections.defaultdict(dict)
    for row in rows:
        pairs[row.pair][row.arm_first] = row
    one = [next(iter(orders.values())) for orders in pairs.values()]
    score = lambda row: 0.5 if row.preference is None else row.preference
    scores = [float(np.mean(list(map(score, o.values())))) for o in pairs.values()]
    prompts = collections.defaultdict(list)
    for row, value in zip(one, scores, strict=True):
        prompts[row.prompt].append(value)
    means = {prompt: float(np.mean(values)) for prompt, values in prompts.items()}
    clusters = {row.prompt: row.cluster for row in one if row.cluster is not None}
    rate = by_prompt.interval(by_prompt.Values(means, clusters=clusters, share=True))
    if all(row.preference is None for row in rows):  # a half each, of which none is one
        rate |= {"low": None, "high": None}
    both = [o for o in pairs.values() if len(o) == 2]
    shown_first = [score(r) if r.arm_first else 1 - score(r) for r in rows]
    fields = {
        "rate": rate["mean"],
        "low": rate["low"],
        "high": rate["high"],
        "pairs": len(pairs),
        "judgements": len(rows),
        "ties": sum(row.preference == 0.5 for row in rows),
        "failures": sum(row.preference is None for row in rows),
        "orders": None,
        "by_order": float(np.mean(shown_first)),
        **dict.fromkeys(("length_controlled", "length_controlled_ends")),
        **dict.fromkeys(("style_controlled", "style_controlled_ends")),
    }
    if both:
        orders = zip(*((score(o[True]), score(o[False])) for o in both), strict=True)
        fields["orders"] = win_rates.of_orders(*orders)
    if len(pairs) > 2:
        own = [texts[row.pair] for row in one] if texts else [("", "")] * len(one)
        lengths = zip(*((r.arm.tokens, r.base.tokens) for r in one), strict=True)
        gaps_NK = style.gaps(*lengths, *zip(*own, strict=True))
        alike = [row.cluster or f"prompt {row.prompt}" for row in one]
        controls = {"length": gaps_NK[:, :1]}
        if gaps_NK[:, 1:].any():
            controls["style"] = gaps_NK
        for name, columns in controls.items():
            out = win_rates.controlled(
                scores, columns, clusters=alike, draws=CONTROL_DRAWS
            )
            fields[f"{name}_controlled"] = out.rate
            if len(set(alike)) > 1:
                fields[f"{name}_controlled_ends"] = [out.low, out.high]
    return fields


def _of_judge(of: study.Study, judge: str, rows: Rows) -> Iterator[str]:
    out, count = win_rate(rows, study.texts(of)), len(of.pairs)
    arm, base = (sorted({getattr(r, end).run for r in rows}) for end in ("arm", "base"))
    head = f"{judge}: {' '.join(arm)} against {' '.join(base)}: "
    if out["failures"] == out["judgements"]:
        yield (
            f"{head}all {len(rows)} judgements of {out['pairs']} of {count} pairs "
            "failed; remove their lines to ask again"
        )
    else:
        yield head + _of_wins(out, count)
        yield f"  {'; '.join(_of_orders(out))}"
    reasons = collections.Counter(r.failure for r in rows if r.preference is None)
    for reason, times in reasons.most_common(3):
        yield f"  failed {times} times: {reason}"
    good = [r for r in rows if None not in (r.preference, r.arm.gold, r.base.gold)]
    if not good:
        return
    pairs = collections.defaultdict(list)
    for row in good:
        pairs[row.pair].append(row.preference)
    gaps = {row.pair: row.arm.gold - row.base.gold for row in good}
    judged = [float(np.mean(pairs[pair])) for pair in gaps]
    for row in agreement.with_truth(judged, [*gaps.values()]):
        shown = "  prefers what is truly better by over {over:g} in {mean:.3f} "
        yield (shown + "({low:.3f} to {high:.3f}) of {count}").format_map(row)
    if len(good) >= FEW:
        yield from _biases(good)


def _of_wins(out: dict[str, Any], count: int) -> str:
    ends = "" if out["low"] is None else f" ({out['low']:.3f} to {out['high']:.3f})"
    return (
        f"wins {out['rate']:.3f}{ends} of {out['pairs']} of {count} pairs; "
        f"{out['ties']} ties, {out['failures']} failures in {out['judgements']} "
        "judgements"
    )


def _of_orders(out: dict[str, Any]) -> Iterator[str]:
    yield f"what was shown first won {out['by_order']:.3f}"
    if orders := out["orders"]:
        twice = out["judgements"] - out["pairs"]
        pairs = "" if twice == out["pairs"] else f" of {twice} pairs"
        yield f"the same in both orders of {orders.consistent:.3f}{pairs}"
    for name, alike in (("length", "lengths"), ("style", "lengths and markdown")):
        if (rate := out[f"{name}_controlled"]) is not None:
            ends = out[f"{name}_controlled_ends"]
            ends = " ({:.3f} to {:.3f})".format(*ends) if ends else ""
            yield f"wins {rate:.3f}{ends} at equal {alike}"


def _of_length(rows: Rows) -> Iterator[str]:
    """How often a choice was the longer response: what a rule of length alone gets."""
    gaps = [
        np.sign(r.preference - 0.5) * (r.arm.tokens - r.base.tokens)
        for r in rows
        if r.preference not in (None, 0.5) and r.arm.tokens != r.base.tokens
    ]
    if gaps:
        share = float(np.mean(np.greater(gaps, 0)))
        yield f"  the longer one won {share:.3f} of {len(gaps)} choices"


def _of_checks(rows: Rows) -> Iterator[str]:
    passed = statistics.share(sum(row.preference == 1 for row in rows), len(rows))
    shown = "  passed {mean:.3f} ({low:.3f} to {high:.3f}) of {count} attention checks"
    poor = f"; under {ATTENTIVE:g}, so doubt the rest" * (passed["mean"] < ATTENTIVE)
    yield shown.format_map(passed) + poor


def _biases(rows: Rows) -> Iterator[str]:
    sign, gap, counts = _gaps(rows)
    length = gap(lambda answer: answer.tokens)
    first = np.where(sign > 0, p := np.array([r.preference for r in rows]), 1 - p)
    if (first > 0.5).all() or (first < 0.5).all():
        yield f"  always chose the {'first' if first[0] > 0.5 else 'second'} one"
        return
    length = length / (length.std(ddof=1) or 1.0)
    gaps = gap(lambda answer: answer.gold), {"length": length}
    out = rater_bias.fit(first, *gaps, counts=counts, l2=1)
    shown = ", ".join(
        f"{n} {w:+.2f} (+-{out.errors[n]:.2f})" for n, w in out.weights.items()
    )
    yield f"  logits of its choices: {shown}, of a deviation of length"


def _gaps(rows: Rows):
    """1 where the arm was first, else -1; gaps first less second; what a row counts."""
    sign = np.array([1 if row.arm_first else -1 for row in rows])
    gap = lambda of: sign * [of(row.arm) - of(row.base) for row in rows]
    times = collections.Counter(row.pair for row in rows)
    return sign, gap, [1 / times[row.pair] for row in rows]


def _of_levels(of: study.Study, rows: Rows) -> Iterator[str]:
    """What moved a judge's levels by each criterion, and whether it gave them again."""
    for criterion in () if of.rubric is None else of.rubric.criteria:
        name, span = criterion.id, criterion.span
        own = [r for r in rows if r.arm_scores and name in r.arm_scores]
        if criterion.check or not own:
            continue
        parts, again = [], collections.defaultdict(list)
        for row in own:
            again[row.pair].append((row.arm_scores[name], row.base_scores[name]))
        twice = [levels for levels in again.values() if len(levels) == 2]
        if twice:
            same = np.mean([a == b for one in twice for a, b in zip(*one, strict=True)])
            parts.append(f"the same again in {same:.3f} of {2 * len(twice)}")
        sign, gap, counts = _gaps(own)
        levels = sign * [r.arm_scores[name] - r.base_scores[name] for r in own] / span
        length = gap(lambda answer: answer.tokens)
        gaps = {"length": length / (length.std(ddof=1) or 1.0) if len(own) > 1 else 0}
        if all(None not in (r.arm.gold, r.base.gold) for r in own):
            gaps = {"truth": gap(lambda answer: answer.gold), **gaps}
        try:
            if len(own) >= FEW_LEVELS:
                out = rater_bias.of_levels(levels, gaps, counts=counts)
                parts += [
                    f"{n} {w:+.2f} (+-{out.errors[n]:.2f})"
                    for n, w in out.weights.items()
                ]
        except ValueError:  # such as responses of one length
            pass
        if parts:
            yield f"  {name}: {', '.join(parts)}"


def _graded(rows: Rows) -> set[str]:
    """The criteria by which a judge has graded whatever it has graded."""
    names = [set(row.arm_scores) for row in rows if row.arm_scores]
    return set.intersection(*names) if names else set()


def _of_weights(rubric: rubrics.Rubric, rows: Rows) -> Iterator[str]:
    """How often a judge's preference is not what its scores by the rubric amount to."""
    scored = [r for r in rows if r.arm_scores and r.preference is not None]
    if not scored or scored[0].judge == "rubric":
        return
    weighed = [rubric.preference(r.arm_scores, r.base_scores) for r in scored]
    chosen = [float(np.sign(r.preference - 0.5) / 2 + 0.5) for r in scored]
    apart = float(np.mean(np.not_equal(weighed, chosen)))
    poor = f"; over {APART:g}, so weigh it anew" if apart > APART else ""
    yield f"  prefers another than its scores by {rubric.name} in {apart:.3f}{poor}"


def _of_two(first: str, second: str, a: Rows, b: Rows) -> Iterator[str]:
    labels = [{}, {}]
    for own, rows in zip(labels, (a, b), strict=True):
        for row in rows:
            if row.preference is not None:
                own.setdefault(row.pair, []).append(row.preference)
    common = [pair for pair in labels[0] if pair in labels[1]]
    if not common:
        return
    sign = lambda own: [int(np.sign(np.mean(own[pair]) - 0.5)) for pair in common]
    out = agreement.two(*map(sign, labels))
    shown = "agreement {:.3f}, kappa {:.3f}, AC1 {:.3f}".format(*out)
    yield f"{first} and {second}: {shown} of {len(common)} pairs"


def _of_criteria(of: study.Study, rows: Rows) -> Iterator[str]:
    for criterion in of.rubric.criteria:
        scores = collections.defaultdict(dict)
        for row in rows:
            for end in ("arm", "base"):
                level = (getattr(row, f"{end}_scores") or {}).get(criterion.id)
                if level is not None:
                    scores[_name(row)][row.pair, end] = level
        units = sorted({unit for own in scores.values() for unit in own}, key=str)
        table = [[own.get(unit, np.nan) for unit in units] for own in scores.values()]
        try:
            scale = "interval" if criterion.range else "ordinal"
            out = agreement.krippendorff_interval(table, scale, draws=500)
        except ValueError:  # no two of them judged the same
            continue
        poor = "" if out["mean"] >= POOR else "; too low to decide anything by"
        all_gave = [u for u in units if all(u in own for own in scores.values())]
        levels = ", ".join(
            f"{judge} {np.mean([own[u] for u in all_gave]):.2f}"
            for judge, own in scores.items()
            if all_gave
        )
        yield (
            f"{criterion.id}: alpha {out['mean']:.3f} ({out['low']:.3f} to "
            f"{out['high']:.3f}) of {out['count']} answers{poor}"
            + (f"; mean level {levels}" if levels else "")
        )
