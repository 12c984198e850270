# SPDX-License-Identifier: Apache-2.0
"""Loss, gradients and metrics of alignjax's objectives on the batch of the task."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from alignjax import objectives, types
from alignjax.losses import advantages, denominators
from alignjax.objectives import logprobs
from alignjax.objectives import metrics as derived
from alignjax.rollouts import layout
from alignjax.types import Frozen, Sequences
from tools import pair_batches
from tools.crosscheck import cases, task, weights

# Of rows: more than any sequence has, and room for some groups but not for all.
LENGTH = 48


class Result(NamedTuple):
    """The loss and metrics of one side, and gradients by transformers' names."""

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
        # The policy that drew: so near that some ratios are clipped and some not.
        self.old = weights.parameters(self.model, seed + 2, like=self.policy, scale=0.1)
        self.groups = task.groups(seed=seed)
        *pairs, last = task.pairs(seed=seed)
        self.pairs = [*pairs, self._likely(last)]

    def run(self, case: cases.Case) -> Result:
        """One case, less that of `case.less`."""
        result = self._run(case, case.ours)
        if case.less is None:
            return result
        return less(result, self._run(case, {**case.ours, **case.less[1]}))

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
        if case.rollout:
            named["kl"] = float(batch.figures["kl"][0])
        named |= derived.derive(named)
        return Result(float(loss), weights.to_transformers(gradients), named)

    def _batch(self, case: cases.Case):
        if case.rollout:
            return self._drawn(case)
        if case.trainer == "sft":
            return of_demonstrations(self.pairs)
        if case.trainer == "kto":
            return of_labelled(task.labelled(self.pairs), self.layout)
        batch = of_pairs(self.pairs, self.layout)
        return batch if case.trl.get("margin") else batch.replace(values={})

    def _drawn(self, case: cases.Case) -> types.Rollout:
        """What a rollout makes of the groups, drawn by the old policy."""
        told, room = case.rollout, task.LONGEST
        responses = layout.responses(
            [group.prompt for group in self.groups],
            [group.responses for group in self.groups],
            prompt_room=8,
            room=room,
            shared=self.layout == "shared",
        )
        rows = logprobs.flatten_sequences(responses)

        def logps(params):
            figures = logprobs.tokens(
                self.model, params, rows, temperature=case.ours.get("temperature", 1.0)
            )
            return logprobs.by_response(responses, figures.logp, room)

        old, reference = map(jax.jit(logps), (self.old, self.reference))
        length_GK = np.array([[len(y) for y in g.responses] for g in self.groups])
        action = np.arange(room) < length_GK[..., None]
        rewards = np.array([group.rewards for group in self.groups], np.float32)
        ended = [[y[-1] == task.END for y in g.responses] for g in self.groups]
        everywhere = np.ones(rewards.shape, bool)
        outcome = advantages.Outcome(
            advantages.token_rewards(
                rewards, action, old - reference, told.get("kl", 0.0)
            ),
            action,
            scored=everywhere,
            learned=everywhere,
        )
        end = told.get("truncated", "terminal")
        outcome = advantages.with_end(outcome, ~np.array(ended), end)
        learned = advantages.ADVANTAGES[told["advantage"]](outcome)
        denominator = denominators.DENOMINATORS[told["denominator"]]
        longest = {"length": room} if told["denominator"] == "constant" else {}
        divided = denominator(action, learned.weight, **longest)
        then = types.Then(action, learned.advantage, old, reference=reference)
        kl = np.where(action, old - reference, 0).sum() / action.sum()
        figures = {"kl": np.full(len(rewards), kl)}
        return types.Rollout(responses, then, divided.token, divided.share, figures)

    def _likely(self, pair: task.Pair) -> task.Pair:
        """The pair with responses that the policy itself would write, greedily.

        All others are random, and have next to no weight in WPO.
        """
        ids = list(pair.prompt)
        for _ in range(9):
            row = Sequences.of([ids], last=True)
            last = self.model.hidden(self.policy, row)[:, -1:]
            logits = self.model.unembed(self.policy, last)[0, 0]
            ids.append(int(logits[task.FIRST :].argmax()) + task.FIRST)
        reply = tuple(ids[len(pair.prompt) :])
        return pair._replace(chosen=(*reply, task.END), rejected=(*reply[:4], task.END))

    def _stored(self, batch):
        """The batch with the reference log-probs of its tokens, as from a store."""
        flat = jax.tree.map(lambda x: x.reshape(-1, x.shape[-1]), batch.sequences)
        logp = logprobs.tokens(self.model, self.reference, flat).logp
        stored = np.where(batch.responses > 0, logp.reshape(batch.responses.shape), 0)
        return batch.replace(reference=stored.astype(np.float32))


def less(first: Result, second: Result) -> Result:
    """The difference of two losses and of their gradients; the metrics of the first."""
    gradients = {k: x - second.gradients[k] for k, x in first.gradients.items()}
    return Result(first.loss - second.loss, gradients, first.metrics)


def of_pairs(pairs: list[task.Pair], layout: str = "padded") -> types.Responses:
    """The chosen response first; `values` has the margins."""
    documents = [(p.prompt, p.chosen, p.rejected) for p in pairs]
    values = {"margin": [p.margin for p in pairs]}
    return pair_batches.batch(documents, layout, LENGTH, values)


def of_labelled(rows: list[task.Labelled], layout: str = "padded") -> types.Responses:
    """Each response with the mismatched one after it."""
    documents = [(r.prompt, r.response, r.mismatched) for r in rows]
    values = {"desirable": [float(r.desirable) for r in rows]}
    return pair_batches.batch(documents, layout, LENGTH, values)


def of_demonstrations(pairs: list[task.Pair]) -> Sequences:
    """Prompts and chosen responses, one a row; the responses count."""
    rows = [(*pair.prompt, *pair.chosen) for pair in pairs]
    return Sequences.of(rows, prompts=[len(pair.prompt) for pair in pairs])
