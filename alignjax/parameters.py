# SPDX-License-Identifier: Apache-2.0
"""The parameters that a run begins with: what it trains, and what it only reads.

They come from the run in `init`, but for what a model has and that run had not, such as
heads for scores, which begins as any model's parameters do.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from alignjax import start, state, trees
from alignjax.types import Frozen, Params, TrainState

# What a model may have beyond the run that it starts from: heads and adapters.
NEW = r"score/.*|.*/lora_[ab]"


class First(NamedTuple):
    """How a run begins.

    Attributes:
      run: the `experiment.Experiment`.
      whole: all parameters, abstract and placed.
      abstract: the abstract TrainState, of those that are trained.
    """

    run: Any
    whole: Params
    abstract: TrainState

    def init(self) -> TrainState:
        """The state of step 0."""
        run = self.run
        if run.start is None:
            key = jax.random.key(run.config.seed)
            return state.init_state(run.model, run.optimizer, self.abstract, key)
        trained, _ = state.partition(self._of(run.start), run.config.trainable)
        begin = lambda params: TrainState(
            jnp.int32(0), params, run.optimizer.init(params)
        )
        where = state.shardings(self.abstract)
        return jax.jit(begin, out_shardings=where, donate_argnums=0)(trained)

    def frozen(self) -> Frozen:
        """What the steps read: the rest of the policy, and the reference's copy.

        A reference with the parameters that the policy starts from shares the rest with
        it, so that under adapters there is no second copy of the model. One that moves
        is in the state.
        """
        run, asked = self.run, self.run.config.reference
        elsewhere = asked.store or asked.update_every is not None
        copied = run.reference is not None and not elsewhere
        if run.config.trainable == ".*":
            return Frozen({}, self._of(run.reference) if copied else None)
        whole = self._of(run.start)
        _, base = state.partition(whole, run.config.trainable)
        if not copied:
            return Frozen(base)
        same = run.reference.digest == run.start.digest
        return Frozen(base, whole if same else self._of(run.reference))

    def _of(self, begun: start.Start) -> Params:
        """The parameters of a run, where those of this one lie."""
        run = self.run
        key = jax.random.key(run.config.seed)
        source = begun.run.params()
        return state.load_params(source, self.whole, run.model, key, allow_new=NEW)[0]


def prepare(run) -> First:
    """How the experiment `run` begins. Raises ConfigError where it cannot."""
    asked = (run.model, run.mesh, run.rules)
    abstract = state.abstract_state(
        run.model, run.optimizer, run.mesh, run.rules, run.config.trainable
    )
    return First(run, state.abstract_params(*asked), abstract)


def describe(first: First) -> str:
    """What is trained and what is new, for the log; nothing where it is all of it."""
    lines = []
    trained, whole = trees.count(first.abstract.params), trees.count(first.whole)
    if trained != whole:
        lines.append(f"trained: {trained:,} of {whole:,} parameters")
    if first.run.start is not None:
        theirs = trees.named_leaves(first.run.start.run.params())
        new = [name for name in trees.named_leaves(first.whole) if name not in theirs]
        if new:
            lines.append(f"new: {', '.join(new)}, which the run it starts from lacks")
    return "\n".join(lines)
