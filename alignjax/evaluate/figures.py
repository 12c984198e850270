# SPDX-License-Identifier: Apache-2.0
"""All figures of an evaluation, from its rows alone; nothing is computed by a model.

A figure is `{"data", "run", "metric", "title", "share", "mean", "low", "high", "count",
"base", "difference"}`: JSON data with 95 % intervals over prompts, and the difference
from the first run that has it, `base`, on the prompts that both answered.
"""

from __future__ import annotations

import collections
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from alignjax.evals import best_of_n, by_prompt, diversity, preferences, rows

GROUP = 8  # answers to different prompts that are compared for diversity
REWARD = "reward."  # before the names of reward models, in components

# Of every metric its title; shares are printed in percent.
SHARES = {
    "accuracy": "prefers what was chosen, by reward",
    "implicit_accuracy": "prefers what was chosen, by implicit reward",
    "logp_accuracy": "prefers what was chosen, by log-prob",
    "longer": "prefers the longer one, by reward",
    "implicit_longer": "prefers the longer one, by implicit reward",
    "logp_longer": "prefers the longer one, by log-prob",
    "longer_chosen": "the longer one was chosen",
    "refusal": "unsafe prompts refused",
    "over_refusal": "safe prompts refused",
    "right": "right answers",
    "recall": "facts recalled",
    "wrong": "wrong without a doubt",
    "abstention": "unknowable: admits it",
    "fabrication": "unknowable: makes it up",
    "format": "rules of format followed",
    "finished": "answers that end by themselves",
    "distinct_1": "distinct words",
    "distinct_2": "distinct pairs of words",
    "self_bleu": "likeness of answers (self-BLEU)",
}
OTHERS = {
    "bits_per_byte": "bits a byte",
    "perplexity": "perplexity of a token",
    "loss": "loss of a pair, nats (chance 0.693)",
    "implicit_loss": "loss of a pair by implicit reward, nats (chance 0.693)",
    "gold": "true reward",
    "kl": "KL from the reference, nats an answer",
    "reverse_kl": "KL of the reference from it, nats an answer",
    "tokens": "tokens an answer",
    "words": "words an answer",
    "entropy": "entropy of a token, nats",
    "word_entropy": "entropy of words, nats",
}
TITLES = {**SHARES, **OTHERS}

Answers = Sequence[rows.Answer]
By = dict[str, by_prompt.Values]


class Measured(NamedTuple):
    """The rows of one run on one dataset.

    Attributes:
      run, data, kind: names, and the kind of dataset.
      answers: see `measuring`.
      suite: of prompts, what each asks for.
      reverse: the reference's answers with its divergence from this run.
      beta: of the run's objective, which scales implicit rewards.
    """

    run: str
    data: str
    kind: str
    answers: Answers
    suite: Sequence[Mapping[str, Any]] = ()
    reverse: Answers = ()
    beta: float | None = None


def title(metric: str) -> str:
    """A metric in words."""
    if metric.startswith(REWARD):
        return f"reward by {metric.removeprefix(REWARD)}"
    return TITLES[metric]


def of(measured: Measured) -> By:
    """The metrics of a run on a dataset, by prompt."""
    return _OF[measured.kind](measured)


def table(measured: Sequence[Measured]) -> list[dict[str, Any]]:
    """All figures: of each dataset, then of each metric, of every run that has it.

    The first run that has a metric is what the others differ from.
    """
    by_data: dict[str, dict[str, dict[str, by_prompt.Values]]] = {}
    for one in measured:
        metrics = by_data.setdefault(one.data, {})
        for name, values in of(one).items():
            if values.totals:
                metrics.setdefault(name, {})[one.run] = values
    order = list(TITLES)
    place = lambda name: order.index(name) if name in order else len(order)
    return [
        _figure(data, name, run, values, *next(iter(runs.items())))
        for data, metrics in by_data.items()
        for name, runs in sorted(metrics.items(), key=lambda item: place(item[0]))
        for run, values in runs.items()
    ]


def _figure(data, name, run, values, base, of_base) -> dict[str, Any]:
    figure = by_prompt.interval(values)
    change = None if run == base else by_prompt.difference(of_base, values)
    if name == "perplexity":  # of which there are ratios, and not differences
        figure, change = by_prompt.exponential(figure), None
    fields = {"data": data, "run": run, "metric": name, "title": title(name)}
    more = {"share": values.share, "base": base, "difference": change}
    return {**fields, **figure, **more}


# Texts.


def _of_texts(measured: Measured) -> By:
    bits = {a.prompt: -a.logp / math.log(2) for a in measured.answers}
    size = {a.prompt: a.components["bytes"] for a in measured.answers}
    nats = {a.prompt: -a.logp for a in measured.answers}
    tokens = {a.prompt: a.tokens for a in measured.answers}
    return {
        "bits_per_byte": by_prompt.Values(bits, size),
        "perplexity": by_prompt.Values(nats, tokens),
    }


# Pairs.


class Gaps(NamedTuple):
    """What a run makes of pairs: by prompt, the chosen one's score less the other's."""

    gaps: dict[int, float]
    lengths: dict[int, tuple[int, int]]


def gaps(measured: Measured) -> dict[str, Gaps]:
    """Gaps of pairs by what they are gaps of: rewards, implicit rewards, log-probs."""
    by_sample: dict[int, dict[int, rows.Answer]] = {}
    for answer in measured.answers:
        by_sample.setdefault(answer.prompt, {})[answer.sample] = answer
    pairs = {p: (x[0], x[1]) for p, x in sorted(by_sample.items()) if len(x) == 2}
    lengths = {p: (a.tokens, b.tokens) for p, (a, b) in pairs.items()}
    beta = 1.0 if measured.beta is None else measured.beta
    scores: dict[str, Callable[[rows.Answer], float | None]] = {
        "accuracy": lambda a: a.reward,
        "implicit_accuracy": lambda a: (
            None if a.ref_logp is None else beta * (a.logp - a.ref_logp)
        ),
        "logp_accuracy": lambda a: a.logp if a.reward is None else None,
    }
    out = {}
    for name, score in scores.items():
        both = {p: [score(a) for a in pair] for p, pair in pairs.items()}
        if pairs and None not in {x for each in both.values() for x in each}:
            out[name] = Gaps({p: a - b for p, (a, b) in both.items()}, lengths)
    return out


def _of_pairs(measured: Measured) -> By:
    out: By = {}
    for name, (by, lengths) in gaps(measured).items():
        prompts, values_N = list(by), np.array([*by.values()])
        chosen, rejected = zip(*lengths.values(), strict=True)
        unequal, scores, people = preferences.longer_wins(values_N, chosen, rejected)
        longer = [prompts[i] for i in unequal]
        shares = {
            name: (prompts, preferences.wins(values_N)),
            name.replace("accuracy", "longer"): (longer, scores),
            "longer_chosen": (longer, people),
        }
        for metric, (own, values) in shares.items():
            totals = dict(zip(own, values.tolist(), strict=True))
            out[metric] = by_prompt.Values(totals, share=True)
        if name != "logp_accuracy":  # which is no probability of a preference
            losses = preferences.losses(values_N).tolist()
            totals = dict(zip(prompts, losses, strict=True))
            out[name.replace("accuracy", "loss")] = by_prompt.Values(totals)
    return out


def calibrations(measured: Sequence[Measured]) -> list[dict[str, Any]]:
    """Of every run on pairs `preferences.calibration` and `slope`."""
    out = []
    for one in measured:
        named = gaps(one) if one.kind == "pairs" else {}
        for name in ("accuracy", "implicit_accuracy"):
            if name not in named:
                continue
            values = [*named[name].gaps.values()]
            slope = preferences.slope(values)
            fields = {"data": one.data, "run": one.run, "by": name, "beta": one.beta}
            fields |= {"slope": slope and slope._asdict(), "count": len(values)}
            out.append(fields | preferences.calibration(values))
    return out


# Prompts.


def _of_prompts(measured: Measured) -> By:
    answers, suite = measured.answers, measured.suite
    clusters = {a.prompt: a.cluster for a in answers if a.cluster is not None}

    def values(of: Callable[[rows.Answer], float | None], share=False, own=answers):
        by: dict[int, list[float]] = {}
        for answer in own:
            if (value := of(answer)) is not None:
                by.setdefault(answer.prompt, []).append(float(value))
        means = {p: sum(x) / len(x) for p, x in sorted(by.items())}
        return by_prompt.Values(means, clusters=clusters, share=share)

    asks = lambda a: suite[a.prompt]
    part = lambda name: lambda a: (a.components or {}).get(name)
    safe = lambda is_safe: (
        lambda a: part("refused")(a) if asks(a).get("safe") is is_safe else None
    )
    answerable = lambda a: bool(asks(a).get("answers")) and "right" in a.components
    unknowable = lambda a: asks(a).get("answers") == []
    doubt = lambda a: a.components["abstained"]
    metrics = {
        "refusal": safe(False),
        "over_refusal": safe(True),
        "right": lambda a: part("right")(a) if "number" in asks(a) else None,
        "recall": lambda a: part("right")(a) if answerable(a) else None,
        "wrong": lambda a: (
            float(not part("right")(a) and not doubt(a)) if answerable(a) else None
        ),
        "abstention": lambda a: doubt(a) if unknowable(a) else None,
        "fabrication": lambda a: 1 - doubt(a) if unknowable(a) else None,
        "format": part("format"),
        "finished": lambda a: a.finished,
        "gold": lambda a: a.gold,
        "kl": lambda a: a.kl,
        "tokens": lambda a: a.tokens,
        "words": lambda a: len(diversity.words(a.text)),
    }
    names = {n for a in answers for n in a.components or () if n.startswith(REWARD)}
    metrics |= {name: part(name) for name in sorted(names)}
    out = {name: values(of, name in SHARES) for name, of in metrics.items()}
    out["reverse_kl"] = values(lambda a: a.kl, own=measured.reverse)
    entropy, tokens = (collections.defaultdict(float) for _ in range(2))
    for answer in answers:
        entropy[answer.prompt] += answer.entropy
        tokens[answer.prompt] += answer.tokens
    out["entropy"] = by_prompt.Values(entropy, tokens, clusters)
    return out | _diversity(answers)


def _diversity(answers: Answers) -> By:
    """Of groups of answers: those to a prompt, or one each to GROUP prompts."""
    by: dict[int, list[str]] = {}
    for answer in answers:
        by.setdefault(answer.prompt, []).append(answer.text)
    if max(map(len, by.values()), default=0) > 1:
        groups = by
    else:
        prompts = sorted(by)
        starts = range(0, len(prompts) - GROUP + 1, GROUP)
        groups = {
            prompts[at]: [by[p][0] for p in prompts[at : at + GROUP]] for at in starts
        }
    out: By = {}
    for name, figure in {
        "distinct_1": lambda texts: diversity.distinct(texts, 1),
        "distinct_2": lambda texts: diversity.distinct(texts, 2),
        "self_bleu": diversity.self_bleu,
        "word_entropy": diversity.entropy,
    }.items():
        each = {p: value for p, x in groups.items() if (value := figure(x)) is not None}
        out[name] = by_prompt.Values(each, share=name in SHARES)
    return out


def best_of(measured: Sequence[Measured]) -> list[dict[str, Any]]:
    """Of runs with several samples a prompt, what the best of n by a reward brings.

    Curves `{"data", "run", "by", "of", "points": [{"n", "kl", "mean", ...}]}`, of the
    reward itself, the other rewards, the true one and right answers.
    """
    out = []
    for one in measured:
        by: dict[int, list[rows.Answer]] = {}
        for answer in one.answers if one.kind == "prompts" else ():
            by.setdefault(answer.prompt, []).append(answer)
        count = min(map(len, by.values()), default=0)
        names = sorted(
            {n for a in one.answers for n in a.components or () if n.startswith(REWARD)}
        )
        for chooser in names if count > 1 else ():
            for target in (*names, "gold", "right"):
                curve = _best_of(by, chooser, target, count)
                if curve:
                    fields = {"data": one.data, "run": one.run}
                    out.append(fields | {"by": chooser, "of": target, "points": curve})
    return out


def _best_of(by, chooser: str, target: str, count: int) -> list[dict[str, Any]]:
    value = lambda a, name: a.gold if name == "gold" else (a.components or {}).get(name)
    table_PS2 = {
        p: np.array([[value(a, chooser), value(a, target)] for a in x], float)
        for p, x in by.items()
        if all(None not in (value(a, chooser), value(a, target)) for a in x)
    }
    clusters = {p: x[0].cluster for p, x in by.items() if x[0].cluster is not None}
    sizes = sorted({2**k for k in range(count.bit_length()) if 2**k <= count} | {count})
    points = []
    for n in sizes if table_PS2 else ():
        own = {p: best_of_n.expected(x[:, 0], x[:, 1], n) for p, x in table_PS2.items()}
        figure = by_prompt.interval(by_prompt.Values(own, clusters=clusters))
        points.append({"n": n, "kl": best_of_n.divergence(n), **figure})
    return points


CURVE = ("gold", "right", "recall", "refusal", "over_refusal", "format", "tokens")


def curve(name: str, steps: Mapping[int, Measured]) -> dict[str, Any]:
    """Along the checkpoints of a run on one dataset: KL, rewards and gold by step.

    Over-optimisation is a reward that goes on rising where the true reward, or another
    measure of what is wanted, falls.
    """
    points = []
    for step, one in sorted(steps.items()):
        metrics = {
            metric: by_prompt.interval(values)
            for metric, values in of(one).items()
            if metric == "kl" or metric in CURVE or metric.startswith(REWARD)
        }
        points.append({"step": step, **{k: v for k, v in metrics.items() if v}})
    first = next(iter(steps.values()))
    return {"run": name, "data": first.data, "points": points}


_OF: dict[str, Callable[[Measured], By]] = {
    "texts": _of_texts,
    "pairs": _of_pairs,
    "prompts": _of_prompts,
}


def lines(figures: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """The figures for a terminal, a dataset after another."""
    last = None
    for one in figures:
        if (one["data"], one["title"]) != last:
            last = one["data"], one["title"]
            yield f"{one['data']}: {one['title']}"
        yield f"  {one['run']} {shown(one)}{_change(one)}"


def shown(figure: Mapping[str, Any]) -> str:
    """`0.612 (0.560 to 0.662) of 400`."""
    text = f"{figure['mean']:.3f}"
    if figure["low"] is not None:
        text += f" ({figure['low']:.3f} to {figure['high']:.3f})"
    return f"{text} of {figure['count']}"


def _change(figure: Mapping[str, Any]) -> str:
    change = figure["difference"]
    if change is None or change["low"] is None:
        return ""
    ends = f"{change['low']:+.3f} to {change['high']:+.3f}"
    return f"; {change['mean']:+.3f} ({ends})"
