# SPDX-License-Identifier: Apache-2.0
"""Log-probabilities of tokens and of responses, for training, evaluation and analysis.

`tokens` computes figures of every target, with the logits of one chunk of tokens at a
time; `weighted` sums a loss of them too, and makes its gradient on the way.
`response_logprobs` sums them over responses, with the same result in the three layouts
of `types.Responses`: a target counts by its response and its rank there, never by its
row. Arrays of responses are [G, K], with G = B P in the order of the batch;
`by_response` and `by_target` carry figures of their tokens to [G, K, T] and back.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from alignjax.objectives import chunks
from alignjax.types import LogProbs, Model, Params, Responses, Sequences

# Fields of `Tokens` that compare with a reference.
COMPARISONS = ("reference_kl", "kl")


class Tokens(NamedTuple):
    """Figures of each position, float32 [B, T]; None where they are not needed.

    They are of softmax(logits / temperature).

    Attributes:
      logp: the log-probability of the target, in nats.
      logz: the log-normaliser of the logits.
      entropy: of the distribution over the vocabulary, in nats; without a gradient
        unless one is asked for.
      hit: 1 where no token is likelier than the target, else 0.
      collision: log sum_v p(v)^2.
      reference_logp: `logp` under the reference.
      reference_kl: KL(reference || policy) over the vocabulary, in nats.
      kl: KL(policy || reference).
    """

    logp: jax.Array
    logz: jax.Array | None = None
    entropy: jax.Array | None = None
    hit: jax.Array | None = None
    collision: jax.Array | None = None
    reference_logp: jax.Array | None = None
    reference_kl: jax.Array | None = None
    kl: jax.Array | None = None


def tokens(
    model: Model,
    params: Params,
    sequences: Sequences,
    key=None,
    *,
    chunk: chunks.Chunk = "auto",
    needs: tuple[str, ...] = (),
    reference: Params | None = None,
    reference_model: Model | None = None,
    temperature: float = 1.0,
    entropy_gradient: bool = False,
) -> Tokens:
    """`logp` and `logz` of each target, without ever holding the logits of all of them.

    Args:
      model: of `params`, and of `reference` unless it has another.
      params: of the policy.
      sequences: rows [B, T].
      key: turns dropout on.
      chunk: tokens of a device whose logits exist at one time; see `chunks.size`.
        Values and gradients do not depend on it.
      needs: further fields of `Tokens`; other names are ignored.
      reference: parameters of a reference, for `reference_logp` and the fields in
        `COMPARISONS`; without a gradient.
      reference_model: of `reference`, with the same vocabulary.
      temperature: positive; the logits of both models are divided by it, as those of
        the sampler are whose distribution this is then to be (arXiv:2403.17031).
      entropy_gradient: whether a gradient goes through `entropy`, for a bonus.

    Raises:
      ValueError: a comparison without a reference.
    """
    if reference is None and any(name in needs for name in COMPARISONS):
        raise ValueError(f"{', '.join(COMPARISONS)} compare two models: no reference")
    states, heads = (model.hidden(params, sequences, key),), (model.head(params),)
    if reference is not None:
        reference = lax.stop_gradient(reference)
        other_model = reference_model or model
        states += (other_model.hidden(reference, sequences),)
        heads += (other_model.head(reference),)

    # At 1 nothing is traced. A product is rounded in one way, differentiated or not,
    # which a quotient is not: equal models then have equal log-probabilities.
    tempered = lambda x: x if temperature == 1 else x * (1 / temperature)

    def figures(products, targets, previous=None):
        logits = tempered(model.cap(products[0]))
        logz = previous and previous.logz
        policy = _figures(logits, targets, needs, logz, entropy_gradient)
        for product in products[1:]:
            other = tempered(other_model.cap(product))
            fields = {"reference_logp": token_logp(other, targets)[0]}
            if "reference_kl" in needs:
                fields["reference_kl"] = divergence(other, logits)
            if "kl" in needs:
                fields["kl"] = divergence_from_fixed(logits, other)
            policy = policy._replace(**fields)
        return policy

    size = chunks.size(chunk, heads[0].shape[1])
    return chunks.mapped(figures, states, heads, (sequences.targets,), size)


def weighted(
    model: Model,
    params: Params,
    sequences: Sequences,
    key,
    loss: Callable[[Tokens], jax.Array],
    *,
    chunk: chunks.Chunk = "auto",
    needs: tuple[str, ...] = (),
    logits_dtype: str = "float32",
) -> tuple[jax.Array, Tokens]:
    """The sum over targets of `sequences.weights` times a loss, and their figures.

    The gradient of the sum is made in the forward pass, where the logits are. The
    figures have none.

    Args:
      model, params, sequences, key, chunk, needs: as of `tokens`.
      loss: float32 [...], of figures [...].
      logits_dtype: that logits are rounded to where they are stored.

    Returns:
      The sum, float32, and `Tokens`.
    """
    head_DV = model.head(params)

    def figures(products, targets):
        return _figures(model.cap(products[0]), targets, needs)

    return chunks.total(
        figures,
        loss,
        model.hidden(params, sequences, key),
        head_DV,
        (sequences.targets,),
        sequences.weights,
        chunks.size(chunk, head_DV.shape[1]),
        logits_dtype,
    )


def _figures(
    logits, targets, needs: tuple[str, ...], logz=None, entropy_gradient=False
) -> Tokens:
    logp, logz = token_logp(logits, targets, logz)
    fields, fixed = {}, lax.stop_gradient(logits)
    if "entropy" in needs:
        fields["entropy"] = entropy(logits if entropy_gradient else fixed)
    if "hit" in needs:
        target = jnp.take_along_axis(fixed, targets[..., None], axis=-1)[..., 0]
        fields["hit"] = (target >= fixed.max(-1)).astype(jnp.float32)
    if "collision" in needs:
        fields["collision"] = collision(logits)
    return Tokens(logp, logz, **fields)


@jax.custom_vjp
def token_logp(logits, targets, logz=None) -> tuple[jax.Array, jax.Array]:
    """`(logp, logz)`, float32 [...], of logits [..., V] and int32 targets [...].

    logz = log sum exp logits, unless it is given, and logp = logits[target] - logz, in
    nats. The gradient by the logits is g_logp onehot(target) + (g_logz - g_logp) p, in
    one pass over them.
    """
    if logz is None:
        largest = logits.max(-1)
        # As `entropy` has it, so that one pass over the logits makes both sums.
        logz = jnp.log(jnp.exp(logits - largest[..., None]).sum(-1)) + largest
    picked = jnp.take_along_axis(logits, targets[..., None], axis=-1)[..., 0]
    return picked - logz, logz


def _token_logp_forward(logits, targets, logz=None):
    logp, logz = token_logp(logits, targets, logz)
    return (logp, logz), (logits, targets, logz)


def _token_logp_backward(saved, cotangents):
    logits, targets, logz = saved
    g_logp, g_logz = (g[..., None] for g in cotangents)
    p = jnp.exp(logits - logz[..., None])
    is_target = jnp.arange(logits.shape[-1]) == targets[..., None]
    return jnp.where(is_target, g_logp, 0.0) + (g_logz - g_logp) * p, None, None


token_logp.defvjp(_token_logp_forward, _token_logp_backward)


def collision(logits: jax.Array) -> jax.Array:
    """log sum_v p(v)^2, float32 [...], of logits [..., V]."""
    return jax.nn.logsumexp(2 * jax.nn.log_softmax(logits, axis=-1), axis=-1)


def divergence(p_logits: jax.Array, q_logits: jax.Array) -> jax.Array:
    """KL(p || q) over the vocabulary, in nats, float32 [...], of logits [..., V]."""
    q = jax.nn.log_softmax(q_logits, axis=-1)
    p = jax.nn.log_softmax(p_logits, axis=-1)
    return (jnp.exp(p) * (p - q)).sum(-1)


@jax.custom_vjp
def divergence_from_fixed(p_logits: jax.Array, q_logits: jax.Array) -> jax.Array:
    """`divergence` with a gradient by p alone, p (log p/q - KL), exactly 0 at p = q."""
    return divergence(p_logits, q_logits)


def _divergence_forward(p_logits, q_logits):
    q = jax.nn.log_softmax(q_logits, axis=-1)
    p = jax.nn.log_softmax(p_logits, axis=-1)
    kl = (jnp.exp(p) * (p - q)).sum(-1)
    return kl, (jnp.exp(p), p - q, kl)


def _divergence_backward(saved, g):
    p, log_ratio, kl = saved
    return g[..., None] * p * (log_ratio - kl[..., None]), None


divergence_from_fixed.defvjp(_divergence_forward, _divergence_backward)


def entropy(logits: jax.Array) -> jax.Array:
    """-sum_v p(v) log p(v), in nats, float32 [...], of logits [..., V]."""
    logits = logits - lax.stop_gradient(logits.max(-1, keepdims=True))
    power = jnp.exp(logits)
    total = power.sum(-1)
    return jnp.log(total) - (power * logits).sum(-1) / total


def flatten_sequences(batch: Responses) -> Sequences:
    """The sequences of a batch, [B R, T], as a model takes them."""
    return jax.tree.map(lambda x: x.reshape(-1, x.shape[-1]), batch.sequences)


def flatten_groups(x):
    """[B, P, ...] -> [G, ...], in every array of a tree but scalars."""
    return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]) if x.ndim else x, x)


def unflatten_groups(x, shape: tuple[int, int]):
    """Undoes `flatten_groups`; `shape` is (B, P)."""
    return jax.tree.map(lambda x: x.reshape(*shape, *x.shape[1:]) if x.ndim else x, x)


def response_logprobs(
    batch: Responses, figures: Tokens, needs: tuple[str, ...] = ()
) -> LogProbs:
    """Sums over the tokens of each response, every field float32 [G, K].

    Args:
      batch: in any layout.
      figures: of `flatten_sequences(batch)`; those of other tokens may be NaN.
      needs: optional fields of `LogProbs`; those whose figures are None stay None.
    """
    total = lambda x_BT: response_sums(batch, x_BT)
    logp = figures.logp.reshape(batch.responses.shape)
    fields = {}
    if "head" in needs:
        fields["head"] = total(jnp.where(_in_head(batch), logp, 0))
    if "sample" in needs:
        fields["sample"] = total(jnp.where(_in_sample(batch), logp, 0))
    for name in ("collision", "reference_kl"):
        if name in needs and (figure := getattr(figures, name)) is not None:
            fields[name] = total(figure)
    length_GK = flatten_groups(batch.lengths).astype(jnp.float32)
    return LogProbs(total(logp), length_GK, **fields)


def response_sums(batch: Responses, x: jax.Array) -> jax.Array:
    """The sum of `x` over the tokens of each response, float32 [G, K].

    `x` is [B, R, T] or [B R, T]. No matrix product, which some devices round.
    """
    B, P, K = batch.lengths.shape
    x_BRT1 = x.reshape(batch.responses.shape).astype(jnp.float32)[..., None]
    response_BRT1 = batch.responses[..., None]
    x_BRTN = jnp.where(response_BRT1 == 1 + jnp.arange(P * K), x_BRT1, 0.0)
    return x_BRTN.sum((1, 2)).reshape(B * P, K)


def by_response(batch: Responses, x: jax.Array, room: int) -> jax.Array:
    """`x` at the tokens of each response, in their order: float32 [G, K, room].

    0 past a response's end, whatever `x` has elsewhere.

    Args:
      batch: in any layout.
      x: a figure of each target, [B, R, T] or [B R, T].
      room: tokens, at least as many as the longest response has.
    """
    B, P, K = batch.lengths.shape
    response_BX = batch.responses.reshape(B, -1)
    number_N1 = 1 + jnp.arange(P * K)[:, None]
    first_BN1 = (response_BX[:, None] == number_N1).argmax(-1, keepdims=True)
    place_BNT = jnp.minimum(first_BN1 + jnp.arange(room), response_BX.shape[-1] - 1)
    x_BX = x.reshape(B, -1).astype(jnp.float32)
    x_BNT = jnp.take_along_axis(x_BX[:, None], place_BNT, axis=-1)
    counts_BNT = jnp.arange(room) < batch.lengths.reshape(B, -1, 1)
    return jnp.where(counts_BNT, x_BNT, 0.0).reshape(B * P, K, room)


def by_target(batch: Responses, x_GKT: jax.Array) -> jax.Array:
    """Undoes `by_response`: [B, R, T], 0 at the targets of no response."""
    B, R, T = batch.responses.shape
    room = x_GKT.shape[-1]
    rank = jnp.minimum(ranks(batch), room - 1)
    place_BX = (jnp.clip(batch.responses - 1, 0) * room + rank).reshape(B, R * T)
    x_BRT = jnp.take_along_axis(x_GKT.reshape(B, -1), place_BX, axis=-1)
    return jnp.where(batch.responses != 0, x_BRT.reshape(B, R, T), 0)


def is_last(batch: Responses) -> jax.Array:
    """bool [B, R, T], true at the last target of each response."""
    next_BRT = jnp.pad(batch.responses[..., 1:], ((0, 0), (0, 0), (0, 1)))
    return (batch.responses != 0) & (next_BRT != batch.responses)


def ranks(batch: Responses) -> jax.Array:
    """int32 [B, R, T], which token of its response a target is, from 0.

    The targets of a response stand one after the other in every layout.
    """
    x = batch.responses
    before = jnp.pad(x[..., :-1], ((0, 0), (0, 0), (1, 0)), constant_values=-1)
    t = jnp.broadcast_to(jnp.arange(x.shape[-1]), x.shape)
    return t - lax.cummax(jnp.where(x != before, t, 0), axis=x.ndim - 1)


def _in_head(batch: Responses) -> jax.Array:
    """bool [B, R, T], the targets that `LogProbs.head` sums."""
    shorter_B1 = batch.lengths.min(-1).reshape(len(batch.lengths), -1)
    P, K = batch.lengths.shape[1:]
    group = jnp.clip((batch.responses - 1) // K, 0, P - 1)
    shorter = jnp.take_along_axis(shorter_B1[:, None], group, axis=-1)
    return (batch.responses != 0) & (ranks(batch) < shorter)


def _in_sample(batch: Responses) -> jax.Array:
    """bool [B, R, T], the targets that `LogProbs.sample` sums.

    The draw follows from the group's index and the rank of a token in its response, so
    it depends on neither layout, nor microbatches, nor the step.
    """
    B, P, K = batch.lengths.shape
    R, T = batch.responses.shape[1:]
    counts_GKT = jnp.arange(T) < flatten_groups(batch.lengths)[..., None]
    fold = lambda keys, numbers: jax.vmap(jax.random.fold_in, (None, 0))(keys, numbers)
    key_G = fold(jax.random.key(0), batch.index.reshape(-1))
    key_GK = jax.vmap(fold, (0, None))(key_G, jnp.arange(K))
    key_GKT = jax.vmap(jax.vmap(fold, (0, None)), (0, None))(key_GK, jnp.arange(T))
    draw = jax.vmap(jax.vmap(jax.vmap(jax.random.uniform)))
    order_GKT = jnp.where(counts_GKT, draw(key_GKT), 2.0)
    place_GKT = jnp.argsort(jnp.argsort(order_GKT, axis=-1), axis=-1)
    shorter_G11 = batch.lengths.reshape(-1, K, 1).min(1, keepdims=True)
    drawn_GKT = counts_GKT & (place_GKT < shorter_G11)
    drawn_BX = drawn_GKT.reshape(B, P * K * T)
    place = jnp.clip(batch.responses - 1, 0) * T + ranks(batch)
    drawn = jnp.take_along_axis(drawn_BX, place.reshape(B, R * T), axis=-1)
    return (batch.responses != 0) & drawn.reshape(B, R, T)
