# SPDX-License-Identifier: Apache-2.0
"""The distribution that tokens are drawn from, and drawing from it.

From logits to the stated distribution, in the order of Hugging Face's `generate`:

1. forbidden tokens are taken out;
2. temperature t: logits / t; t = 0 is greedy, all the mass on the first maximum;
3. top-k: exactly the k most probable; of equals, those with the smaller ids;
4. top-p: the most probable tokens before which less than p of the mass of (3) lies
   (arXiv:1904.09751), so at least one, and the one that crosses p is in;
5. min-p: tokens at least min_p times as probable as the best (arXiv:2407.01082);
6. what is left is normalised.
"""

from __future__ import annotations

import dataclasses
import math

import jax
import jax.numpy as jnp

from alignjax import errors
from alignjax.sampling import noise

# Below this float32 quotients of logits overflow; such a temperature is greedy anyway.
COLDEST = 1e-6


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Settings:
    """Checked settings; make them with `settings`.

    A pytree: numbers may change from call to call of a compiled function, but which of
    the filters are on, and the k of top-k, are part of the program.

    Attributes:
      temperature: positive; None is greedy.
      top_p, min_p: in (0, 1); None is off.
      top_k: at least 1; None is off.
    """

    temperature: float | jax.Array | None = 1.0
    top_p: float | jax.Array | None = None
    min_p: float | jax.Array | None = None
    top_k: int | None = dataclasses.field(default=None, metadata=dict(static=True))


def settings(
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    min_p: float | None = None,
) -> Settings:
    """The settings, with what has no effect switched off.

    Raises:
      ConfigError: a value outside of its range, all such at once.
    """
    problems = []
    if not _is_number(temperature) or not (temperature == 0 or temperature >= COLDEST):
        problems.append(
            f"temperature: {temperature!r} is neither 0, which is greedy, nor a number "
            f"from {COLDEST} up"
        )
    if top_k is not None and (not _is_number(top_k, int) or top_k < 1):
        problems.append(
            f"top_k: {top_k!r} is not a whole number from 1 up; None keeps all tokens"
        )
    if top_p is not None and (not _is_number(top_p) or not 0 < top_p <= 1):
        problems.append(f"top_p: {top_p!r} is not in (0, 1]; None keeps all tokens")
    if min_p is not None and (not _is_number(min_p) or not 0 <= min_p <= 1):
        problems.append(f"min_p: {min_p!r} is not in [0, 1]; None keeps all tokens")
    if problems:
        raise errors.ConfigError(problems)
    if temperature == 0:
        return Settings(None)  # every filter keeps the best token
    return Settings(
        temperature=float(temperature),
        top_p=None if top_p == 1 else top_p,
        min_p=min_p or None,
        top_k=top_k,
    )


def _is_number(value, kind=(int, float)) -> bool:
    is_kind = isinstance(value, kind) and not isinstance(value, bool)
    return is_kind and math.isfinite(value)


def candidates(logits_BV: jax.Array, chosen: Settings) -> tuple[jax.Array, jax.Array]:
    """The tokens that may be drawn, and their log-probabilities.

    Args:
      logits_BV: float32; -inf forbids a token. At least one a row is finite.
      chosen: what shapes the distribution.

    Returns:
      `(logps_BC, ids_BC)`, float32 and int32: normalised log-probabilities, -inf for
      what the filters took out, and the tokens they belong to. C is 1 where greedy, k
      with top-k, else V; the order is that of the vocabulary unless a filter sorts.
    """
    B, V = logits_BV.shape
    if chosen.temperature is None:
        return jnp.zeros((B, 1), jnp.float32), _first_maximum(logits_BV)
    # From the maximum down, so that a low temperature does not overflow.
    logits_BC = logits_BV - logits_BV.max(axis=-1, keepdims=True)
    logits_BC /= chosen.temperature
    ids_BC = jnp.broadcast_to(jnp.arange(V, dtype=jnp.int32), (B, V))
    if chosen.top_k is not None and chosen.top_k < V:
        logits_BC, ids_BC = jax.lax.top_k(logits_BC, chosen.top_k)
    elif chosen.top_p is not None:
        # Stable, so that of equals the smaller id comes first, as in top_k.
        falling_BV, ids_BC = jax.lax.sort((-logits_BC, ids_BC), num_keys=1)
        logits_BC = -falling_BV
    keep_BC = jnp.ones_like(logits_BC, dtype=bool)
    if chosen.top_p is not None:
        probs_BC = jax.nn.softmax(logits_BC, axis=-1)
        before_BC = jnp.cumsum(probs_BC, axis=-1) - probs_BC
        keep_BC &= before_BC < chosen.top_p
        keep_BC = keep_BC.at[:, 0].set(True)  # rounding may leave more than 0 before it
    if chosen.min_p is not None:
        keep_BC &= logits_BC >= jnp.log(chosen.min_p)  # the maximum is 0
    logits_BC = jnp.where(keep_BC, logits_BC, -jnp.inf)
    return jax.nn.log_softmax(logits_BC, axis=-1), ids_BC


def draw(
    logits_BV: jax.Array, keys_B: jax.Array, chosen: Settings
) -> tuple[jax.Array, jax.Array]:
    """One token a row, each from its own key.

    Returns:
      `(tokens_B, logps_B)`, int32 and float32: the log-probability of each token under
      the stated distribution, which is 0 where it is greedy.
    """
    logps_BC, ids_BC = candidates(logits_BV, chosen)
    if chosen.temperature is None:
        return ids_BC[:, 0], logps_BC[:, 0]
    # The maximum of log-probabilities plus Gumbel noise is a draw (arXiv:1411.0030).
    picked_B1 = _first_maximum(logps_BC + noise.gumbel(keys_B, logps_BC.shape[1]))
    pick = lambda x_BC: jnp.take_along_axis(x_BC, picked_B1, axis=-1)[:, 0]
    return pick(ids_BC), pick(logps_BC)


def _first_maximum(x_BC: jax.Array) -> jax.Array:
    """As argmax, int32 [B, 1], in two passes, which CPUs do several numbers at a time.

    In one pass, fused with the logarithms of the noise, it took a quarter of a step. Of
    a row with NaN it is the first place.
    """
    last = x_BC.shape[1] - 1
    place_BC = jax.lax.broadcasted_iota(jnp.int32, x_BC.shape, 1)
    is_best_BC = ~(x_BC < x_BC.max(axis=-1, keepdims=True))
    return jnp.where(is_best_BC, place_BC, last).min(axis=-1, keepdims=True)
