# SPDX-License-Identifier: Apache-2.0
"""Drawing responses on the device: one prefill, then one token a row and iteration.

Pure functions of arrays; `sample` is the whole of it for use inside a jitted step, and
`start` and `advance` are its two halves for a host that looks in between, and that may
`take` the rows that go on or `insert` others in the places of those that ended.

A row's tokens are a function of the parameters, its prompt and its key alone. The
draw at place i of a response uses `fold_in(key, i)`, rows never look at each other, and
padding has no position. What the rest of the batch can change is the order in which a
matrix product is summed, so log-probabilities agree to rounding, not to the bit.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from alignjax.distributed import sharding
from alignjax.models import kv_cache
from alignjax.sampling import distribution
from alignjax.types import Model, Params

# A longer prompt goes into the cache in slices of this many tokens, since attention
# holds float32 weights [heads, slice, cache] for every row.
PREFILL = 512

# Tokens between two tests whether all rows are done, which on a mesh is a collective.
PATIENCE = 4


class Responses(NamedTuple):
    """What was drawn; R is the room for tokens, of which a row uses `length_B`.

    Attributes:
      tokens_BR: int32, the response and then zeros. A stop token is its last.
      logps_BR: float32, of each token under the stated distribution; 0 after the end.
      model_logps_BR: float32, of each token under the softmax of all of the model's
        logits at temperature 1; 0 after the end.
      length_B: int32, tokens in each response.
      done_B: bool, whether the response ended before its room did.
    """

    tokens_BR: jax.Array
    logps_BR: jax.Array
    model_logps_BR: jax.Array
    length_B: jax.Array
    done_B: jax.Array


class Draw(NamedTuple):
    """How tokens are drawn: arguments of the program, except what `Settings` says.

    Attributes:
      keys_B: a typed PRNG key for each row.
      allowed_V: bool, tokens that may be drawn.
      stops_V: bool, tokens that end a response.
      settings: see `distribution.settings`.
    """

    keys_B: jax.Array
    allowed_V: jax.Array
    stops_V: jax.Array
    settings: distribution.Settings


class State(NamedTuple):
    """Between two iterations: every row that is not done has `step` tokens.

    `last_B` is what the model reads next, at `position_B`; all before it is in `cache`.
    `step` is one number for all rows, or int32 [B]; so is the slot of the cache.
    """

    responses: Responses
    last_B: jax.Array
    position_B: jax.Array
    step: jax.Array
    cache: Any


def sample(
    model: Model,
    params: Params,
    prompts_GP: jax.Array,
    mask_GP: jax.Array,
    draw: Draw,
    max_tokens: int,
    samples: int = 1,
) -> Responses:
    """Continues every prompt by up to `max_tokens` tokens.

    Args:
      model: every prompt and its response fit its `max_length`.
      prompts_GP: int32, padded on the left.
      mask_GP: bool, False where there is padding. A row without any token is padding
        as a whole: its responses are empty.
      draw: the keys are those of all responses.
      max_tokens: room for the longest response, R.
      samples: responses to each prompt, which is read once for all of them; those to
        one prompt follow each other.
    """
    params = model.by_layer(sharding.whole_along("batch", params, model.init))
    state = start(model, params, prompts_GP, mask_GP, max_tokens, samples)
    done_B = state.responses.done_B
    return advance(model, params, state, done_B, draw, max_tokens).responses


def start(
    model: Model,
    params: Params,
    prompts_GP,
    mask_GP,
    room: int,
    samples: int = 1,
    columns: int | None = None,
) -> State:
    """The state before the first token.

    The last token of the prompts is left for the loop to read, so that drawing is a
    part of one program only.

    Args:
      room: `max_tokens` of `sample`; the other arguments are its own too.
      columns: tokens of a response that the cache has slots for, `room` by default;
        `take` adds others.
    """
    length_G = mask_GP.sum(axis=1, dtype=jnp.int32)
    positions_GP = jnp.cumsum(mask_GP, axis=1, dtype=jnp.int32) - 1
    positions_GP = jnp.where(mask_GP, positions_GP, -1)
    slots = room if columns is None else columns
    cache = _prefill(model, params, prompts_GP[:, :-1], positions_GP[:, :-1], slots)
    last_G = prompts_GP[:, -1].astype(jnp.int32)
    length_B, last_B = length_G, last_G
    if samples > 1:
        cache = kv_cache.repeat(cache, samples)
        length_B, last_B = (jnp.repeat(x, samples) for x in (length_G, last_G))
    B = len(length_B)
    responses = Responses(
        tokens_BR=jnp.zeros((B, room), jnp.int32),
        logps_BR=jnp.zeros((B, room), jnp.float32),
        model_logps_BR=jnp.zeros((B, room), jnp.float32),
        length_B=jnp.zeros(B, jnp.int32),
        done_B=length_B == 0,
    )
    responses = _everywhere(responses)  # as `advance` leaves it: one program for both
    return State(responses, last_B, length_B - 1, jnp.int32(0), cache)


def _prefill(model, params, tokens_BT, positions_BT, room: int):
    """A cache that holds the tokens and has room for more."""
    B, T = tokens_BT.shape
    slices = -(-T // PREFILL)
    padding = -T % slices if slices else 0  # less than a token a slice
    # `room` slots more: the prompt's last token, and a response without its last one.
    cache = model.init_cache(B, T + padding + room)
    if slices == 0:
        return cache
    if slices == 1:
        return model.extend(params, tokens_BT, positions_BT, cache)[1]

    def split(x_BT, fill):
        x_BT = jnp.pad(x_BT, ((0, 0), (padding, 0)), constant_values=fill)
        return x_BT.reshape(B, slices, -1).swapaxes(0, 1)

    extend = lambda cache, part: (model.extend(params, *part, cache)[1], None)
    parts = (split(tokens_BT, 0), split(positions_BT, -1))
    return jax.lax.scan(extend, cache, parts)[0]


def take(state: State, rows_B: jax.Array, more: int = 0) -> State:
    """The rows of these indices alone, and `more` slots of the cache for each."""
    get = lambda x: jnp.take(x, rows_B, axis=0) if x.ndim else x
    responses, last_B, position_B, step = jax.tree.map(get, state[:-1])
    cache = kv_cache.take(state.cache, rows_B, more)
    return State(_everywhere(responses), last_B, position_B, step, cache)


def apart(state: State) -> State:
    """The same, with a step and a slot for each row, which `insert` needs."""
    each = lambda x: jnp.broadcast_to(x, state.last_B.shape)
    cache = state.cache | {"slot": each(state.cache["slot"])}
    return state._replace(step=each(state.step), cache=cache)


def insert(state: State, rows: State, places_B: jax.Array) -> State:
    """The rows of a state in these places of another; both are `apart`.

    A row whose place is beyond the last is dropped.
    """
    put = lambda old, x: old.at[places_B].set(x, mode="drop")
    responses, *rest = jax.tree.map(put, state[:-1], rows[:-1])
    cache = kv_cache.insert(state.cache, rows.cache, places_B)
    return State(_everywhere(responses), *rest, cache)


def advance(
    model: Model, params, state: State, done_B, draw: Draw, until: jax.Array | int
) -> State:
    """Draws on until responses have `until` tokens or all are done.

    `done_B` takes the place of the state's own: the host may know better, since stop
    strings are not seen here. `until` is at most the room that the state has; where
    rows have steps of their own it is int32 [B].
    """
    state = state._replace(responses=state.responses._replace(done_B=done_B))

    def remaining(state):
        """Tokens that the row with the most to go still gets; 0 at the end."""
        left_B = jnp.where(state.responses.done_B, 0, until - state.step)
        return jnp.minimum(left_B.max(), PATIENCE)

    def one_more(state):
        open_B = ~state.responses.done_B & (state.step < until)
        position_B = jnp.where(open_B, state.position_B, -1)
        x_B1D, cache = model.extend(
            params, state.last_B[:, None], position_B[:, None], state.cache
        )
        logits_BV = model.unembed(params, x_B1D)[:, 0]
        token_B, responses = _append(
            logits_BV, draw, state.responses, state.step, open_B
        )
        return State(responses, token_B, state.position_B + 1, state.step + 1, cache)

    def some_more(carry):
        state, count = carry
        state = jax.lax.fori_loop(0, count, lambda _, s: one_more(s), state)
        return state, remaining(state)

    going_on = lambda carry: carry[1] > 0
    state, _ = jax.lax.while_loop(going_on, some_more, (state, remaining(state)))
    return state._replace(responses=_everywhere(state.responses))


def _everywhere(responses: Responses) -> Responses:
    """All rows on every device, so that every host may read them."""
    return jax.tree.map(lambda x: sharding.constrain(x, *[None] * x.ndim), responses)


def _append(
    logits_BV, draw: Draw, r: Responses, step, open_B
) -> tuple[jax.Array, Responses]:
    """Draws a token for every row that is open, and writes it at place `step`."""
    keys_B = jax.vmap(jax.random.fold_in, (0, 0 if step.ndim else None))(
        draw.keys_B, step
    )
    allowed_BV = jnp.where(draw.allowed_V, logits_BV, -jnp.inf)
    token_B, logp_B = distribution.draw(allowed_BV, keys_B, draw.settings)
    logit_B = jnp.take_along_axis(logits_BV, token_B[:, None], axis=-1)[:, 0]
    model_logp_B = logit_B - jax.nn.logsumexp(logits_BV, axis=-1)

    def put(old_BR, new_B):
        if step.ndim:
            place_B = jnp.where(open_B, step, old_BR.shape[1])  # or nowhere
            rows_B = jnp.arange(len(old_BR))
            return old_BR.at[rows_B, place_B].set(new_B, mode="drop")
        new_B1 = jnp.where(open_B, new_B, 0)[:, None]
        return jax.lax.dynamic_update_slice_in_dim(old_BR, new_B1, step, axis=1)

    return token_B, Responses(
        tokens_BR=put(r.tokens_BR, token_B),
        logps_BR=put(r.logps_BR, logp_B),
        model_logps_BR=put(r.model_logps_BR, model_logp_B),
        length_B=r.length_B + open_B,
        done_B=r.done_B | (open_B & jnp.take(draw.stops_V, token_B)),
    )
