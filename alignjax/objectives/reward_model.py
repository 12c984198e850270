# SPDX-License-Identifier: Apache-2.0
"""Reward models: scores of responses, learned from comparisons or from ratings.

A model has `members * attributes` heads on one trunk. Each member of the ensemble has a
loss of its own; metrics are of one score, reduced from all of them.
"""

from __future__ import annotations

from typing import Literal

import jax
import jax.numpy as jnp
from jax import lax

from alignjax import errors, trees
from alignjax.bounds import Count, NonNegative
from alignjax.losses import catalogue
from alignjax.objectives import logprobs, metrics, preference
from alignjax.types import Frozen, Mean, Model, Needs, Objective, Params, Responses

# P(X > n) of a Poisson variable of mean 1, for n from 0; there are no more than 7.
_MORE_THAN = (0.632121, 0.264241, 0.080301, 0.018988, 0.003660, 0.000594, 0.000083)


def make(
    model: Model,
    *,
    loss: str = "bradley_terry",
    pooling: Literal["last", "mean"] = "last",
    members: Count = 1,
    reduce: Literal["mean", "min", "penalised"] = "mean",
    penalty: NonNegative | None = None,
    bootstrap: bool = False,
    **options,
) -> Objective:
    """The weighted mean over groups, and over members, of a loss of scores.

    Args:
      model: with `members` heads, or `members` times the attributes that are rated.
      loss: a name in `catalogue.REWARD`, or `module:function`.
      pooling: see `score`.
      members: of an ensemble.
      reduce, penalty: how the reported score follows from the members'; see `reduced`.
      bootstrap: whether each member trains on its own sample of the groups, drawn with
        replacement: a group counts a Poisson number of times, of mean 1, that follows
        from its index. In evaluations all count once.
      **options: of the loss.

    Metrics: `metrics.SCORES`; `score/disagreement`, the deviation between members.

    Raises:
      ConfigError: an unknown loss, options that it does not take, or a model whose
        heads do not fit.
    """
    function = catalogue.find(loss, "reward")
    traits = catalogue.traits(function)
    if traits.data not in metrics.SCORES:
        raise errors.ConfigError(f"loss: {loss} is of {traits.data}, not of scores")
    attributes = _attributes(model, traits, loss, members)
    problems = []
    if (penalty is None) == (reduce == "penalised"):
        verb = "needs a" if penalty is None else "has no"
        problems.append(f"penalty: reduce={reduce!r} {verb} penalty")
    if bootstrap and members == 1:
        problems.append("bootstrap: of one member; it needs members of 2 or more")
    if problems:
        raise errors.ConfigError(problems)
    bound = catalogue.bind(function, options, "", scores=True)
    needs = Needs(
        data=traits.data, values=catalogue.required_values(bound), scores=True
    )

    def objective(params, frozen: Frozen, batch: Responses, key, train: bool):
        params = trees.merge(params, frozen.base)
        score_GKH = score(model, params, batch, key, pooling=pooling)
        G, K, _ = score_GKH.shape
        score_GKMA = score_GKH.reshape(G, K, members, attributes)
        inputs = preference.loss_inputs(batch, traits.inputs, needs.values)
        _check(traits, loss, K, inputs.get("target_BA"), members, attributes)
        of_group = lambda x_GKA: (
            x_GKA[:, 0] if traits.data == "ratings" else x_GKA[..., 0]
        )
        member_loss = lambda x_GKA: bound(of_group(x_GKA), **inputs)
        loss_GM = jax.vmap(member_loss, 2, 1)(score_GKMA)
        weight_G = logprobs.flatten_groups(batch.weights)
        weight_GM = jnp.broadcast_to(weight_G[:, None], (G, members))
        if bootstrap and train:
            weight_GM *= _copies(batch.index.reshape(-1), members)
        total = Mean.of(loss_GM, weight_GM)
        total = Mean(total.total / members, total.weight / members)

        score_GKMA = lax.stop_gradient(score_GKMA)
        score_GKA = reduced(score_GKMA, reduce, penalty)
        length_GK = logprobs.flatten_groups(batch.lengths).astype(jnp.float32)
        reported = metrics.SCORES[traits.data](
            score_GKA, length_GK > 0, length_GK, weight_G, inputs
        )
        if members > 1:
            spread_GKA = score_GKMA.std(2)
            weight_GK1 = jnp.where(length_GK > 0, weight_G[:, None], 0.0)[..., None]
            weight_GKA = jnp.broadcast_to(weight_GK1, spread_GKA.shape)
            reported["score/disagreement"] = Mean.of(spread_GKA, weight_GKA)
        return total, reported

    return Objective(objective, needs=needs)


def score(
    model: Model,
    params: Params,
    batch: Responses,
    key=None,
    *,
    pooling: Literal["last", "mean"] = "last",
) -> jax.Array:
    """The scores of each response, float32 [G, K, H]; 0 where there is none.

    Args:
      model, params: with heads for scores.
      batch: in any layout.
      key: turns dropout on.
      pooling: "last" takes the score where the response's last target is predicted,
        its terminator, after all else of the response; "mean" the mean over all targets
        of the response.
    """
    x_BTD = model.hidden(params, logprobs.flatten_sequences(batch), key)
    score_BTH = model.score(params, x_BTD)
    B, P, K = batch.lengths.shape
    responses = batch.responses
    if pooling == "last":
        responses = jnp.where(logprobs.is_last(batch), responses, 0)
    score_BXH = score_BTH.reshape(B, -1, score_BTH.shape[-1])
    of_BXN = responses.reshape(B, -1, 1) == 1 + jnp.arange(P * K)
    total_BNH = jnp.einsum(
        "BXN,BXH->BNH",
        of_BXN.astype(jnp.float32),
        score_BXH,
        precision=lax.Precision.HIGHEST,  # a choice among scores must not round them
    )
    count_BN1 = jnp.maximum(of_BXN.sum(1), 1)[..., None]
    return (total_BNH / count_BN1).reshape(B * P, K, -1)


def reduced(score_GKMA: jax.Array, how: str, penalty: float | None = None) -> jax.Array:
    """The members' scores as one, [G, K, A].

    Args:
      score_GKMA: `score` of M members with A attributes each.
      how: "mean", "min" (arXiv:2310.02743, worst case), or "penalised", which takes
        `penalty` standard deviations between members off the mean (ibid.,
        uncertainty-weighted, there with the variance).
      penalty: of "penalised".
    """
    if how == "min":
        return score_GKMA.min(2)
    mean_GKA = score_GKMA.mean(2)
    return mean_GKA if how == "mean" else mean_GKA - penalty * score_GKMA.std(2)


def _attributes(model: Model, traits: catalogue.Traits, loss: str, members: int) -> int:
    """How many scores each member gives. Raises ConfigError."""
    heads = model.config.score_heads
    if heads < 1 or heads % members:
        raise errors.ConfigError(
            f"members: {members} do not share model.score_heads = {heads} evenly; it "
            "is to be as many heads, or that times the attributes that are rated"
        )
    attributes = heads // members
    if attributes > 1 and traits.data != "ratings":
        raise errors.ConfigError(
            f"members: {members} of model.score_heads = {heads} have {attributes} "
            f"scores each, and {loss} compares one; set model.score_heads = {members}"
        )
    return attributes


def _check(
    traits: catalogue.Traits, loss: str, K: int, target_GA, members: int, attributes
) -> None:
    """Raises ConfigError, at tracing, for a batch of other groups or ratings."""
    size = {"pairs": 2, "ratings": 1}.get(traits.data, K)
    if size != K:
        raise errors.ConfigError(
            f"objective.loss: {loss} is of groups of {size}, and the batch has groups "
            f"of {K}"
        )
    if target_GA is not None and (A := target_GA.shape[-1]) != attributes:
        raise errors.ConfigError(
            f"model.score_heads: {members * attributes} give {attributes} scores for "
            f"each of objective.members = {members}, and the data rate {A}; set "
            f"model.score_heads = {members * A}"
        )


def _copies(index_G: jax.Array, members: int) -> jax.Array:
    """The count of each group in each member's sample, float32 [G, M]."""
    fold = jax.vmap(jax.random.fold_in, (None, 0))
    key_G = fold(jax.random.key(0), index_G)
    key_GM = jax.vmap(fold, (0, None))(key_G, jnp.arange(members))
    draw_GM = jax.vmap(jax.vmap(jax.random.uniform))(key_GM)
    return (draw_GM[..., None] < jnp.array(_MORE_THAN)).sum(-1).astype(jnp.float32)
