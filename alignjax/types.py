# SPDX-License-Identifier: Apache-2.0
"""The vocabulary of alignjax: what flows between data, models, losses and steps.

Names carry the axes of an array as a suffix, one letter an axis:

    B batch    T time (queries)    S time (keys)    D model    N heads
    K kv heads    H head    F mlp    V vocabulary    L layers    C chunks    2 pair

so `x_BTD` is an array of shape [batch, time, model]. This is the one legend.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import flax.struct
import jax
import jax.numpy as jnp

# A nested dict of arrays with stable paths, such as `layers/attention/q/kernel`.
Params = dict[str, Any]


@flax.struct.dataclass
class Sequences:
    """Rows of tokens, already shifted: `targets[t]` is what follows `inputs[t]`.

    Every field is `[..., T]`; on the host numpy, in a step jax arrays.

    Attributes:
      inputs: int32, the tokens that the model reads.
      targets: int32, the token that follows each input.
      weights: float32, how much each target counts in the loss; 0 where nothing is
        to be learned (padding, prompts, the join of two documents).
      segment_ids: int32, which document of the row a position belongs to, from 1;
        0 is padding. Attention never crosses from one id to another.
      positions: int32, the position inside the document, from 0.
    """

    inputs: Any
    targets: Any
    weights: Any
    segment_ids: Any
    positions: Any


@flax.struct.dataclass
class Mean:
    """A mean kept as a total and a weight, so that it can be summed and divided once.

    Both are float32 scalars. Sums over microbatches, devices and batches are exact:
    no mean of means ever arises.
    """

    total: Any
    weight: Any

    def __add__(self, other: Mean) -> Mean:
        return Mean(self.total + other.total, self.weight + other.weight)

    def value(self):
        """`total / weight`; 0 where the weight is 0, which is a mean of nothing."""
        empty = self.weight == 0
        return jnp.where(empty, 0.0, self.total / jnp.where(empty, 1.0, self.weight))


@flax.struct.dataclass
class LogProbs:
    """What one model says of whole responses: float32 sums over a response's tokens.

    Every field has one value a response: [B, 2] for pairs, the chosen one first; [B]
    for responses judged alone; [B, K] for ranked lists, the best one first. Only the
    tokens of the response count, its terminator included. The fields from `head` on
    are filled where a loss needs them (`Traits.needs`), else None.

    Attributes:
      total: the log-probability of the response, in nats.
      length: the number of its tokens.
      head: as `total`, over the first m tokens, m the length of the pair's shorter one.
      sample: as `head`, over m tokens drawn at random without replacement; the same
        tokens under policy and reference.
      reference_kl: the sum over positions of KL(reference || policy) over the
        vocabulary; of the policy alone.
      collision: the sum over positions of log sum_v p(v)^2, the log-probability that
        two draws from the model agree.
      mismatched: the `total` of another prompt's response after this prompt.
    """

    total: Any
    length: Any
    head: Any = None
    sample: Any = None
    reference_kl: Any = None
    collision: Any = None
    mismatched: Any = None

    @property
    def mean(self):
        """Nats a token; 0 for an empty response, never a division by zero."""
        return self.total / jnp.maximum(self.length, 1)


class Model(NamedTuple):
    """A language model as pure functions over plain `Params`.

    Attributes:
      config: the frozen dataclass that it was built from.
      init: `(key) -> Params` whose leaves are boxed with the names of their axes.
      hidden: `(params, sequences, key=None) -> x_BTD` in the compute dtype; `key`
        turns dropout on.
      unembed: `(params, x_BTD) -> logits_BTV`, float32. Apart from `hidden` so that
        log-probabilities can be computed in chunks of time.
      init_cache: `(batch, length) -> cache`, room for `length` tokens a row.
      extend: `(params, tokens_BT, positions_BT, cache) -> (x_BTD, cache)`, appends T
        tokens to every row of the cache; a position of -1 marks padding, which no
        query ever sees.
    """

    config: Any
    init: Callable[[jax.Array], Params]
    hidden: Callable[..., jax.Array]
    unembed: Callable[[Params, jax.Array], jax.Array]
    init_cache: Callable[[int, int], Any]
    extend: Callable[..., tuple[jax.Array, Any]]


class Objective(NamedTuple):
    """What is learned from a batch.

    Attributes:
      loss: `(params, frozen, batch, key) -> (Mean, {name: Mean})`, the loss and further
        metrics, summed and not yet divided. Its `total` is what is differentiated.
    """

    loss: Callable[..., tuple[Mean, dict[str, Mean]]]


@flax.struct.dataclass
class TrainState:
    """What a step changes and a checkpoint keeps; everything else is an argument.

    `step` is int32 and counts steps begun, so it is also the index of the next batch.
    """

    step: Any
    params: Params
    opt_state: Any


@flax.struct.dataclass
class Frozen:
    """What a step reads and never changes: never donated, never checkpointed.

    Attributes:
      base: the untrained part of the policy, merged with `params` to make a model.
      reference: the parameters of a reference model, where an objective has one.
    """

    base: Params = flax.struct.field(default_factory=dict)
    reference: Params | None = None
