# SPDX-License-Identifier: Apache-2.0
"""What models think of given tokens: log-probabilities, entropy, divergence."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from alignjax.types import Model, Params, Sequences

# Rows of one program; lengths are padded to multiples of `STRIDE`.
ROWS, STRIDE = 32, 64


class Given(NamedTuple):
    """Tokens, and what comes before them; `before` has one token at least."""

    before: Sequence[int]
    ids: Sequence[int]


class Thought(NamedTuple):
    """What models think of each row's `ids`, in nats, float64 [rows], summed over them.

    Attributes:
      logp: log p(ids | before).
      reference: the same under the reference.
      entropy: of the model's distribution at each of the ids.
      kl: KL(model || reference) at each of them, over the whole vocabulary. Over
        responses that the model drew its mean estimates the same divergence as
        `logp - reference` does, with less variance (arXiv:2504.10637).
      length: how many ids there are.
    """

    logp: np.ndarray
    reference: np.ndarray
    entropy: np.ndarray
    kl: np.ndarray
    length: np.ndarray


def think(
    model: Model,
    params: Params,
    rows: Sequence[Given],
    reference: Params | None = None,
    *,
    tell: Callable[[int], None] = lambda done: None,
) -> Thought:
    """Teacher forcing of every row, and of the reference along with it.

    Args:
      model: what to ask; the reference has the same shape.
      params: its parameters.
      rows: what to read; at least one, none of them longer than the model's context.
      reference: parameters of another model; None for the model itself.
      tell: called with the number of rows that are done.

    Raises:
      ValueError: a row that is empty, or too long, or has nothing before it.
    """
    for row in rows:
        size = len(row.before) + len(row.ids)
        if not row.before or not row.ids or size > model.config.max_length:
            raise ValueError(
                f"{len(row.before)} tokens and {len(row.ids)} to be judged: need one "
                f"of each at least and {model.config.max_length} at most in all"
            )
    reference = params if reference is None else reference
    order = sorted(range(len(rows)), key=lambda i: sum(map(len, rows[i])))
    out_FN = np.zeros((4, len(rows)))
    for start in range(0, len(order), ROWS):
        chosen = order[start : start + ROWS]
        batch = pad([rows[i] for i in chosen])
        sums_FB = _think(model, params, reference, batch)
        out_FN[:, chosen] = np.asarray(sums_FB)[:, : len(chosen)]
        tell(start + len(chosen))
    return Thought(*out_FN, np.array([len(row.ids) for row in rows]))


def pad(rows: Sequence[Given]) -> Sequences:
    """`ROWS` rows [ROWS, T] of one document each, `weights` 1 at its `ids`."""
    longest = max(len(row.before) + len(row.ids) for row in rows) - 1
    padding = ROWS - len(rows)
    return Sequences.of(
        [[*row.before, *row.ids] for row in rows] + [[]] * padding,
        prompts=[len(row.before) for row in rows] + [0] * padding,
        length=-(-longest // STRIDE) * STRIDE,
    )


@functools.partial(jax.jit, static_argnums=0)
def _think(model: Model, params, reference, batch: Sequences):
    def logps(params):
        logits_BTV = model.unembed(params, model.hidden(params, batch))
        return jax.nn.log_softmax(logits_BTV, axis=-1)

    ours_BTV, theirs_BTV = logps(params), logps(reference)
    probs_BTV = jnp.exp(ours_BTV)
    target = lambda logps_BTV: jnp.take_along_axis(
        logps_BTV, batch.targets[..., None], axis=-1
    )[..., 0]
    expected = lambda x_BTV: (probs_BTV * x_BTV).sum(-1)
    figures = (
        target(ours_BTV),
        target(theirs_BTV),
        -expected(ours_BTV),
        expected(ours_BTV - theirs_BTV),
    )
    # Where, not times: what padding holds may not be finite.
    kept = batch.weights > 0
    return jnp.stack([jnp.where(kept, x_BT, 0.0).sum(-1) for x_BT in figures])
