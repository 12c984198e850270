# SPDX-License-Identifier: Apache-2.0
"""What a model says of whole responses, from what it says of their tokens.

The same numbers from the three layouts of `types.Responses`: everything goes by whose
response a target is, and by where in that response, never by rows. All that is made
here is flat, [G, K] with G = B P, and keeps the order of the batch.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import lax

from alignjax.losses import language_model
from alignjax.objectives import logprobs
from alignjax.types import LogProbs, Model, Params, Responses, Sequences

# Fields of `LogProbs` that are sums over some of the tokens.
CHOICES = ("head", "sample")


def responses(
    model: Model,
    params: Params,
    batch: Responses,
    key=None,
    *,
    chunk: int = logprobs.CHUNK,
    needs: tuple[str, ...] = (),
    reference: Params | None = None,
) -> LogProbs:
    """The `LogProbs` of every response of a batch, each field float32 [G, K].

    Args:
      model, params: what to ask.
      batch: in any layout.
      key: turns dropout on.
      chunk: see `logprobs.token_logps`.
      needs: optional fields of `LogProbs`.
      reference: parameters of a reference model, for `reference_kl`.

    Raises:
      ValueError: `reference_kl` without a reference.
    """
    if "reference_kl" in needs and reference is None:
        raise ValueError("reference_kl compares two models; give a reference")
    reference = reference if "reference_kl" in needs else None
    found = logprobs.tokens(
        model,
        params,
        rows(batch),
        key,
        chunk=chunk,
        needs=tuple(n for n in needs if n not in CHOICES),
        reference=reference,
    )
    return summed(batch, found, needs)


def rows(batch: Responses) -> Sequences:
    """The sequences of a batch, [B R, T], as a model takes them."""
    return jax.tree.map(lambda x: x.reshape(-1, x.shape[-1]), batch.sequences)


def groups(x):
    """[B, P, ...] -> [G, ...], in every array of a tree."""
    return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), x)


def ungrouped(x, shape: tuple[int, int]):
    """[G, ...] -> [B, P, ...], in every array of a tree; `shape` is (B, P)."""
    return jax.tree.map(lambda x: x.reshape(*shape, *x.shape[1:]), x)


def summed(
    batch: Responses, found: logprobs.Tokens, needs: tuple[str, ...] = ()
) -> LogProbs:
    """Sums over the tokens of each response of what `logprobs.tokens` gives of them.

    Args:
      batch: in any layout.
      found: of `rows(batch)`. What it says of other tokens is never looked at, be it
        NaN.
      needs: optional fields of `LogProbs`.
    """
    total = lambda x_BT: total_of(batch, x_BT)
    fields = {}
    if "head" in needs:
        fields["head"] = total(jnp.where(_first(batch), _rows_of(batch, found.logp), 0))
    if "sample" in needs:
        fields["sample"] = total(
            jnp.where(_drawn(batch), _rows_of(batch, found.logp), 0)
        )
    for name in ("collision", "reference_kl"):
        if name in needs:
            fields[name] = total(getattr(found, name))
    length_GK = groups(batch.lengths).astype(jnp.float32)
    return LogProbs(total(found.logp), length_GK, **fields)


def total_of(batch: Responses, x: jax.Array) -> jax.Array:
    """The sum of `x` over the tokens of each response, float32 [G, K].

    `x` is [B, R, T] or [B R, T]. A sum of products with zeros and ones, so that it is
    as exact on a device whose matrix products are not.
    """
    B, P, K = batch.lengths.shape
    x_BRT1 = _rows_of(batch, x).astype(jnp.float32)[..., None]
    whose_BRT1 = batch.responses[..., None]
    picked = jnp.where(whose_BRT1 == 1 + jnp.arange(P * K), x_BRT1, 0.0)
    return picked.sum((1, 2)).reshape(B * P, K)


def _rows_of(batch, x):
    return x.reshape(batch.responses.shape)


def last(batch: Responses) -> jax.Array:
    """bool [B, R, T], true at the last target of each response."""
    follows = jnp.pad(batch.responses[..., 1:], ((0, 0), (0, 0), (0, 1)))
    return (batch.responses != 0) & (follows != batch.responses)


def ranks(batch: Responses) -> jax.Array:
    """int32 [B, R, T], which token of its response a target is, from 0.

    The targets of a response stand one after the other in every layout.
    """
    whose = batch.responses
    before = jnp.pad(whose[..., :-1], ((0, 0), (0, 0), (1, 0)), constant_values=-1)
    t = jnp.broadcast_to(jnp.arange(whose.shape[-1]), whose.shape)
    start = lax.cummax(jnp.where(whose != before, t, 0), axis=whose.ndim - 1)
    return t - start


def _first(batch: Responses) -> jax.Array:
    """`language_model.first` of each target, bool [B, R, T]; no target outside them."""
    shorter_B1 = batch.lengths.min(-1).reshape(len(batch.lengths), -1)
    whose = batch.responses
    P, K = batch.lengths.shape[1:]
    group = jnp.clip((whose - 1) // K, 0, P - 1)
    shorter = jnp.take_along_axis(shorter_B1[:, None], group, axis=-1)
    return (whose != 0) & (ranks(batch) < shorter)


def _drawn(batch: Responses) -> jax.Array:
    """`language_model.drawn` of each target, bool [B, R, T]; false outside responses.

    What is drawn follows from the group's index and the rank of a token in its
    response, so from neither layout, nor microbatches, nor the step.
    """
    B, P, K = batch.lengths.shape
    R, T = batch.responses.shape[1:]
    counts_GKT = jnp.arange(T) < groups(batch.lengths)[..., None]
    fold = lambda keys, numbers: jax.vmap(jax.random.fold_in, (None, 0))(keys, numbers)
    key_G = fold(jax.random.key(0), batch.index.reshape(-1))
    key_GK = jax.vmap(fold, (0, None))(key_G, jnp.arange(K))
    key_GKT = jax.vmap(jax.vmap(fold, (0, None)), (0, None))(key_GK, jnp.arange(T))
    draw = jax.vmap(jax.vmap(jax.vmap(jax.random.uniform)))
    drawn_GKT = language_model.smallest(counts_GKT, draw(key_GKT))
    drawn_BX = drawn_GKT.reshape(B, P * K * T)
    whose = batch.responses
    place = jnp.clip(whose - 1, 0) * T + ranks(batch)
    chosen = jnp.take_along_axis(drawn_BX, place.reshape(B, R * T), axis=-1)
    return (whose != 0) & chosen.reshape(B, R, T)
