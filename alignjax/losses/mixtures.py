# SPDX-License-Identifier: Apache-2.0
"""Sums of losses: those that have a name, and any other that a config spells out.

The likelihood of the chosen response is a loss like the rest, three ways: summed, a
token of its own response, and a token of the whole batch.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from alignjax import config, errors
from alignjax.bounds import NonNegative, Positive
from alignjax.losses import catalogue, links, preference, scores
from alignjax.types import LogProbs

loss = functools.partial(catalogue.register, catalogue.PREFERENCE)


def weighted_mean(x_B, weight_B=None):
    """The mean over the rows of a batch that count; 0 where none does."""
    if weight_B is None:
        return x_B.mean()
    return (x_B * weight_B).sum() / jnp.maximum(weight_B.sum(), 1e-9)


def mean_chosen_length(policy: LogProbs, reference, *, weight_B=None):
    """The statistic of `nll_token`: tokens of a chosen response, on average."""
    del reference
    return weighted_mean(policy.length[..., 0], weight_B)


def bco_pair_shift(policy, reference, *, beta, weight_B=None):
    """The statistic of `bco_pair`: [mean beta c + mean beta r]/2 over the batch."""
    reward_B2 = beta * scores.log_ratio(policy, reference)
    return weighted_mean(reward_B2.mean(-1), weight_B)


@loss(reference=False)
def nll(policy: LogProbs, reference: LogProbs | None):
    """Likelihood of the chosen response, as in arXiv:2203.02155: -log p(y_w)."""
    del reference
    return -policy.total[..., 0]


@loss(reference=False, normalised=True)
def nll_mean(policy, reference):
    """Likelihood of the chosen response, arXiv:2404.19733: -log p(y_w)/n_w."""
    del reference
    return -policy.mean[..., 0]


@loss(reference=False, statistic=mean_chosen_length)
def nll_token(policy, reference, *, statistic):
    """Likelihood of the chosen responses, TRL's `sft`, arXiv:2203.02155 a token.

    -log p(y_w)/(mean n_w), so that the mean over the batch is per token of the batch.
    """
    del reference
    length = jnp.maximum(jax.lax.stop_gradient(statistic), 1.0)
    return -policy.total[..., 0] / length


@loss(statistic=bco_pair_shift)
def bco_pair(policy, reference, *, statistic, beta: Positive = 0.01):
    """BCO of pairs, arXiv:2404.04656: -log s(beta c - d) - log s(d - beta r).

    The shift d is the mean reward over both sides; the authors keep a running mean of
    it, here it is this batch's.
    """
    score_B2 = scores.log_ratio(policy, reference)
    return links.bco(score_B2, beta, shift=jax.lax.stop_gradient(statistic))


@loss()
def rpo(policy, reference, *, beta: Positive = 0.01, eta: NonNegative = 0.005):
    """Regularised PO, arXiv:2405.16436: `dpo` - eta beta log p(y_w)."""
    nll_B = nll(policy, reference)
    return preference.dpo(policy, reference, beta=beta) + eta * beta * nll_B


@loss(statistic=mean_chosen_length)
def rpo_trl(
    policy,
    reference,
    *,
    statistic,
    beta: Positive = 0.01,
    eta: NonNegative = 0.005,
):
    """Regularised PO as in TRL, arXiv:2405.16436: `dpo` + eta `nll_token`."""
    nll_B = nll_token(policy, reference, statistic=statistic)
    return preference.dpo(policy, reference, beta=beta) + eta * nll_B


@loss()
def iterative_rpo(policy, reference, *, beta: Positive = 0.1, alpha: NonNegative = 1.0):
    """Iterative reasoning PO, arXiv:2404.19733: `dpo` - alpha log p(y_w)/n_w."""
    nll_B = nll_mean(policy, reference)
    return preference.dpo(policy, reference, beta=beta) + alpha * nll_B


@loss(statistic=bco_pair_shift)
def mpo(
    policy,
    reference,
    *,
    statistic,
    beta: Positive = 0.1,
    preference_weight: NonNegative = 0.8,
    quality_weight: NonNegative = 0.2,
    generation_weight: NonNegative = 1.0,
):
    """Mixed PO, arXiv:2411.10442: .8 `dpo` + .2 `bco_pair` + 1 `nll_mean`.

    As a mixture spelt out in a config its terms are also measured one by one.
    """
    quality_B = bco_pair(policy, reference, statistic=statistic, beta=beta)
    return (
        preference_weight * preference.dpo(policy, reference, beta=beta)
        + quality_weight * quality_B
        + generation_weight * nll_mean(policy, reference)
    )


WEIGHT = {"weight": config.Field(Positive, required=True)}


class Term(NamedTuple):
    """A part of a mixture: `weight` times the loss `function`, its options bound."""

    name: str
    weight: float
    function: Callable


def build(section: Mapping[str, Any], path: str) -> tuple[Term, ...]:
    """The terms of a mixture: `{loss: {"weight": w, option: value}}` or `{loss: w}`.

    Raises:
      ConfigError: an unknown loss, a weight or an option that it cannot have; all that
        is wrong at once.
    """
    terms, problems = [], []
    for name, given in section.items():
        given = dict(given) if isinstance(given, Mapping) else {"weight": given}
        try:
            weight = {"weight": given.pop("weight", None)}
            weight = config.fill(WEIGHT, weight, f"{path}.{name}")["weight"]
            function = catalogue.PREFERENCE.find(name)
            if (data := catalogue.traits(function).data) != "pairs":
                raise ValueError(f"{name} is of {data}; a mixture is of pairs")
            bound = catalogue.bind(function, given, f"{path}.{name}")
            terms.append(Term(name, weight, bound))
        except errors.ConfigError as error:
            problems += error.problems
        except ValueError as error:
            problems.append(f"{path}: {error}")
    if not section:
        problems.append(f"{path}: a mixture of nothing; name its losses and weights")
    if problems:
        raise errors.ConfigError(problems)
    return tuple(terms)


def combine(terms: Sequence[Term]) -> Callable:
    """The weighted sum of losses as one function with the traits of a loss.

    It is `(policy, reference, *, statistic, **inputs) -> (loss_B, {name: term_B})`:
    beside the sum it returns each term before its weight, float32 [B]. Its statistic is
    a dict of those of the batch-coupled terms, by name.
    """
    each = {term.name: catalogue.traits(term.function) for term in terms}
    together = lambda field: tuple(
        sorted({x for traits in each.values() for x in getattr(traits, field)})
    )

    def measure(policy, reference, **available):
        return {
            term.name: catalogue.measure(term.function, policy, reference, **available)
            for term in terms
            if each[term.name].coupled
        }

    def combined(policy, reference, *, statistic=None, **inputs):
        values = {}
        for term in terms:
            traits = each[term.name]
            arguments = {name: inputs[name] for name in traits.inputs if name in inputs}
            if traits.coupled:
                arguments["statistic"] = statistic[term.name]
            values[term.name] = term.function(policy, reference, **arguments)
        return sum(term.weight * values[term.name] for term in terms), values

    coupled = any(traits.coupled for traits in each.values())
    first = each[terms[0].name]
    combined.traits = catalogue.Traits(
        reference=any(traits.reference for traits in each.values()),
        needs=together("needs"),
        inputs=together("inputs"),
        statistic=measure if coupled else None,
        margin=all(traits.margin for traits in each.values()),
        data=first.data,
        normalised=first.normalised,
    )
    return combined
