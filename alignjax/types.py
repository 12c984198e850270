# SPDX-License-Identifier: Apache-2.0
"""The vocabulary of alignjax: what flows between data, models, losses and steps.

Names carry the axes of an array as a suffix, one letter an axis:

    B batch    T time (queries)    S time (keys)    D model    N heads
    K kv heads, or responses of a group    H head    F mlp    V vocabulary    L layers
    C chunks    R sequences of a row    P groups of a row    A attributes    2 pair
    E experts    J the experts that one token goes through
    G prompts of a rollout, each with a group of K responses

so `x_BTD` is an array of shape [batch, time, model]. This is the one legend.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

# A nested dict of arrays with stable paths, such as `layers/attention/q/kernel`.
Params = dict[str, Any]


# The kinds of data: documents, or groups of responses of which the first is better, the
# order is known, each is good or bad, or each has a grade; or prompts alone, to which
# the policy draws the responses itself.
Data = Literal["text", "pairs", "rankings", "labels", "ratings", "prompts"]


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
      branches: int32, or None where no document has any: continuations of one beginning
        that do not see each other. 0 is the beginning, k > 0 its k-th continuation,
        which attends to the beginning and to itself.
      one_document: whether each row is one document, followed by padding alone. It is
        no array but part of the program, in which attention then needs no mask.
    """

    inputs: Any
    targets: Any
    weights: Any
    segment_ids: Any
    positions: Any
    branches: Any = None
    one_document: bool = flax.struct.field(pytree_node=False, default=False)

    @classmethod
    def of(
        cls,
        rows: Sequence[Sequence[int]],
        *,
        prompts: Sequence[int] | None = None,
        length: int | None = None,
        last: bool = False,
    ) -> Sequences:
        """Rows of one document each, as numpy arrays [B, T], from token ids.

        Args:
          rows: the tokens of each document; an empty row is all padding.
          prompts: how many tokens each document begins with that are not learned; by
            default 1, since nothing predicts the first.
          length: T; by default as many as the longest document needs.
          last: whether the last token is an input too, with a target of weight 0: for
            scores, and for what the model predicts next.

        Raises:
          ValueError: a document that is longer than `length`.
        """
        prompts = [1] * len(rows) if prompts is None else prompts
        sizes = [max(0, len(row) - (not last)) for row in rows]
        length = max(sizes) if length is None else length
        inputs, targets, segment_ids, positions = np.zeros(
            (4, len(rows), length), np.int32
        )
        weights = np.zeros((len(rows), length), np.float32)
        for i, (row, prompt, size) in enumerate(zip(rows, prompts, sizes, strict=True)):
            if size > length:
                raise ValueError(f"rows[{i}]: {size} inputs, more than length {length}")
            learned = max(0, len(row) - 1)
            inputs[i, :size], targets[i, :learned] = row[:size], row[1:]
            weights[i, max(0, prompt - 1) : learned] = 1
            segment_ids[i, :size], positions[i, :size] = 1, np.arange(size)
        arrays = (inputs, targets, weights, segment_ids, positions)
        return cls(*arrays, one_document=True)


@flax.struct.dataclass
class Responses:
    """Groups of K responses to one prompt each: pairs, ranked lists, or single ones.

    A batch has B rows, each of R sequences with P groups. Three layouts say the same:
    padded (R = K, P = 1: a sequence for each response), packed (R = 1: each response is
    a segment, after its own copy of the prompt) and shared (R = 1: each group is one
    segment, its responses are branches).

    Attributes:
      sequences: every field [B, R, T]; `weights` are 1 at the tokens of responses.
      responses: int32 [B, R, T], whose response a target belongs to: 1 + p K + k, or 0
        for prompts and padding.
      lengths: int32 [B, P, K], tokens of each response, its terminator included; 0
        where there is no such response.
      weights: float32 [B, P], what each group counts; 0 where there is none.
      index: int32 [B, P], a number of each group's own, from which what is random about
        it follows; -1 where there is none.
      values: float32 [B, P], [B, P, K] or [B, P, A] by name: what is known of a group,
        such as `margin`, `gap`, `probability`, `desirable`, `reward`, `target`.
      reference: float32 [B, R, T], the reference's log-probability of each target, or
        None where the reference model itself is asked.
    """

    sequences: Sequences
    responses: Any
    lengths: Any
    weights: Any
    index: Any
    values: dict[str, Any]
    reference: Any = None


@flax.struct.dataclass
class Mean:
    """A mean kept as a total and a weight, so that it can be summed and divided once.

    Both are float32 scalars. Sums over microbatches, devices and batches are exact:
    no mean of means ever arises.
    """

    total: Any
    weight: Any

    @classmethod
    def of(cls, x, weight) -> Mean:
        """The weighted mean of arrays; where the weight is 0, `x` may be anything."""
        total = jnp.where(weight > 0, x * weight, 0.0).sum(dtype=jnp.float32)
        return cls(total, weight.sum(dtype=jnp.float32))

    def __add__(self, other: Mean) -> Mean:
        return Mean(self.total + other.total, self.weight + other.weight)

    def value(self):
        """`total / weight`; 0 where the weight is 0, which is a mean of nothing."""
        empty = self.weight == 0
        return jnp.where(empty, 0.0, self.total / jnp.where(empty, 1.0, self.weight))


@flax.struct.dataclass
class LogProbs:
    """Log-probabilities of whole responses under one model: float32 sums over tokens.

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
      mismatched: the `total` of another prompt's response after this prompt; 0 where
        there is none.
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


@flax.struct.dataclass
class Now:
    """Tokens that were sampled, under the policy that is trained: float32 [..., T].

    A gradient goes through every field. Those after the first are filled where a loss
    needs them (`Traits.needs`), else None.

    Attributes:
      logp: log-probabilities at the temperature of the sampler.
      entropy: of the distribution over the vocabulary, in nats.
      kl: KL(policy || reference) over the vocabulary, in nats.
      value: the critic's value of the state in which the token was drawn.
    """

    logp: Any
    entropy: Any = None
    kl: Any = None
    value: Any = None


@flax.struct.dataclass
class Then:
    """The same tokens as they were before the first update on them: [..., T].

    All are constants, float32 but for `action`; those of `old` to `reference` are
    log-probabilities at the temperature of the sampler.

    Attributes:
      action: bool, the tokens that the policy drew, terminators included; at others,
        padding among them, every field of `Now` and `Then` may have any number.
      advantage: how much better than expected each turned out.
      old: under the parameters that sampled, by the program that trains.
      behaviour: what the sampler says that it drew from.
      reference: under the reference model.
      value: the critic's.
      returns: the critic's targets.
    """

    action: Any
    advantage: Any
    old: Any
    behaviour: Any = None
    reference: Any = None
    value: Any = None
    returns: Any = None


@flax.struct.dataclass
class Rollout:
    """Responses that the policy drew, and what is learned from them.

    K responses to each of G prompts; T' is the room for a response, whose tokens are in
    their order from 0, whatever the layout of `responses` is. A rollout has one prompt
    a row. A minibatch may have P prompts in each of B rows; then `then`, `token` and
    `share` have [B, P] in the place of [G].

    Attributes:
      responses: the batch that models read.
      then: fields [G, K, T'].
      token: float32 [G, K, T'], the weight of each token in the loss.
      share: float32 [G, K], what each response adds to what the loss is divided by.
      figures: float32 by name, one a row and the same number for all: what
        `TrainState.extra` follows, such as the `kl` of the whole rollout.
      pretraining: rows of text whose loss is added (PPO-ptx), `Sequences` [B', T] with
        weights in the units of `share`; or None.
    """

    responses: Responses
    then: Then
    token: Any
    share: Any
    figures: dict[str, Any] = flax.struct.field(default_factory=dict)
    pretraining: Sequences | None = None

    @property
    def sequences(self) -> Sequences:
        """Those of the responses, [B, R, T]."""
        return self.responses.sequences


@flax.struct.dataclass
class Routing:
    """Where a model with experts sent the tokens of each row, summed over its layers.

    Only tokens of documents count, not padding. All float32; a gradient goes through
    `probability` and `z`.

    Attributes:
      chosen: [B, E], how many tokens went through each expert.
      probability: [B, E], the sum of the probabilities that the router gave it.
      entropy: [B], the sum of the entropies of these distributions, in nats.
      z: [B], the sum of the squared log-normalisers of the router's logits.
      tokens: [B], how many tokens were counted, once for each layer.
    """

    chosen: Any
    probability: Any
    entropy: Any
    z: Any
    tokens: Any


class Model(NamedTuple):
    """A language model as pure functions over plain `Params`.

    Attributes:
      config: the frozen dataclass that it was built from.
      init: `(key) -> Params` whose leaves are boxed with the names of their axes.
      hidden: `(params, sequences, key=None) -> x_BTD` in the compute dtype; `key`
        turns dropout and noise on. With `every_layer=True` it gives the embeddings and
        the output of every layer before the last norm, float32 [L + 1, B, T, D].
      unembed: `(params, x_BTD) -> logits_BTV`, float32. Apart from `hidden` so that
        log-probabilities can be computed in chunks of tokens.
      init_cache: `(batch, length) -> cache`, room for `length` tokens a row.
      extend: `(params, tokens_BT, positions_BT, cache) -> (x_BTD, cache)`, appends T
        tokens to every row of the cache; a position of -1 marks padding, which no
        query ever sees.
      score: `(params, x_BTD) -> score_BTH`, float32, the scalar heads of a reward model
        at every position; H is 0 for a model that has none.
      head: `(params) -> head_DV`, the matrix by which `unembed` multiplies.
      cap: `(products) -> logits`, float32, of the products of hidden states and head.
      routing: as `hidden`, with a `Routing` beside x_BTD; None for a model that has no
        experts.
      norm: `(params, x_BTD) -> x_BTD`, the last norm, which `hidden` ends with.
      by_layer: `(params) -> params`, as `extend` reads them with the least copying, for
        loops over tokens; `unembed` and `extend` alone take them.
    """

    config: Any
    init: Callable[[jax.Array], Params]
    hidden: Callable[..., jax.Array]
    unembed: Callable[[Params, jax.Array], jax.Array]
    init_cache: Callable[[int, int], Any]
    extend: Callable[..., tuple[jax.Array, Any]]
    score: Callable[[Params, jax.Array], jax.Array]
    head: Callable[[Params], jax.Array]
    cap: Callable[[jax.Array], jax.Array]
    routing: Callable[..., tuple[jax.Array, Routing]] | None = None
    norm: Callable[[Params, jax.Array], jax.Array] | None = None
    by_layer: Callable[[Params], Params] = lambda params: params


class Needs(NamedTuple):
    """The data and models that an objective needs.

    Attributes:
      data: the kind of its batches.
      values: required keys of `Responses.values`.
      mismatched: whether each labelled response is followed, in its group, by one that
        answers another prompt.
      reference: whether it compares with a reference model.
      unstored: reference quantities that cannot be precomputed.
      scores: whether the model must have heads for scores.
    """

    data: Data = "text"
    values: tuple[str, ...] = ()
    mismatched: bool = False
    reference: bool = False
    unstored: tuple[str, ...] = ()
    scores: bool = False


class BatchStatistic(NamedTuple):
    """A quantity of the whole global batch on which the loss of each row depends.

    Attributes:
      observe: `(params, frozen, batch, key, train) -> pytree` of arrays with a leading
        B, computed for each microbatch without gradients.
      combine: `(observed) -> pytree`, the statistic of all rows: scalars, which all
        microbatches share, and arrays with a leading B, which are split as the batch.
    """

    observe: Callable[..., Any]
    combine: Callable[[Any], Any]


class Objective(NamedTuple):
    """What is learned from a batch.

    Attributes:
      loss: `(params, frozen, batch, key, train) -> (Mean, {name: Mean})`, the loss and
        further metrics, summed and not yet divided; the `total` of the loss is
        differentiated. `key` turns dropout on, None is none; `train` is False in
        evaluations. An objective with a `statistic` takes it as a further argument,
        `statistic=None`: without it the batch at hand is the whole one.
      statistic: for losses that depend on the whole batch.
      needs: the data and models that it needs.
    """

    loss: Callable[..., tuple[Mean, dict[str, Mean]]]
    statistic: BatchStatistic | None = None
    needs: Needs = Needs()


@flax.struct.dataclass
class TrainState:
    """What a step changes and a checkpoint keeps; everything else is an argument.

    Attributes:
      step: int32, steps begun, so also the index of the next batch.
      params: the parameters that are trained.
      opt_state: the state of the optax transformation that updates them.
      extra: by name, whatever else training changes, such as the moving `average` of
        the weights and the moving `reference`; see `training.optim`.
    """

    step: Any
    params: Params
    opt_state: Any
    extra: dict[str, Any] = flax.struct.field(default_factory=dict)


@flax.struct.dataclass
class Frozen:
    """What a step reads and never changes: never donated, never checkpointed.

    Attributes:
      base: the untrained part of the policy, merged with `params` to make a model.
      reference: the parameters of a reference model, where an objective has one.
    """

    base: Params = flax.struct.field(default_factory=dict)
    reference: Params | None = None


_SEQUENCE = tuple(field.name for field in dataclasses.fields(Sequences))


def batch(rows: Mapping[str, Any]) -> Sequences | Responses:
    """The batch that rows of a `data.dataset.Dataset` make, by the fields they have."""
    rows = dict(rows)
    sequences = Sequences(**{k: rows.pop(k) for k in _SEQUENCE if k in rows})
    if "responses" not in rows:
        return sequences
    return Responses(sequences, weights=rows.pop("group_weights"), **rows)
