# SPDX-License-Identifier: Apache-2.0
"""The DPO family: any loss of responses' log-probabilities, or a sum of several.

A batch-coupled loss has its statistic taken over the whole global batch: here, where
the batch is in one piece; else `step` gathers what `observe` sees of every piece, asks
`statistic`, and hands each piece its part. So neither changes what is learned.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from alignjax import errors, trees
from alignjax.losses import catalogue, mixtures
from alignjax.objectives import inputs, logprobs, pair_metrics, responses, router
from alignjax.types import Frozen, LogProbs, Mean, Model, Objective, Responses

KINDS = ("preference", "unpaired", "ranked")
# What stored log-probabilities cannot tell: the first compares whole distributions, the
# second is of a prompt and a response that only a batch brings together.
NOT_STORED = ("reference_kl", "mismatched")


class Seen(NamedTuple):
    """What a loss needs to know of a batch, flat over its groups.

    Attributes:
      policy, reference: `LogProbs` [G, K], or [G] of labelled responses; the reference
        is None where the loss asks none.
      weight: float32 [G], what each group counts.
      inputs: further arguments of the loss, arrays with a leading G.
    """

    policy: LogProbs
    reference: LogProbs | None
    weight: jax.Array
    inputs: dict[str, jax.Array]


class Asked(NamedTuple):
    """What is to be learned: the terms of the loss, and what they ask for together."""

    terms: tuple[mixtures.Term, ...]
    traits: catalogue.Traits
    values: tuple[str, ...]  # of a batch, that there must be
    scale: float  # of the rewards that are reported


def make(
    model: Model,
    *,
    loss: str | None = None,
    mixture: dict | None = None,
    chunk: int = logprobs.CHUNK,
    **options,
) -> Objective:
    """The weighted mean over groups of a loss of their responses.

    Args:
      model: the policy.
      loss: a name in `catalogue.PREFERENCE`, `UNPAIRED` or `RANKED`, or
        `module:function`; "dpo" where there is no mixture either.
      mixture: several preference losses, `{loss: weight}` or
        `{loss: {"weight": w, option: value}}`, instead of one.
      chunk: positions whose logits exist at one time; see `logprobs.token_logps`.
      **options: of the loss.

    The reference's log-probabilities are those that the batch has, else those of
    `frozen.reference`. Metrics: `comparisons`; `entropy`, nats a token of the
    responses; `loss/at_reference`, the loss were the policy the reference;
    `kl/reference`, KL(reference || policy) in nats a token of the responses, where the
    reference itself is there, in evaluations and for the losses that need it;
    `term/<name>`, each term of a mixture before its weight; `kl/baseline`, the
    statistic of KTO, and `statistic/<name>`, that of others that have one number; those
    of `router.add` where the policy has experts.

    Raises:
      ConfigError: an unknown loss, or options that it does not take.
    """
    if chunk < 1:
        raise errors.ConfigError(f"chunk: {chunk} must be at least 1")
    terms = _terms(loss, mixture, options)
    traits = mixtures.traits(terms)
    asked = Asked(terms, traits, mixtures.required_values(terms), _scale(terms))

    def observe(params, frozen: Frozen, batch: Responses, key):
        observed = {}
        if traits.coupled:
            seen, found = _read(model, asked, chunk, params, frozen, batch, key)
            observed["seen"] = responses.ungrouped(seen, batch.weights.shape)
            routing = found.routing
        else:
            params = trees.merge(params, frozen.base)
            _, routing = model.routing(params, responses.rows(batch), key)
        if router.learns(model):
            observed["router"] = router.observe(routing, batch.weights.sum(-1))
        return observed

    def statistic(observed):
        made = {}
        if "router" in observed:
            made["router"] = router.statistic(observed["router"])
        if "seen" in observed:
            seen = observed["seen"]
            shape = seen.weight.shape
            found = _statistics(asked, responses.groups(seen))
            keep = lambda x: responses.ungrouped(x, shape) if x.ndim else x
            # The reference need not be asked a second time.
            made |= {"reference": seen.reference, "of": jax.tree.map(keep, found)}
        return made

    def objective(params, frozen: Frozen, batch: Responses, key, statistic=None):
        known, found, statistic = None, None, statistic or {}
        if "of" in statistic:
            known = responses.groups(statistic["reference"])
            merge = lambda x: responses.groups(x) if x.ndim else x
            found = jax.tree.map(merge, statistic["of"])
        seen, tokens = _read(
            model, asked, chunk, params, frozen, batch, key, known=known
        )
        entropy_GK = responses.total_of(batch, tokens.entropy)
        entropy_G = entropy_GK[:, 0] if traits.data == "labels" else entropy_GK.sum(-1)
        if traits.coupled and found is None:
            found = _statistics(asked, lax.stop_gradient(seen))
        of = lambda x_G: pair_metrics.mean(x_G, seen.weight)
        loss_G, terms_G = _evaluate(asked, seen, found and found["policy"])
        metrics = _metrics(asked, lax.stop_gradient(seen), entropy_G)
        if mixture:
            metrics |= {f"term/{name}": of(x_G) for name, x_G in terms_G.items()}
        if traits.reference:
            at = seen._replace(policy=_at_reference(seen))
            metrics["loss/at_reference"] = of(
                _evaluate(asked, at, found and found["reference"])[0]
            )
        for name, x in ((found or {}).get("policy") or {}).items():
            if isinstance(x, jax.Array) and x.ndim == 0:
                kto = "mismatched" in traits.needs
                name = "kl/baseline" if kto else f"statistic/{name}"
                metrics[name] = of(jnp.broadcast_to(x, seen.weight.shape))
        metrics = lax.stop_gradient(metrics)
        known = statistic.get("router")
        return router.add(model, tokens.routing, of(loss_G), metrics, known)

    observed = traits.coupled or router.learns(model)
    return Objective(
        objective,
        observe=observe if observed else None,
        statistic=statistic if observed else None,
        derive=pair_metrics.margins if traits.data == "labels" else None,
        data=traits.data,
        mismatched="mismatched" in traits.needs,
        values=asked.values,
        reference=traits.reference,
        unstored=_unstored(traits),
    )


def _terms(loss, mixture, options) -> tuple[mixtures.Term, ...]:
    """The terms of a mixture; a loss of its own is a mixture of one."""
    if mixture:
        problems = [f"{name}: give it to the terms of the mixture" for name in options]
        if loss is not None:
            problems.append(f"loss: {loss!r} beside a mixture; one of them is None")
        if problems:
            raise errors.ConfigError(problems)
        return mixtures.build(mixture, "mixture")
    name = "dpo" if loss is None else loss
    function = find(name)
    if (data := catalogue.traits(function).data) not in pair_metrics.MEASURES:
        raise errors.ConfigError(
            f"loss: {name} is of {data}; preferences have "
            f"{', '.join(pair_metrics.MEASURES)}"
        )
    try:
        bound = catalogue.bind(function, options, "")
    except errors.ConfigError as error:
        problems = [f"{problem} (loss {name!r})" for problem in error.problems]
        raise errors.ConfigError(problems) from error
    return (mixtures.Term(name, 1.0, bound),)


def find(name: str) -> Callable:
    """The loss of this name among `KINDS`, or at `module:function`; ConfigError."""
    return catalogue.find(name, *KINDS)


def _scale(terms) -> float:
    """The beta of the first term that has one; RSO calls it gamma; else 1."""
    for term in terms:
        options = term.function.keywords
        has_beta = options.get("beta") is not None
        if has_beta or catalogue.traits(term.function).reference:
            beta = options["beta"] if has_beta else options.get("gamma")
            if beta is not None:
                return beta
    return 1.0


def _read(
    model: Model,
    asked: Asked,
    chunk: int,
    params,
    frozen: Frozen,
    batch: Responses,
    key,
    known: LogProbs | None = None,
) -> tuple[Seen, logprobs.Tokens]:
    """What the models say of a batch, and what the policy says of its tokens.

    `known` is what the reference says, where that was read before.
    """
    traits = asked.traits
    _check(asked, frozen, batch)
    params = trees.merge(params, frozen.base)
    needs = traits.needs
    if key is None and traits.reference and batch.reference is None:
        # An evaluation has the time to compare whole distributions.
        needs = tuple(dict.fromkeys((*needs, "reference_kl")))
    compares = "reference_kl" in needs
    sequences = responses.rows(batch)
    read = functools.partial(logprobs.tokens, model, chunk=chunk)
    found = read(
        params,
        sequences,
        key,
        needs=("entropy", *needs),
        reference=frozen.reference if compares else None,
    )
    policy = _view(traits, responses.summed(batch, found, needs))
    reference = known
    if traits.reference and known is None:
        if compares:
            tokens = logprobs.Tokens(found.reference_logp)
        elif batch.reference is not None and not _unstored(traits):
            tokens = logprobs.Tokens(batch.reference)
        else:
            tokens = read(lax.stop_gradient(frozen.reference), sequences)
        wanted = tuple(n for n in traits.needs if n in responses.CHOICES)
        reference = _view(traits, responses.summed(batch, tokens, wanted))
        reference = lax.stop_gradient(reference)
    weight_G = responses.groups(batch.weights)
    arguments = inputs.of(batch, traits.inputs, asked.values)
    return Seen(policy, reference, weight_G, arguments), found


def _unstored(traits: catalogue.Traits) -> tuple[str, ...]:
    return tuple(name for name in NOT_STORED if name in traits.needs)


def _check(asked: Asked, frozen: Frozen, batch: Responses) -> None:
    """Raises ConfigError where the loss cannot be had of this; when it is traced."""
    traits, K = asked.traits, batch.lengths.shape[-1]
    names = ", ".join(term.name for term in asked.terms)
    if traits.reference and frozen.reference is None:
        if batch.reference is None:
            raise errors.ConfigError(
                f"loss: {names} compares with a reference, and there is none: neither "
                "a model nor stored log-probabilities"
            )
        if unstored := _unstored(traits):
            raise errors.ConfigError(
                f"loss: {names} needs {', '.join(unstored)} of the reference, which "
                "stored log-probabilities cannot tell; set reference.store = False"
            )
    paired = traits.data == "pairs"
    if K != 2 and (paired or "mismatched" in traits.needs):
        what = "pairs" if paired else "each response with a mismatched one"
        raise errors.ConfigError(
            f"loss: {names} is of {what}, and the batch has groups of {K}"
        )


def _view(traits: catalogue.Traits, found: LogProbs) -> LogProbs:
    """As losses of this kind of data take them: the first one of labelled responses."""
    if traits.data != "labels":
        return found
    own = jax.tree.map(lambda x_GK: x_GK[:, 0], found)
    if "mismatched" in traits.needs:
        own = own.replace(mismatched=found.total[:, 1])
    return own


def _evaluate(asked: Asked, seen: Seen, statistic):
    """The loss of each group, float32 [G], and that of each term."""
    return mixtures.evaluate(
        asked.terms, seen.policy, seen.reference, statistic=statistic, **seen.inputs
    )


def _statistics(asked: Asked, seen: Seen) -> dict[str, Any]:
    """The statistics of the batch: as it is, and were the policy the reference."""
    measure = lambda policy: mixtures.measure(
        asked.terms, policy, seen.reference, weight_B=seen.weight, **seen.inputs
    )
    found = {"policy": measure(seen.policy)}
    if asked.traits.reference:
        found["reference"] = measure(_at_reference(seen))
    return found


def _at_reference(seen: Seen) -> LogProbs:
    """The policy were it the reference; its sums of p^2 stay, which no store has."""
    policy, reference = lax.stop_gradient((seen.policy, seen.reference))
    fields = ("total", "head", "sample", "mismatched")
    moved = policy.replace(**{name: getattr(reference, name) for name in fields})
    if policy.reference_kl is None:
        return moved
    return moved.replace(reference_kl=jnp.zeros_like(policy.reference_kl))


def _metrics(asked: Asked, seen: Seen, entropy_G) -> dict[str, Mean]:
    policy, reference = seen.policy, seen.reference
    reward = pair_metrics.rewards(
        policy, reference, asked.scale, asked.traits.normalised
    )
    metrics = pair_metrics.MEASURES[asked.traits.data](
        policy, reference, reward, seen.weight, seen.inputs
    )
    length_G = policy.length.reshape(len(seen.weight), -1).sum(-1)
    tokens = lambda x_G: Mean(
        pair_metrics.mean(x_G, seen.weight).total,
        pair_metrics.mean(length_G, seen.weight).total,
    )
    metrics["entropy"] = tokens(entropy_G)
    if policy.reference_kl is not None:
        metrics["kl/reference"] = tokens(
            policy.reference_kl.reshape(len(seen.weight), -1).sum(-1)
        )
    return metrics
