# SPDX-License-Identifier: Apache-2.0
"""The DPO family: any loss of responses' log-probabilities, or a sum of several.

A batch-coupled loss has a statistic of the whole global batch. Where that is cut into
microbatches, `training.step` gathers what `observe` returns for each, combines it, and
passes each microbatch its part.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from alignjax import errors, trees
from alignjax.losses import catalogue
from alignjax.objectives import chunks, logprobs, metrics
from alignjax.types import (
    BatchStatistic,
    Frozen,
    LogProbs,
    Mean,
    Model,
    Needs,
    Objective,
    Responses,
)

KINDS = ("preference", "unpaired", "ranked")
# Reference quantities that cannot be precomputed: the first compares whole
# distributions, the second is of a prompt and a response that only a batch joins.
NOT_STORED = ("reference_kl", "mismatched")


class Arguments(NamedTuple):
    """The arguments of a loss, flat over the groups of a batch.

    Attributes:
      policy, reference: `LogProbs` [G, K], or [G] of labelled responses; the reference
        is None where the loss needs none.
      weight: float32 [G], what each group counts.
      inputs: further arguments, arrays with a leading G.
    """

    policy: LogProbs
    reference: LogProbs | None
    weight: jax.Array
    inputs: dict[str, jax.Array]


def make(
    model: Model,
    *,
    loss: str | None = None,
    mixture: dict | None = None,
    chunk: chunks.Chunk = "auto",
    **options,
) -> Objective:
    """The weighted mean over groups of a loss of their responses.

    Args:
      model: the policy.
      loss: a name in `catalogue.PREFERENCE`, `UNPAIRED` or `RANKED`, or
        `module:function`; "dpo" where there is no mixture either.
      mixture: several preference losses, `{loss: weight}` or
        `{loss: {"weight": w, option: value}}`, instead of one.
      chunk: tokens whose logits exist at one time on a device, or "auto"; see
        `chunks.size`.
      **options: of the loss.

    The reference log-probs are those of the batch, else of `frozen.reference`. Metrics:
    `metrics.PREFERENCES`; `entropy`, nats a token of the responses; `kl/reference`,
    KL(reference || policy) in nats a token, in evaluations with a reference model and
    for the losses that need it; `term/<name>`, each term of a mixture before its
    weight; `kl/baseline`, the statistic of KTO, and `statistic/<name>`, that of others
    that are one number.

    Raises:
      ConfigError: an unknown loss, or options that it does not take.
    """
    terms = _terms(loss, mixture, options)
    function = catalogue.combine(terms) if mixture else terms[0].function
    traits, scale = catalogue.traits(function), _reward_scale(terms)
    values = {v for t in terms for v in catalogue.required_values(t.function)}
    needs = Needs(
        data=traits.data,
        values=tuple(sorted(values)),
        mismatched="mismatched" in traits.needs,
        reference=traits.reference,
        unstored=tuple(field for field in NOT_STORED if field in traits.needs),
    )
    arguments = functools.partial(_arguments, model, traits, needs, chunk)

    def measure(args: Arguments):
        args = lax.stop_gradient(args)
        return catalogue.measure(
            function, args.policy, args.reference, weight_B=args.weight, **args.inputs
        )

    def observe(params, frozen: Frozen, batch: Responses, key, train: bool):
        args, _ = arguments(params, frozen, batch, key, train)
        return logprobs.unflatten_groups(args, batch.weights.shape)

    def combine(args: Arguments):
        measured = measure(logprobs.flatten_groups(args))
        measured = logprobs.unflatten_groups(measured, args.weight.shape)
        # With the reference log-probs, which are not computed again.
        return {"reference": args.reference, "measured": measured}

    def objective(params, frozen, batch: Responses, key, train, statistic=None):
        whole = logprobs.flatten_groups(statistic or {})
        args, entropy_G = arguments(
            params, frozen, batch, key, train, whole.get("reference")
        )
        inputs, measured = args.inputs, None
        if traits.coupled:
            measured = whole["measured"] if whole else measure(args)
            inputs = inputs | {"statistic": measured}
        value = function(args.policy, args.reference, **inputs)
        loss_G, terms_G = value if mixture else (value, {})
        mean = lambda x_G: Mean.of(x_G, args.weight)
        reported = _metrics(traits, scale, lax.stop_gradient(args), entropy_G)
        reported |= {f"term/{name}": mean(x_G) for name, x_G in terms_G.items()}
        statistics = (measured or {}) if mixture else {terms[0].name: measured}
        for name, x in statistics.items():
            if isinstance(x, jax.Array) and x.ndim == 0:
                metric = "kl/baseline" if needs.mismatched else f"statistic/{name}"
                reported[metric] = mean(jnp.broadcast_to(x, args.weight.shape))
        return mean(loss_G), lax.stop_gradient(reported)

    statistic = BatchStatistic(observe, combine) if traits.coupled else None
    return Objective(objective, statistic, needs)


def _terms(loss, mixture, options) -> tuple[catalogue.Term, ...]:
    """The terms of a mixture, or the one loss with its options."""
    if mixture:
        problems = [f"{name}: give it to the terms of the mixture" for name in options]
        if loss is not None:
            problems.append(f"loss: {loss!r} beside a mixture; one of them is None")
        if problems:
            raise errors.ConfigError(problems)
        return catalogue.bind_mixture(mixture, "mixture")
    name = "dpo" if loss is None else loss
    function = catalogue.find(name, *KINDS)
    if (data := catalogue.traits(function).data) not in metrics.PREFERENCES:
        raise errors.ConfigError(
            f"loss: {name} is of {data}; preferences have "
            f"{', '.join(metrics.PREFERENCES)}"
        )
    try:
        bound = catalogue.bind(function, options, "")
    except errors.ConfigError as error:
        problems = [f"{problem} (loss {name!r})" for problem in error.problems]
        raise errors.ConfigError(problems) from error
    return (catalogue.Term(name, 1.0, bound),)


def _reward_scale(terms: Iterable[catalogue.Term]) -> float:
    """The scale of the reported rewards: the first beta, or RSO's gamma; else 1."""
    for term in terms:
        options = term.function.keywords
        scale = options.get("beta")
        if scale is None and catalogue.traits(term.function).reference:
            scale = options.get("gamma")
        if scale is not None:
            return scale
    return 1.0


def _arguments(
    model: Model,
    traits: catalogue.Traits,
    needs: Needs,
    chunk: chunks.Chunk,
    params,
    frozen: Frozen,
    batch: Responses,
    key,
    train: bool,
    reference: LogProbs | None = None,
) -> tuple[Arguments, jax.Array]:
    """The arguments of the loss, and the policy's entropy summed over each group, [G].

    Args:
      reference: the reference log-probs, where they have been computed before.

    Raises:
      ConfigError: the batch does not have what the loss needs; at tracing.
    """
    _check(needs, frozen, batch)
    fields = traits.needs  # optional ones of `LogProbs`
    if not train and needs.reference and batch.reference is None:
        # An evaluation has the time to compare whole distributions.
        fields = (*fields, "reference_kl")
    compares = "reference_kl" in fields
    sequences = logprobs.flatten_sequences(batch)
    tokens = functools.partial(logprobs.tokens, model, chunk=chunk)
    policy_tokens = tokens(
        trees.merge(params, frozen.base),
        sequences,
        key,
        needs=("entropy", *fields),
        reference=frozen.reference if compares else None,
    )
    policy = logprobs.response_logprobs(batch, policy_tokens, fields)
    entropy_GK = logprobs.response_sums(batch, policy_tokens.entropy)
    if needs.reference and reference is None:
        if compares:
            reference_tokens = logprobs.Tokens(policy_tokens.reference_logp)
        elif batch.reference is not None and not needs.unstored:
            reference_tokens = logprobs.Tokens(batch.reference)
        else:
            reference_tokens = tokens(lax.stop_gradient(frozen.reference), sequences)
        reference = logprobs.response_logprobs(batch, reference_tokens, traits.needs)
        reference = lax.stop_gradient(_by_example(needs, reference))
    args = Arguments(
        _by_example(needs, policy),
        reference,
        logprobs.flatten_groups(batch.weights),
        loss_inputs(batch, traits.inputs, needs.values),
    )
    labels = needs.data == "labels"
    return args, entropy_GK[:, 0] if labels else entropy_GK.sum(-1)


def _check(needs: Needs, frozen: Frozen, batch: Responses) -> None:
    if needs.reference and frozen.reference is None:
        if batch.reference is None:
            raise errors.ConfigError(
                "objective.loss: it compares with a reference, and there is neither a "
                "reference model nor stored log-probabilities"
            )
        if needs.unstored:
            raise errors.ConfigError(
                f"objective.loss: it needs {', '.join(needs.unstored)} of the "
                "reference, which cannot be stored; set reference.store = False"
            )
    K = batch.lengths.shape[-1]
    if K != 2 and (needs.data == "pairs" or needs.mismatched):
        pairs = "each response with a mismatched one" if needs.mismatched else "pairs"
        raise errors.ConfigError(
            f"objective.loss: it is of {pairs}, and the batch has groups of {K}"
        )


def loss_inputs(
    batch: Responses, arguments: Iterable[str], required: Iterable[str] = ()
) -> dict[str, jax.Array]:
    """Arguments of a loss that are arrays of the batch: [G], [G, K] or [G, A].

    An argument such as `gap_B` is `batch.values["gap"]`; the presence of responses and
    of ratings follows from the batch itself, as in `catalogue.FROM_BATCH`.

    Args:
      batch: its values of groups that count nothing are replaced by ones, so that no
        loss meets a gap of 0 there.
      arguments: the `inputs` of the loss's traits; those that the batch lacks are left
        out.
      required: `catalogue.required_values` of the loss.

    Raises:
      ConfigError: the batch lacks a required value; at tracing.
    """
    if missing := [name for name in required if name not in batch.values]:
        raise errors.ConfigError(
            f"objective.loss: it takes {', '.join(missing)} of each example, and the "
            f"data has {', '.join(batch.values) or 'no values'}; choose other data or "
            "a loss that needs none"
        )
    counts_G = logprobs.flatten_groups(batch.weights) > 0
    inputs = {}
    for argument in arguments:
        name = catalogue.value_name(argument)
        if argument == "present_BK":
            inputs[argument] = logprobs.flatten_groups(batch.lengths) > 0
        elif argument == "present_BA":  # an attribute that was not rated is NaN
            target_GA = logprobs.flatten_groups(batch.values["target"])
            inputs[argument] = ~jnp.isnan(target_GA)
        elif argument not in catalogue.FROM_BATCH and name in batch.values:
            x = logprobs.flatten_groups(batch.values[name])
            counts = counts_G.reshape(-1, *(1,) * (x.ndim - 1)) & ~jnp.isnan(x)
            x = jnp.where(counts, x, 1.0)
            inputs[argument] = x > 0.5 if name == "desirable" else x
    return inputs


def _by_example(needs: Needs, logps: LogProbs) -> LogProbs:
    """As losses take them: [G, K], or [G] of labelled responses, which stand first."""
    if needs.data != "labels":
        return logps
    first = jax.tree.map(lambda x_GK: x_GK[:, 0], logps)
    return first.replace(mismatched=logps.total[:, 1]) if needs.mismatched else first


def _metrics(
    traits: catalogue.Traits, scale: float, args: Arguments, entropy_G
) -> Mapping[str, Mean]:
    policy, reference, weight_G, inputs = args
    reward = metrics.implicit_rewards(policy, reference, scale, traits.normalised)
    reported = metrics.PREFERENCES[traits.data](
        policy, reference, reward, weight_G, inputs
    )
    of_group = lambda x: x.reshape(len(weight_G), -1).sum(-1)
    total = lambda x_G: Mean.of(x_G, weight_G).total
    of_token = lambda x_G: Mean(total(x_G), total(of_group(policy.length)))
    reported["entropy"] = of_token(entropy_G)
    if policy.reference_kl is not None:
        reported["kl/reference"] = of_token(of_group(policy.reference_kl))
    return reported
