# SPDX-License-Identifier: Apache-2.0
"""Log-probs, divergences and values of each token, by the programs that train."""

from __future__ import annotations

import functools

import jax

from alignjax.distributed import sharding
from alignjax.objectives import chunks, logprobs, policy_gradient
from alignjax.types import Model, Params, Responses


@functools.partial(jax.jit, static_argnums=(0, 1, 2, 3))
def log_probs(
    model: Model,
    chunk: chunks.Chunk,
    temperature: float,
    room: int,
    params: Params,
    reference: Params | None,
    batch: Responses,
) -> dict[str, jax.Array]:
    """Of each token, in nats, float32 [G, K, room]: `old`, the policy's, and `entropy`.

    With parameters of a reference also its log-probs, `reference`, and `kl`, the exact
    KL(policy || reference) at the token's state.
    """
    needs = ("entropy", "kl") if reference is not None else ("entropy",)
    tokens = logprobs.tokens(
        model,
        params,
        logprobs.flatten_sequences(batch),
        chunk=chunk,
        needs=needs,
        reference=reference,
        temperature=temperature,
    )
    figures = {"old": tokens.logp, "entropy": tokens.entropy}
    if reference is not None:
        figures |= {"reference": tokens.reference_logp, "kl": tokens.kl}
    figures = {k: logprobs.by_response(batch, x, room) for k, x in figures.items()}
    return jax.tree.map(lambda x: sharding.constrain(x, None, None, None), figures)


@functools.partial(jax.jit, static_argnums=(0, 1))
def values(model: Model, room: int, params: Params, batch: Responses) -> jax.Array:
    """The critic's V of the state in which each token was drawn, [G, K, room]."""
    value_GKT = policy_gradient.values(model, params, batch, room)
    return sharding.constrain(value_GKT, None, None, None)
