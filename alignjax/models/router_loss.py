# SPDX-License-Identifier: Apache-2.0
"""The loss of the routers of a model with experts, added to any objective.

The balance loss (arXiv:2101.03961 Eq. 4 to 6, for more than one expert a token) is
E sum_e f_e P_e, where f_e is how many choices of expert e there are for each token, and
P_e the mean probability of e, over the tokens of all rows and all layers together, as
transformers' `load_balancing_loss_func` has it. With J experts a token it is J where
all are used alike. No gradient goes through f. The z-loss (arXiv:2202.08906 Eq. 5) is
the mean of log(Z)^2 over tokens and layers.

f is of a microbatch by default. Of the whole batch, the update does not depend on the
number of microbatches; but f, and the weight that the objective's loss is divided by,
are then known only after a first pass over all of them (`BatchStatistic`), which reads
the model once more, forward.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from alignjax.types import BatchStatistic, Mean, Model, Objective, Routing

SCOPES = ("microbatch", "batch")


class Share(NamedTuple):
    """The balance of a whole batch.

    Attributes:
      share: float32 [B, E], f in every row.
      scale: float32, the weight of the objective's loss divided by the tokens.
    """

    share: jax.Array
    scale: jax.Array


def wrap(
    make: Callable[[Model], Objective], model: Model, scope: str = "microbatch"
) -> Objective:
    """The objective that `make` makes of a model with experts, with the routers' loss.

    Args:
      make: of an objective. Its loss runs the policy once, by `Model.hidden`, outside
        of loops and other transformations of its own.
      model: the policy; its config has the coefficients, `router_loss` and
        `router_z_loss`.
      scope: of f, one of `SCOPES`.

    Metrics: those of `add`.
    """
    objective = make(model)
    whole = scope == "batch" and learns(model)

    def run(params, frozen, batch, key, train, statistic=None):
        """The objective's loss and metrics, and the routing of the policy."""
        routings = []

        def hidden(others, sequences, key=None):
            x_BTD, routing = model.routing(others, sequences, key)
            if _contains(others, params):  # a reference is of other arrays
                routings.append(routing)
            return x_BTD

        options = {} if statistic is None else {"statistic": statistic}
        # Objectives try their losses on numbers, which has to work in a trace too.
        with jax.ensure_compile_time_eval():
            objective = make(model._replace(hidden=hidden))
        mean, metrics = objective.loss(params, frozen, batch, key, train, **options)
        return mean, metrics, routings[0]

    def loss(params, frozen, batch, key, train, statistic=None):
        share = None
        if whole and statistic is not None:
            share, statistic = statistic["share"], statistic.get("objective")
        mean, metrics, routing = run(params, frozen, batch, key, train, statistic)
        return add(model, routing, mean, metrics, share)

    def observe(params, frozen, batch, key, train):
        # Of the loss only the weight is used: the compiler drops all but the trunk.
        mean, _, routing = run(params, frozen, batch, key, train)
        B = len(getattr(batch, "sequences", batch).inputs)
        rows = lambda x: x.reshape(B, -1, *x.shape[1:]).sum(1)
        weight_B = jnp.full(B, mean.weight / B)
        load = {"load": (rows(routing.chosen), rows(routing.tokens), weight_B)}
        if objective.statistic is None:
            return load
        inner = objective.statistic.observe(params, frozen, batch, key, train)
        return {**load, "objective": inner}

    def combine(observed):
        statistic = {"share": balance(*observed["load"])}
        if objective.statistic is not None:
            statistic["objective"] = objective.statistic.combine(observed["objective"])
        return statistic

    objective = objective._replace(loss=loss)
    if whole:
        return objective._replace(statistic=BatchStatistic(observe, combine))
    return objective


def _contains(tree, part) -> bool:
    """Whether every array of `part` is, itself and no copy, one of `tree`."""
    return {id(x) for x in jax.tree.leaves(part)} <= {
        id(x) for x in jax.tree.leaves(tree)
    }


def learns(model: Model) -> bool:
    """Whether the routers have a loss."""
    c = model.config
    return model.routing is not None and max(c.router_loss, c.router_z_loss) > 0


def balance(chosen_BE, tokens_B, weight_B) -> Share:
    """The balance of all rows of a batch, in float32.

    Args:
      chosen_BE: tokens of a row that went through each expert.
      tokens_B: tokens of each row, once for each layer.
      weight_B: of each row in the objective's loss.
    """
    tokens = jnp.maximum(tokens_B.sum(), 1)
    share_BE = jnp.broadcast_to(chosen_BE.sum(0) / tokens, chosen_BE.shape)
    return Share(share_BE, weight_B.sum() / tokens)


def add(
    model: Model,
    routing: Routing,
    loss: Mean,
    metrics: dict[str, Mean],
    share: Share | None = None,
) -> tuple[Mean, dict[str, Mean]]:
    """A loss and its metrics with those of the routers.

    Args:
      model: its config has the coefficients, `router_loss` and `router_z_loss`.
      routing: of the policy, for the batch.
      loss: after division it is greater by coefficient x routers' loss.
      metrics: to which are added: `router/balance`, the balance loss before its
        coefficient; `router/entropy`, of the router's distribution, nats a token and
        layer; `router/busiest`, the share of the tokens that the most used expert gets,
        of all layers together; `router/z_loss` where it has a coefficient.
      share: of the whole batch, of which this is a part; None where this is all.
    """
    c = model.config
    tokens = routing.tokens.sum()
    if share is None:
        share = balance(routing.chosen, routing.tokens, loss.weight)
    share_E, E = lax.stop_gradient(share.share[0]), routing.chosen.shape[-1]
    balance_loss = E * (share_E * routing.probability).sum()
    z = routing.z.sum()
    added = (c.router_loss * balance_loss + c.router_z_loss * z) * share.scale
    reported = {
        "router/balance": Mean(balance_loss, tokens),
        "router/entropy": Mean(routing.entropy.sum(), tokens),
        "router/busiest": Mean(share_E.max() * tokens, tokens),
    }
    if c.router_z_loss:
        reported["router/z_loss"] = Mean(z, tokens)
    total = Mean(loss.total + added, loss.weight)
    return total, metrics | lax.stop_gradient(reported)
