# SPDX-License-Identifier: Apache-2.0
"""The parameters that a run begins with: what it trains, and what it only reads.

They come from the run in `init`, but for what a model has and that run had not, such as
heads for scores, which begins as any model's parameters do. Kernels that it only reads
are kept as `model.base` says.
"""

from __future__ import annotations

import re
from typing import Any, NamedTuple

import jax

from alignjax import trees
from alignjax.experiment import initial
from alignjax.models import quantized
from alignjax.training import state
from alignjax.types import Frozen, Params, TrainState

# What a model may have beyond the run that it starts from: heads and adapters.
NEW = r"score/.*|.*/lora_[abm]"


class First(NamedTuple):
    """How a run begins.

    Attributes:
      run: the `experiment.Experiment`.
      whole: all parameters, abstract and placed; frozen kernels as they are kept.
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
            return state.init_state(
                run.model, run.optimizer, self.abstract, key, run.copies
            )
        trained, _ = self._split(self._of(run.start))
        begin = lambda params: state.begin(params, run.optimizer, run.copies)
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
            return Frozen({}, self.reference() if copied else None)
        whole = self._of(run.start)
        _, base = self._split(whole)
        if not copied:
            return Frozen(base)
        same = run.reference.digest == run.start.digest
        return Frozen(base, whole if same else self.reference())

    def reference(self) -> Params:
        """All of the reference's parameters, for the model of the policy."""
        return self._of(self.run.reference)

    def _split(self, params: Params) -> tuple[Params, Params]:
        """What is trained and the rest. By name: parts of kernels match no pattern."""
        trained = trees.named_leaves(self.abstract.params)
        return trees.partition("|".join(map(re.escape, trained)), params)

    def _of(self, begun: initial.Start) -> Params:
        """The parameters of a run, where those of this one lie."""
        run = self.run
        key = jax.random.key(run.config.seed)
        source = begun.run.leaves()
        return state.load_params(source, self.whole, run.model, key, allow_new=NEW)[0]


def prepare(run) -> First:
    """How the experiment `run` begins. Raises ConfigError where it cannot."""
    asked = (run.model, run.mesh, run.rules)
    abstract = state.abstract_state(
        run.model,
        run.optimizer,
        run.mesh,
        run.rules,
        run.config.trainable,
        run.copies,
    )
    whole, c = state.abstract_params(*asked), run.model.config
    kernels = quantized.names(c.projections, run.config.trainable)
    return First(run, state.keep(whole, kernels, c.base), abstract)


def describe(first: First) -> str:
    """What is trained and what is new, for the log; nothing where it is all of it."""
    lines = []
    run, asked = first.run, (first.run.model, first.run.mesh, first.run.rules)
    plain = state.abstract_params(*asked)
    trained, whole = trees.count(first.abstract.params), trees.count(plain)
    if trained != whole:
        lines.append(f"trained: {trained:,} of {whole:,} parameters")
    if (base := run.model.config.base) != "float32":
        size = lambda params: f"{quantized.nbytes(params) / 2**20:,.1f} MiB"
        lines.append(
            f"frozen kernels are kept as {base}: all parameters take "
            f"{size(first.whole)}, in float32 {size(plain)}"
        )
    if run.start is not None:
        theirs = run.start.run.leaves()
        new = [name for name in trees.named_leaves(plain) if name not in theirs]
        if new:
            lines.append(f"new: {', '.join(new)}, which the run it starts from lacks")
    return "\n".join(lines)
