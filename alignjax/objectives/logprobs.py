# SPDX-License-Identifier: Apache-2.0
"""Log-probabilities of tokens: one primitive for training, evaluation, analysis.

`tokens` is the one loop over the vocabulary; `objectives.responses` sums what it gives
over responses.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from alignjax.losses import language_model
from alignjax.objectives import router
from alignjax.types import Model, Params, Routing, Sequences

# Logits of one chunk are [B, chunk, V] float32; this many positions of one row at once.
CHUNK = 128


class Tokens(NamedTuple):
    """What a model says at each position: float32 [B, T]; None what was not asked for.

    Attributes:
      logp: the log-probability of the target, in nats.
      logz: the log-normaliser of the logits.
      entropy: of the distribution over the vocabulary, in nats, without a gradient.
      hit: 1 where no token is likelier than the target, else 0.
      collision: log sum_v p(v)^2.
      reference_logp: `logp` under the reference.
      reference_kl: KL(reference || policy).
      routing: where the model sent the tokens, if it has experts; not by position.
    """

    logp: jax.Array
    logz: jax.Array | None = None
    entropy: jax.Array | None = None
    hit: jax.Array | None = None
    collision: jax.Array | None = None
    reference_logp: jax.Array | None = None
    reference_kl: jax.Array | None = None
    routing: Routing | None = None


def token_logps(
    model: Model, params: Params, sequences: Sequences, key=None, *, chunk: int = CHUNK
) -> tuple[jax.Array, jax.Array]:
    """Log-probability of each target, without ever holding the logits of all of them.

    Args:
      model: what to ask.
      params: its parameters.
      sequences: rows [B, T].
      key: turns dropout on.
      chunk: positions of each row whose logits exist at one time. The values and the
        gradients do not depend on it; T need not be a multiple of it.

    Returns:
      `(logp_BT, logz_BT)`, float32: the log-probability of each target in nats, and the
      log-normaliser of its logits.
    """
    found = tokens(model, params, sequences, key, chunk=chunk)
    return found.logp, found.logz


def tokens(
    model: Model,
    params: Params,
    sequences: Sequences,
    key=None,
    *,
    chunk: int = CHUNK,
    needs: tuple[str, ...] = (),
    reference: Params | None = None,
) -> Tokens:
    """As `token_logps`, with whatever else of the logits is asked for.

    Args:
      model, params, sequences, key, chunk: see `token_logps`.
      needs: fields of `Tokens` beyond `logp` and `logz`.
      reference: parameters of a reference, for the fields that compare with it: logits
        of both models then exist for one chunk at a time. No gradient goes to them.
    """
    x_BTD, routing = router.hidden(model, params, sequences, key)
    if reference is None:
        found = over_chunks(
            lambda x, targets: _tokens(model.unembed(params, x), targets, needs),
            (x_BTD, sequences.targets),
            chunk,
        )
        return found._replace(routing=routing)
    reference = lax.stop_gradient(reference)
    other_BTD = model.hidden(reference, sequences)

    def compare(x, other, targets):
        policy, logits = model.unembed(params, x), model.unembed(reference, other)
        found = _tokens(policy, targets, needs)
        logp = language_model.token_logp(logits, targets)[0]
        kl = None
        if "reference_kl" in needs:
            kl = language_model.reference_kl(policy, logits)
        return found._replace(reference_logp=logp, reference_kl=kl)

    found = over_chunks(compare, (x_BTD, other_BTD, sequences.targets), chunk)
    return found._replace(routing=routing)


def _tokens(logits: jax.Array, targets: jax.Array, needs: tuple[str, ...]) -> Tokens:
    logp, logz = language_model.token_logp(logits, targets)
    found = Tokens(logp, logz)
    if "entropy" in needs:
        found = found._replace(entropy=entropy(lax.stop_gradient(logits)))
    if "hit" in needs:
        fixed = lax.stop_gradient(logits)
        target = jnp.take_along_axis(fixed, targets[..., None], axis=-1)[..., 0]
        found = found._replace(hit=(target >= fixed.max(-1)).astype(jnp.float32))
    if "collision" in needs:
        found = found._replace(collision=language_model.collision(logits))
    return found


def entropy(logits: jax.Array) -> jax.Array:
    """-sum_v p(v) log p(v), in nats, float32 [...], of logits [..., V]."""
    logits = logits - logits.max(-1, keepdims=True)
    power = jnp.exp(logits)
    total = power.sum(-1)
    return jnp.log(total) - (power * logits).sum(-1) / total


def over_chunks(function: Callable, arrays: tuple[jax.Array, ...], chunk: int):
    """`function` of slices of time, one after the other, its results joined.

    What `function` makes inside is not kept for the backward pass but made again, so
    that no more than one slice's ever exists. Where one slice is all, it is kept.

    Args:
      function: of arrays [B, C, ...], gives a pytree of arrays [B, C].
      arrays: [B, T, ...] each.
      chunk: C at most.

    Returns:
      The pytree, of arrays [B, T].
    """
    run = jax.checkpoint(function)
    B, T = arrays[0].shape[:2]
    count = -(-T // chunk)
    if count == 1:  # then all of it exists in any case
        return function(*arrays)
    size = -(-T // count)  # as even as can be: the padding is less than `count`
    padding = count * size - T
    pad = lambda x: jnp.pad(x, ((0, 0), (0, padding)) + ((0, 0),) * (x.ndim - 2))
    split = lambda x: pad(x).reshape(B, count, size, *x.shape[2:]).swapaxes(0, 1)
    found = lax.map(lambda parts: run(*parts), tuple(map(split, arrays)))
    join = lambda x: x.swapaxes(0, 1).reshape(B, count * size)[:, :T]
    return jax.tree.map(join, found)
