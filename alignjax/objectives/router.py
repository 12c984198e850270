# SPDX-License-Identifier: Apache-2.0
"""What the routers of a model with experts are to learn: to use all experts alike.

The balance loss (arXiv:2101.03961 Eq. 4 to 6, for more than one expert a token) is
E sum_e f_e P_e, where f_e is how many choices of expert e there are for each token, and
P_e the mean probability of e, over the tokens of all rows and all layers together, as
transformers' `load_balancing_loss_func` has it. With J experts a token it is J where
all are used alike. No gradient goes through f. The z-loss (arXiv:2202.08906 Eq. 5) is
the mean of log(Z)^2 over tokens and layers.

f is of the whole batch, and the loss that these are added to is divided by weights of
its own. So with microbatches both need what only a first pass over all of them knows
(`Objective.observe`); it reads the model once more, forward, and takes place only where
a model's `router_loss` or `router_z_loss` is positive. In an evaluation the batch at
hand is the whole one.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from alignjax.types import Mean, Model, Params, Routing, Sequences


class Seen(NamedTuple):
    """Of each row of a batch: `Routing.chosen`, `Routing.tokens`, what the row counts.

    float32 [B, E], [B] and [B].
    """

    chosen: jax.Array
    tokens: jax.Array
    weight: jax.Array


class Statistic(NamedTuple):
    """Of a whole batch.

    Attributes:
      share: float32 [B, E], the same f in every row.
      scale: float32, what the loss counts in all, divided by the tokens.
    """

    share: jax.Array
    scale: jax.Array


def hidden(
    model: Model, params: Params, sequences: Sequences, key=None
) -> tuple[jax.Array, Routing | None]:
    """`model.hidden`, and where the tokens went if the model has experts."""
    if model.routing is None:
        return model.hidden(params, sequences, key), None
    return model.routing(params, sequences, key)


def learns(model: Model) -> bool:
    """Whether there is a loss of routers, so that a batch needs to be observed."""
    c = model.config
    return model.routing is not None and max(c.router_loss, c.router_z_loss) > 0


def observe(routing: Routing, weight_B: jax.Array) -> Seen:
    """What the statistic follows from; some rows of `routing` each are of one of B."""
    rows = lambda x: x.reshape(len(weight_B), -1, *x.shape[1:]).sum(1)
    return Seen(rows(routing.chosen), rows(routing.tokens), weight_B)


def statistic(seen: Seen) -> Statistic:
    """Of all rows of a batch."""
    tokens = jnp.maximum(seen.tokens.sum(), 1)
    share_E = seen.chosen.sum(0) / tokens
    share_BE = jnp.broadcast_to(share_E, seen.chosen.shape)
    return Statistic(share_BE, seen.weight.sum() / tokens)


def add(
    model: Model,
    routing: Routing | None,
    loss: Mean,
    metrics: dict[str, Mean],
    known: Statistic | None = None,
) -> tuple[Mean, dict[str, Mean]]:
    """A loss and its metrics with those of the routers; as they are without experts.

    Args:
      model: its config has the coefficients, `router_loss` and `router_z_loss`.
      routing: what `hidden` gave.
      loss: that they are added to; after division it is greater by coefficient x loss.
      metrics: that they are added to: `router/balance`, the balance loss before its
        coefficient; `router/entropy`, of the router's distribution, nats a token and
        layer; `router/busiest`, the share of the tokens that the most used expert gets,
        of all layers together; `router/z_loss` where it has a coefficient.
      known: `statistic` of the whole batch, of which this is a part; else this is all.
    """
    if routing is None:
        return loss, metrics
    c = model.config
    tokens = routing.tokens.sum()
    if known is None:
        # Not by rows: that the loss counts this much is known of all of them.
        known = statistic(observe(routing, loss.weight[None]))
    share_E, E = lax.stop_gradient(known.share[0]), routing.chosen.shape[-1]
    balance = E * (share_E * routing.probability).sum()
    z = routing.z.sum()
    added = (c.router_loss * balance + c.router_z_loss * z) * known.scale
    found = {
        "router/balance": Mean(balance, tokens),
        "router/entropy": Mean(routing.entropy.sum(), tokens),
        "router/busiest": Mean(share_E.max() * tokens, tokens),
    }
    if c.router_z_loss:
        found["router/z_loss"] = Mean(z, tokens)
    total = Mean(loss.total + added, loss.weight)
    return total, metrics | lax.stop_gradient(found)
