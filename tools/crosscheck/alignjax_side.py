# SPDX-License-Identifier: Apache-2.0
"""Loss, gradients and metrics of alignjax's objectives on the batch of the task."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from alignjax import objectives
from alignjax.objectives import logprobs
from alignjax.objectives import metrics as figures
from alignjax.types import Frozen, Sequences
from tools.crosscheck import batches, cases, task, weights


class Result(NamedTuple):
    """What one side says: numbers, and gradients by transformers' names."""

    loss: float
    gradients: Mapping[str, np.ndarray]
    metrics: Mapping[str, float]


class Side:
    """alignjax, with a policy, a reference and a reward model of its own making."""

    def __init__(self, layout: str = "padded", seed: int = 4):
        self.layout = layout
        self.model, self.scorer = weights.model(), weights.model(score_heads=1)
        self.policy = weights.parameters(self.model, seed)
        self.reference = weights.parameters(
            self.model, seed + 1, like=self.policy, scale=0.3
        )
        self.rewards = weights.parameters(self.scorer, seed)
        found = task.pairs(seed=seed)
        self.pairs = [*found[:-1], self._likely(found[-1])]

    def run(self, case: cases.Case) -> Result:
        """One case; `case.less` too, its loss and gradient taken off."""
        found = self._run(case, case.ours)
        if case.less is None:
            return found
        other = self._run(case, {**case.ours, **case.less[1]})
        return less(found, other)

    def _run(self, case: cases.Case, section: Mapping[str, Any]) -> Result:
        model, params = self.model, self.policy
        frozen = Frozen(reference=self.reference)
        if case.trainer == "reward":
            model, params = self.scorer, self.rewards
        batch = self._batch(case)
        if case.trl.get("precompute_ref_log_probs"):
            batch, frozen = self._stored(batch), Frozen()
        objective = objectives.build(model, dict(section))

        @jax.jit
        def run(params):
            def total(params):
                loss, metrics = objective.loss(params, frozen, batch, None, False)
                return loss.value(), metrics

            return jax.value_and_grad(total, has_aux=True)(params)

        (loss, metrics), gradients = run(params)
        named = {name: float(mean.value()) for name, mean in metrics.items()}
        named |= figures.derive(named)
        return Result(float(loss), weights.to_transformers(gradients), named)

    def _batch(self, case: cases.Case):
        if case.trainer == "sft":
            return batches.of_demonstrations(self.pairs)
        if case.trainer == "kto":
            return batches.of_labelled(task.labelled(self.pairs), self.layout)
        batch = batches.of_pairs(self.pairs, self.layout)
        return batch if case.trl.get("margin") else batch.replace(values={})

    def _likely(self, pair: task.Pair) -> task.Pair:
        """The pair with responses that the policy itself would write, greedily.

        All others are random, which no policy would write; WPO's weight tells.
        """
        ids = list(pair.prompt)
        for _ in range(9):
            row = Sequences.of([ids], last=True)
            last = self.model.hidden(self.policy, row)[:, -1:]
            logits = self.model.unembed(self.policy, last)[0, 0]
            ids.append(int(logits[task.FIRST :].argmax()) + task.FIRST)
        said = tuple(ids[len(pair.prompt) :])
        return pair._replace(chosen=(*said, task.END), rejected=(*said[:4], task.END))

    def _stored(self, batch):
        """The batch with what the reference says of its tokens, as a store gives it."""
        flat = jax.tree.map(lambda x: x.reshape(-1, x.shape[-1]), batch.sequences)
        logp = logprobs.tokens(self.model, self.reference, flat).logp
        stored = np.where(batch.responses > 0, logp.reshape(batch.responses.shape), 0)
        return batch.replace(reference=stored.astype(np.float32))


def less(found: Result, other: Result) -> Result:
    """The difference of two losses and of their gradients; the metrics of the first."""
    gradients = {k: x - other.gradients[k] for k, x in found.gradients.items()}
    return Result(found.loss - other.loss, gradients, found.metrics)
