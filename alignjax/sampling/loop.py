# SPDX-License-Identifier: Apache-2.0
"""Drawing responses on the device: one prefill, then one token a row and iteration.

Pure functions of arrays; `sample` is the whole of it for use inside a jitted step, and
`start` and `advance` are its two halves for a host that looks in between.

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
from alignjax.sampling import distribution
from alignjax.types import Model, Params

# A longer prompt goes into the cache in slices of this many tokens, since attention
# holds float32 weights [heads, slice, cache] for every row.
PREFILL = 512


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
    """

    responses: Responses
    last_B: jax.Array
    position_B: jax.Array
    step: jax.Array
    cache: Any


def sample(
    model: Model,
    params: Params,
    prompts_BP: jax.Array,
    mask_BP: jax.Array,
    draw: Draw,
    max_tokens: int,
) -> Responses:
    """Continues every prompt by up to `max_tokens` tokens.

    Args:
      model: every prompt and its response fit its `max_length`.
      prompts_BP: int32, padded on the left.
      mask_BP: bool, False where there is padding. A row without any token is padding
        as a whole: its response is empty.
      max_tokens: room for the longest response, R.
    """
    state = start(model, params, prompts_BP, mask_BP, max_tokens)
    done_B = state.responses.done_B
    return advance(model, params, state, done_B, draw, max_tokens).responses


def start(model: Model, params: Params, prompts_BP, mask_BP, room: int) -> State:
    """The state before the first token; arguments are those of `sample`.

    The last token of the prompts is left for the loop to read, so that drawing is a
    part of one program only.
    """
    length_B = mask_BP.sum(axis=1, dtype=jnp.int32)
    positions_BP = jnp.cumsum(mask_BP, axis=1, dtype=jnp.int32) - 1
    positions_BP = jnp.where(mask_BP, positions_BP, -1)
    cache = _prefill(model, params, prompts_BP[:, :-1], positions_BP[:, :-1], room)
    B = len(prompts_BP)
    responses = Responses(
        tokens_BR=jnp.zeros((B, room), jnp.int32),
        logps_BR=jnp.zeros((B, room), jnp.float32),
        model_logps_BR=jnp.zeros((B, room), jnp.float32),
        length_B=jnp.zeros(B, jnp.int32),
        done_B=length_B == 0,
    )
    last_B = prompts_BP[:, -1].astype(jnp.int32)
    responses = _everywhere(responses)  # as `advance` leaves it: one program for both
    return State(responses, last_B, length_B - 1, jnp.int32(0), cache)


def _prefill(model, params, tokens_BT, positions_BT, room: int):
    """A cache that holds the tokens and has room for more."""
    B, T = tokens_BT.shape
    slices = -(-T // PREFILL)
    padding = -T % slices if slices else 0  # less than a token a slice
    # The last token of a response is never read, but the last of the prompt is.
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


def advance(
    model: Model, params, state: State, done_B, draw: Draw, until: jax.Array | int
) -> State:
    """Draws on until responses have `until` tokens or all are done.

    `done_B` takes the place of the state's own: the host may know better, since stop
    strings are not seen here. `until` is at most the room that the state has.
    """
    state = state._replace(responses=state.responses._replace(done_B=done_B))

    def unfinished(state):
        return (state.step < until) & ~state.responses.done_B.all()

    def one_more(state):
        position_B = jnp.where(state.responses.done_B, -1, state.position_B)
        x_B1D, cache = model.extend(
            params, state.last_B[:, None], position_B[:, None], state.cache
        )
        logits_BV = model.unembed(params, x_B1D)[:, 0]
        token_B, responses = _append(logits_BV, draw, state.responses, state.step)
        return State(responses, token_B, state.position_B + 1, state.step + 1, cache)

    state = jax.lax.while_loop(unfinished, one_more, state)
    return state._replace(responses=_everywhere(state.responses))


def _everywhere(responses: Responses) -> Responses:
    """All rows on every device, so that every host may read them."""
    return jax.tree.map(lambda x: sharding.constrain(x, *[None] * x.ndim), responses)


def _append(logits_BV, draw: Draw, r: Responses, step) -> tuple[jax.Array, Responses]:
    """Draws a token for every row that is not done, and writes it at place `step`."""
    keys_B = jax.vmap(jax.random.fold_in, (0, None))(draw.keys_B, step)
    allowed_BV = jnp.where(draw.allowed_V, logits_BV, -jnp.inf)
    token_B, logp_B = distribution.draw(allowed_BV, keys_B, draw.settings)
    logit_B = jnp.take_along_axis(logits_BV, token_B[:, None], axis=-1)[:, 0]
    model_logp_B = logit_B - jax.nn.logsumexp(logits_BV, axis=-1)

    def put(old_BR, new_B):
        new_B1 = jnp.where(r.done_B, 0, new_B)[:, None]
        return jax.lax.dynamic_update_slice_in_dim(old_BR, new_B1, step, axis=1)

    return token_B, Responses(
        tokens_BR=put(r.tokens_BR, token_B),
        logps_BR=put(r.logps_BR, logp_B),
        model_logps_BR=put(r.model_logps_BR, model_logp_B),
        length_B=r.length_B + ~r.done_B,
        done_B=r.done_B | jnp.take(draw.stops_V, token_B),
    )
