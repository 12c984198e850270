# SPDX-License-Identifier: Apache-2.0
"""What is reported of pairs, ranked lists and labelled responses, as means.

A reward is what the loss takes for one: beta times log(policy / reference) of the whole
response; without a reference, beta times the policy's log-probability, a token where
the loss counts so. `logps` and `drift`, which is log(policy / reference), are nats a
response. All are relative to the reference as it is at that step, where it moves. A tie
counts as half an accuracy, so that a policy that is still its reference has 1/2, where
TRL has 0.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from alignjax.types import LogProbs, Mean


def mean(x_G: jax.Array, weight_G: jax.Array) -> Mean:
    """The weighted mean over groups; where the weight is 0, `x_G` may be anything."""
    total = jnp.where(weight_G > 0, x_G * weight_G, 0.0).sum(dtype=jnp.float32)
    return Mean(total, weight_G.sum(dtype=jnp.float32))


def ahead(margin: jax.Array) -> jax.Array:
    """1 where the margin is positive, 1/2 at a tie, else 0."""
    return (1 + jnp.sign(margin)) / 2


def rewards(
    policy: LogProbs, reference: LogProbs | None, scale: float, normalised: bool
) -> jax.Array:
    """The implicit reward of every response."""
    if reference is not None:
        return scale * (policy.total - reference.total)
    return scale * (policy.mean if normalised else policy.total)


def pairs(policy, reference, reward_G2, weight_G, inputs) -> dict[str, Mean]:
    """Of `LogProbs` [G, 2], the chosen response first."""
    del inputs
    return _two_sides(
        policy,
        reference,
        reward_G2,
        weight_G,
        chosen=lambda x_G2: x_G2[:, 0],
        rejected=lambda x_G2: x_G2[:, 1],
        others=lambda x_G2: x_G2[:, 1],
    )


def rankings(policy, reference, reward_GK, weight_G, inputs) -> dict[str, Mean]:
    """Of `LogProbs` [G, K], best first: the best one is chosen, the mean of the others
    that are there is rejected, and accurate is to have the best one ahead of all."""
    del inputs
    there_GK = (policy.length > 0).at[:, 0].set(False)
    count_G = jnp.maximum(there_GK.sum(-1), 1)
    return _two_sides(
        policy,
        reference,
        reward_GK,
        weight_G * there_GK.any(-1),
        chosen=lambda x_GK: x_GK[:, 0],
        rejected=lambda x_GK: jnp.where(there_GK, x_GK, 0.0).sum(-1) / count_G,
        others=lambda x_GK: jnp.where(there_GK, x_GK, -jnp.inf).max(-1),
    )


def _two_sides(
    policy, reference, reward, weight_G, *, chosen, rejected, others
) -> dict[str, Mean]:
    of = lambda x_G: mean(x_G, weight_G)
    first_G = chosen(reward)
    found = {
        "rewards/margins": of(first_G - rejected(reward)),
        "rewards/accuracies": of(ahead(first_G - others(reward))),
    }
    for name, side in (("chosen", chosen), ("rejected", rejected)):
        found[f"rewards/{name}"] = of(side(reward))
        found |= _sums(name, policy, reference, side, of)
    return found


def labels(policy, reference, reward_G, weight_G, inputs) -> dict[str, Mean]:
    """Of `LogProbs` [G]: the same of desirable and of undesirable responses.

    A batch may have responses of one kind alone, as `share/desirable` tells; a train
    step then has 0 for the other. `rewards/margins` is no mean but follows from two, in
    evaluations; see `margins`.
    """
    desirable_G = inputs["desirable_B"]
    found = {"share/desirable": mean(desirable_G.astype(jnp.float32), weight_G)}
    for name, kind_G in (("desirable", desirable_G), ("undesirable", ~desirable_G)):
        of = lambda x_G, kind_G=kind_G: mean(x_G, weight_G * kind_G)
        found[f"rewards/{name}"] = of(reward_G)
        found |= _sums(name, policy, reference, lambda x_G: x_G, of)
    return found


def margins(means: dict[str, float]) -> dict[str, float]:
    """The margin of the mean rewards of both kinds, if there are both."""
    sides = [means.get(f"rewards/{name}") for name in ("desirable", "undesirable")]
    return {} if None in sides else {"rewards/margins": sides[0] - sides[1]}


def _sums(name, policy, reference, side, of) -> dict[str, Mean]:
    found = {
        f"logps/{name}": of(side(policy.total)),
        f"length/{name}": of(side(policy.length)),
    }
    if reference is not None:
        found[f"drift/{name}"] = of(side(policy.total - reference.total))
    return found


MEASURES = {"pairs": pairs, "rankings": rankings, "labels": labels}
