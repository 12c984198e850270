# SPDX-License-Identifier: Apache-2.0
"""The log-probs of given continuations, and whether greedy decoding would write them.

Continuations of one context that differ in their last token alone, such as the letters
of a multiple choice, share one pass; the head is applied to their own positions and to
no others. Rows are sorted by length, and padded little.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from alignjax import types
from alignjax.analysis import scoring
from alignjax.objectives import logprobs

ROWS = 32  # at one time
PLACES = 1 << 15  # of tokens at one time, at most
LEAST = 16  # tokens that a row is padded to


class Likelihood(NamedTuple):
    """Of one continuation: the sum of its log-probs in nats, and whether it is greedy.

    It is greedy where no token is likelier than any of its own.
    """

    logp: float
    greedy: bool


class _Shared(NamedTuple):
    """A context with all but the last token, and what may be the last.

    Attributes:
      start: the number of tokens of the context.
      inputs: of the model.
      last: its last tokens, and the index of the row of each.
    """

    start: int
    inputs: tuple[int, ...]
    last: dict[int, list[int]]


def measure(
    model: types.Model,
    params: types.Params,
    rows: Sequence[scoring.Row],
    *,
    batch_size: int = ROWS,
    progress: Callable[[int], None] = lambda done: None,
) -> list[Likelihood]:
    """The likelihood of `ids` after `prompt_ids` of every row, in their order.

    Args:
      batch_size: rows at one time at most; fewer of long ones.
      progress: called with the number of rows that are done.

    Raises:
      ValueError: a row that the model cannot score; see `scoring.fault`.
    """
    for row in rows:
        if reason := scoring.fault(row, model.config):
            raise ValueError(reason)
    results: list[Likelihood | None] = [None] * len(rows)
    done = 0
    for group, arrays in _batches(_shared(rows), model.config.max_length, batch_size):
        logp_BC, hit_BC, last_logp_BK, last_hit_BK = jax.device_get(
            _figures(model, params, *arrays)
        )
        for b, shared in enumerate(group):
            count = len(shared.inputs) - shared.start
            before = float(logp_BC[b, :count].sum(dtype=np.float64))
            greedy = bool(hit_BC[b, :count].all())
            for k, places in enumerate(shared.last.values()):
                one = Likelihood(
                    before + float(last_logp_BK[b, k]),
                    greedy and bool(last_hit_BK[b, k]),
                )
                for place in places:
                    results[place] = one
                done += len(places)
        progress(done)
    return results


def _shared(rows: Sequence[scoring.Row]) -> list[_Shared]:
    """Rows by what they share, the longest first, so that memory runs out at once."""
    groups: dict[tuple, _Shared] = {}
    for i, (before, ids) in enumerate(rows):
        inputs = (*before, *ids[:-1])
        shared = groups.setdefault(
            (len(before), inputs), _Shared(len(before), inputs, {})
        )
        shared.last.setdefault(ids[-1], []).append(i)
    return sorted(groups.values(), key=lambda x: (-len(x.inputs), x.inputs))


def _batches(
    groups: Sequence[_Shared], max_length: int, batch_size: int
) -> Iterator[tuple[Sequence[_Shared], tuple]]:
    """Groups of about one length, and the arrays of `_figures`."""
    at = 0
    while at < len(groups):
        T = min(padded(len(groups[at].inputs)), max_length)
        B = min(batch_size, max(1, PLACES // T))
        group = groups[at : at + B]
        at += len(group)
        if len(group) < B:  # the last of all
            B = min(B, 1 << (len(group) - 1).bit_length())
        most = max(len(x.inputs) - x.start for x in group)
        C = 0 if not most else min(padded(most), T)
        K = 1 << (max(len(x.last) for x in group) - 1).bit_length()
        inputs = [list(x.inputs) for x in group] + [[]] * (B - len(group))
        sequences = types.Sequences.of(inputs, length=T, last=True)
        places_BC, targets_BC = np.zeros((2, B, C), np.int32)
        ends_B, last_BK = np.zeros(B, np.int32), np.zeros((B, K), np.int32)
        for b, (start, tokens, last) in enumerate(group):
            targets = tokens[start:]
            places_BC[b, : len(targets)] = np.arange(start, len(tokens)) - 1
            targets_BC[b, : len(targets)] = targets
            ends_B[b] = len(tokens) - 1
            last_BK[b, : len(last)] = list(last)
        yield group, (sequences, places_BC, targets_BC, ends_B, last_BK)


def padded(length: int) -> int:
    """A size of rows: at most a quarter more, so few programs and little waste."""
    step = max(LEAST, (1 << (length - 1).bit_length()) // 8)
    return -(-length // step) * step


@functools.partial(jax.jit, static_argnums=0)
def _figures(model: types.Model, params, rows, places_BC, targets_BC, ends_B, last_BK):
    """Log-probs and hits [B, C] of targets, and [B, K] of the last tokens."""
    x_BTD = model.hidden(params, rows)
    at = lambda places: jnp.take_along_axis(x_BTD, places[..., None], axis=1)
    logits_BV = model.unembed(params, at(ends_B[:, None]))[:, 0]
    picked_BK = jnp.take_along_axis(logits_BV, last_BK, axis=1)
    last_logp_BK = picked_BK - jax.nn.logsumexp(logits_BV, axis=1, keepdims=True)
    last_hit_BK = picked_BK >= logits_BV.max(1, keepdims=True)
    if not targets_BC.shape[1]:
        nothing = jnp.zeros(targets_BC.shape)
        return nothing, nothing > 0, last_logp_BK, last_hit_BK
    own = model._replace(hidden=lambda params, sequences, key=None: at(places_BC))
    tokens = logprobs.tokens(
        own, params, rows.replace(targets=targets_BC), needs=("hit",)
    )
    return tokens.logp, tokens.hit > 0, last_logp_BK, last_hit_BK
