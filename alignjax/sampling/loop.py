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

from alignjax import sharding
from alignjax.losses import language_model
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
    """Between two iterations: every row that is not done has `step` tokens."""

    responses: Responses
    prompt_length_B: jax.Array
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
      model: what to ask; every prompt and its response fit its `max_length`.
      params: its parameters.
      prompts_BP: int32, padded on the left.
      mask_BP: bool, False where there is padding. A row without any token is padding
        as a whole: its response is empty.
      draw: keys and settings.
      max_tokens: room for the longest response, R.
    """
    state = start(model, params, prompts_BP, mask_BP, draw, max_tokens)
    done_B = state.responses.done_B
    return advance(model, params, state, done_B, draw, max_tokens).responses


def start(model: Model, params, prompts_BP, mask_BP, draw: Draw, room: int) -> State:
    """The state with the first token of each response; arguments as for `sample`."""
    B, P = prompts_BP.shape
    prompt_length_B = mask_BP.sum(axis=1, dtype=jnp.int32)
    counted_BP = jnp.cumsum(mask_BP, axis=1, dtype=jnp.int32) - 1
    positions_BP = jnp.where(mask_BP, counted_BP, -1)
    # The last token of a response is never read, so it needs no slot.
    cache = model.init_cache(B, P + room - 1)
    x_BD, cache = _prefill(model, params, prompts_BP, positions_BP, cache)
    state = State(
        Responses(
            tokens_BR=jnp.zeros((B, room), jnp.int32),
            logps_BR=jnp.zeros((B, room), jnp.float32),
            model_logps_BR=jnp.zeros((B, room), jnp.float32),
            length_B=jnp.zeros(B, jnp.int32),
            done_B=prompt_length_B == 0,
        ),
        prompt_length_B,
        jnp.int32(0),
        cache,
    )
    return _append(model, params, x_BD, draw, state)


def _prefill(model, params, prompts_BP, positions_BP, cache):
    """Puts the prompts into the cache; returns what the model makes of their last."""
    P = prompts_BP.shape[1]
    if P <= PREFILL or P % PREFILL:
        x_BPD, cache = model.extend(params, prompts_BP, positions_BP, cache)
        return x_BPD[:, -1], cache
    split = lambda x: x.reshape(-1, P // PREFILL, PREFILL).swapaxes(0, 1)

    def extend(cache, part):
        x_BTD, cache = model.extend(params, *part, cache)
        return cache, x_BTD[:, -1]

    parts = (split(prompts_BP), split(positions_BP))
    cache, x_CBD = jax.lax.scan(extend, cache, parts)
    return x_CBD[-1], cache


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
        last_B1 = jax.lax.dynamic_slice_in_dim(
            state.responses.tokens_BR, state.step - 1, 1, axis=1
        )
        position_B = state.prompt_length_B + state.step - 1
        position_B = jnp.where(state.responses.done_B, -1, position_B)
        x_B1D, cache = model.extend(params, last_B1, position_B[:, None], state.cache)
        state = state._replace(cache=cache)
        return _append(model, params, x_B1D[:, 0], draw, state)

    return jax.lax.while_loop(unfinished, one_more, state)


def _append(model, params, x_BD, draw: Draw, state: State) -> State:
    """Draws what follows `x_BD` and writes it at place `step` of every row not done."""
    r, step = state.responses, state.step
    logits_BV = model.unembed(params, x_BD[:, None])[:, 0]
    keys_B = jax.vmap(jax.random.fold_in, (0, None))(draw.keys_B, step)
    allowed_BV = jnp.where(draw.allowed_V, logits_BV, -jnp.inf)
    tokens_B, logps_B = distribution.draw(allowed_BV, keys_B, draw.settings)
    model_logps_B, _ = language_model.token_logp(logits_BV, tokens_B)

    def put(old_BR, new_B):
        # Every device gets all rows, so that any host may read them.
        new_B = sharding.constrain(jnp.where(r.done_B, 0, new_B), None)
        return jax.lax.dynamic_update_slice_in_dim(old_BR, new_B[:, None], step, axis=1)

    responses = Responses(
        tokens_BR=put(r.tokens_BR, tokens_B),
        logps_BR=put(r.logps_BR, logps_B),
        model_logps_BR=put(r.model_logps_BR, model_logps_B),
        length_B=r.length_B + ~r.done_B,
        done_B=r.done_B | draw.stops_V[tokens_B],
    )
    return state._replace(responses=responses, step=step + 1)
