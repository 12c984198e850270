# SPDX-License-Identifier: Apache-2.0
"""One rollout, from prompts to the batch that losses read, and its figures."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from alignjax import errors, rewards
from alignjax.distributed import sharding
from alignjax.losses import advantages
from alignjax.objectives import chunks
from alignjax.rollouts import (
    drawing,
    gates,
    groups,
    layout,
    measuring,
    packing,
    scoring,
)
from alignjax.rollouts import prompts as prompt_streams
from alignjax.rollouts.settings import RolloutsConfig
from alignjax.types import Model, Params, Responses, Rollout, Then

VALUES = ("gap",)  # what pairs have of `Responses.values`
ROOM_MULTIPLE = 16  # tokens; of rooms for responses, so that programs are few


class Models(NamedTuple):
    """Parameters of the models of a rollout; the critic's are None without one."""

    policy: Params
    reference: Params | None = None
    critic: Params | None = None


@dataclasses.dataclass(frozen=True)
class Rollouts:
    """How rollouts are made.

    Attributes:
      settings: the section of the config.
      prompts: the stream of prompts.
      rewards: see `alignjax.rewards`.
      sampler: draws responses.
      text: the text of a response's tokens.
      batch_size: prompts of a minibatch.
      microbatches: parts that a minibatch is cut into.
      shared: whether the responses to a prompt share a row; see `layout`.
      groups_per_row: the most prompts that then share a row; None for as many as are
        fastest. See `packing`.
      chunk: see `chunks.size`.
      critic: the critic's model, or None.
      pairs: whether the batch is pairs of the best and the worst response.
    """

    settings: RolloutsConfig
    prompts: prompt_streams.Prompts
    rewards: tuple[rewards.Named, ...]
    sampler: drawing.Sampler
    text: Callable[[Sequence[int]], str]
    batch_size: int
    shared: bool
    microbatches: int = 1
    groups_per_row: int | None = None
    chunk: chunks.Chunk = "auto"
    critic: Model | None = None
    pairs: bool = False

    @property
    def size(self) -> int:
        """Prompts of a rollout."""
        return self.batch_size * self.settings.minibatches

    def make(
        self,
        number: int,
        models: Models,
        coefficient: float,
        beat: Callable[[str], None] = lambda name: None,
        running: Mapping[str, Any] | None = None,
    ) -> tuple[Rollout | Responses, dict[str, float], list[str]]:
        """Rollout `number`, its figures by name, and lines for the log.

        Args:
          models: as they are at its first update.
          coefficient: of the KL in the reward.
          running: what the normalizer kept of the rollout before; None or nothing
            before the first one.

        Raises:
          DataError: a reward that fails, or gives none to all of rollout 0.
          ConfigError: the log-probs of sampler and trainer differ; see `gates`.
          NonFinite: they are not finite.
        """
        draws, figures, lines = self._draws(number, models, beat)
        beat(f"rollout {number}: log-probs")
        if self.pairs:
            batch, of_batch = self._pairs(draws, models)
        else:
            batch, of_batch, more = self._rollout(draws, models, coefficient, running)
            lines += more
        return batch, figures | of_batch, [*draws.scored.faults, *lines]

    def _draws(self, number: int, models: Models, beat):
        """Those of rollout `number`, their figures, and lines for the log.

        Each rollout has `redraws` + 1 times as many prompts of the stream to itself as
        it learns from, so that none depends on what another one drew.
        """
        s, K, turns = self.settings, self.settings.samples, 1 + self.settings.redraws
        every: list[groups.Groups] = []
        for turn in range(turns):
            first = (number * turns + turn) * self.size
            prompts = self.prompts.take(first, self.size)
            drawn = self.sampler(
                models.policy, prompts, first=first, samples=K, beat=beat
            )
            beat(f"rollout {number}: rewards")
            scored = scoring.score(self.rewards, self._to_score(prompts, drawn, K))
            signal_G = np.ones(self.size, bool)
            if s.filters:
                outcome = scored.total if s.outcome is None else scored.parts[s.outcome]
                outcome_GK = scoring.numbers(outcome).reshape(-1, K)
                there_GK = np.isfinite(outcome_GK)
                signal_G = np.asarray(advantages.informative(outcome_GK, there_GK))
            numbers = first + np.arange(self.size)
            every.append(groups.Groups(numbers, prompts, drawn, scored, signal_G))
            if sum(d.signal.sum() for d in every) >= self.size:
                break
        draws = groups.joined(every)
        figures = scoring.figures(draws.scored, draws.drawn)
        lines = []
        if figures["unscored"] == 1:
            if number == 0:
                why = (draws.scored.faults or ["all of them gave None"])[0]
                raise errors.DataError(
                    "rollouts.rewards: no response of the first rollout has a reward, "
                    f"so that nothing would be learned; {why}"
                )
            lines.append("no response has a reward, and so nothing is learned")
        if not s.filters:
            return draws, figures, lines
        figures["prompts"] = float(len(draws.prompts))
        if (missing := self.size - int(draws.signal.sum())) > 0:
            lines.append(
                f"{missing} of {self.size} prompts weigh nothing, as their responses "
                f"are equal in {s.outcome or 'the reward'}, of "
                f"{len(draws.prompts)} prompts drawn (rollouts.redraws = {s.redraws})"
            )
        return draws.chosen(self.size), figures, lines

    def evaluate(
        self, models: Models, beat: Callable[[str], None]
    ) -> tuple[dict[str, float], list[str]]:
        """Figures of one response to each of some prompts, with keys that stay.

        And lines for the log.
        """
        prompts = self.prompts.evenly_spaced(self.settings.evaluation_prompts)
        drawn = self.sampler(models.policy, prompts, first=0, samples=1, beat=beat)
        scored = scoring.score(self.rewards, self._to_score(prompts, drawn, 1))
        figures = scoring.figures(scored, drawn)
        if models.reference is not None:
            responses, room = self._responses(prompts, drawn.ids, 1)
            measured = self._measured(responses, room, models)
            figures |= _kl_figures(measured, drawn)
        return figures, scored.faults

    def example(self) -> Responses:
        """A batch of one prompt as long as any, for what only looks at shapes."""
        prompt = [0] * self.sampler.prompt_room
        room = self.sampler.room
        K = 2 if self.pairs else self.settings.samples
        batch = self._laid([prompt], [[[0] * room] * K], room)
        return _with_gaps(batch, np.ones(1)) if self.pairs else batch

    def _to_score(
        self, prompts, drawn: drawing.Drawn, K: int
    ) -> list[rewards.Response]:
        """What rewards read; texts are empty where none of them reads one."""
        reads_text = any(reward.reads_text for reward in self.rewards)
        return [
            rewards.Response(
                prompts[i // K].turns,
                prompts[i // K].record,
                self.text(ids) if reads_text else "",
                len(ids),
                bool(finished),
                self.sampler.room,
            )
            for i, (ids, finished) in enumerate(
                zip(drawn.ids, drawn.finished, strict=True)
            )
        ]

    def _laid(self, prompt_ids, responses, room: int, numbers=None) -> Responses:
        return layout.responses(
            prompt_ids,
            responses,
            prompt_room=self.sampler.prompt_room,
            room=room,
            shared=self.shared,
            numbers=numbers,
        )

    def _responses(
        self, prompts, ids, K: int, numbers=None, end=()
    ) -> tuple[Responses, int]:
        """K responses a prompt, the tokens `end` after each, and the room of each."""
        longest = max(map(len, ids))
        room = min(packing.rounded(longest, ROOM_MULTIPLE), self.sampler.room)
        room += len(end)
        responses = [
            [[*ids[i], *end] for i in range(n * K, n * K + K)]
            for n in range(len(prompts))
        ]
        return self._laid([p.ids for p in prompts], responses, room, numbers), room

    def _pairs(self, draws: groups.Groups, models: Models):
        """The best and the worst response to a prompt; equal ones count nothing."""
        K, prompts, drawn = self.settings.samples, draws.prompts, draws.drawn
        scored = draws.scored
        total_GK = scoring.numbers(scored.total).reshape(-1, K)
        there_GK = np.isfinite(total_GK)
        best_G = np.where(there_GK, total_GK, -np.inf).argmax(1)
        worst_G = np.where(there_GK, total_GK, np.inf).argmin(1)
        gap_G = np.take_along_axis(total_GK, best_G[:, None], 1)[:, 0]
        gap_G = gap_G - np.take_along_axis(total_GK, worst_G[:, None], 1)[:, 0]
        counts_G = draws.signal & np.asarray(advantages.informative(total_GK, there_GK))
        rows = [
            n * K + k
            for n, two in enumerate(zip(best_G, worst_G, strict=True))
            for k in two
        ]
        ids, behaviour = ([x[i] for i in rows] for x in (drawn.ids, drawn.behaviour))
        batch, room = self._responses(prompts, ids, 2, draws.numbers)
        measured = self._measured(batch, room, Models(models.policy))
        figures = self.gate(measured["old"], *_of_tokens(behaviour, 2, room))
        weights = counts_G[:, None].astype(np.float32)
        figures["tied"] = float(1 - counts_G.mean())
        if counts_G.any():
            figures["gap"] = float(gap_G[counts_G].mean())
        batch = _with_gaps(batch, np.where(counts_G, gap_G, 1.0))
        return batch.replace(weights=weights), figures

    def _rollout(
        self,
        draws: groups.Groups,
        models: Models,
        coefficient: float,
        running: Mapping[str, Any] | None,
    ):
        s, K, lines = self.settings, self.settings.samples, []
        _, prompts, drawn, scored, signal_G = draws
        responses, room = self._responses(prompts, drawn.ids, K, draws.numbers)
        behaviour_GKT, action_GKT = _of_tokens(drawn.behaviour, K, room)
        measured = self._measured(responses, room, models)
        figures = self.gate(measured["old"], behaviour_GKT, action_GKT)
        figures |= _kl_figures(measured, drawn)

        in_reward = s.kl.place == "reward"
        k1_GKT = measured["old"] - measured["reference"]
        score_GK = scoring.numbers(scored.total).reshape(-1, K)
        finished_GK = drawn.finished.reshape(-1, K)
        outcome = advantages.Outcome(
            reward=advantages.token_rewards(
                score_GK, action_GKT, k1_GKT if in_reward else None, coefficient
            ),
            action=jnp.asarray(action_GKT),
            scored=jnp.asarray(np.isfinite(score_GK)),
            learned=jnp.asarray(np.isfinite(score_GK) & signal_G[:, None]),
        )
        after_GK, value_GKT = None, None
        if self.critic is not None:
            value_GKT, after_GK = self._values(prompts, drawn, models, room)
            outcome = outcome._replace(value=value_GKT)
        if "greedy" in s.needs.fields:
            greedy_G, of_greedy = self._greedy(prompts, models)
            outcome = outcome._replace(greedy=greedy_G)
            lines += of_greedy
        outcome = advantages.with_end(outcome, ~finished_GK, s.truncated, after_GK)
        normalized = s.normalized(outcome, running)
        outcome = outcome._replace(reward=normalized.reward)
        learned = s.bound_advantage()(outcome)
        if value_GKT is not None and learned.returns is None:
            raise errors.ConfigError(
                f"rollouts.advantage.name: {s.name!r} gives no returns, which the "
                "critic learns; set them in its Advantages, or leave out critic"
            )
        if signal_G.any() and outcome.scored.any() and not learned.weight.any():
            lines.append("no response weighs anything, and so nothing is learned")
        weights = s.bound_denominator()(outcome.action, learned.weight)
        host = functools.partial(np.asarray, dtype=np.float32)
        then = Then(
            action=action_GKT,
            advantage=host(learned.advantage),
            old=measured["old"],
            behaviour=behaviour_GKT,
            reference=measured["reference"],
            value=None if value_GKT is None else host(value_GKT),
            returns=None if value_GKT is None else host(learned.returns),
        )
        kl = float(np.where(action_GKT, k1_GKT, 0.0).sum(-1).mean())
        kept = {f"running/{name}": float(x) for name, x in normalized.running.items()}
        of_rows = {
            name: np.full(len(prompts), x, np.float32)
            for name, x in {"kl": kl, **kept}.items()
        }
        batch = Rollout(
            responses, then, host(weights.token), host(weights.share), of_rows
        )
        figures |= {"kl/k1": kl, **kept}
        counts_G = (host(learned.weight) > 0).any(-1)
        if K > 1:
            differ_G = advantages.informative(score_GK, np.isfinite(score_GK))
            figures["tied"] = float(1 - np.mean(differ_G))
            counts_G &= np.asarray(differ_G)
        if not in_reward and counts_G.any():
            scale = np.asarray(learned.scale) * np.asarray(normalized.scale)
            scale_G = np.broadcast_to(scale, (len(prompts), 1))[:, 0]
            figures["kl/effective"] = float(coefficient * scale_G[counts_G].mean())
        if value_GKT is not None:
            counts_GKT = action_GKT & (np.asarray(learned.weight) > 0)[..., None]
            figures["explained"] = _explained(
                host(learned.returns)[counts_GKT], host(value_GKT)[counts_GKT]
            )
        return batch, figures, lines

    def _greedy(self, prompts, models: Models) -> tuple[np.ndarray, list[str]]:
        """The reward of the greedy response to each prompt, NaN where it has none.

        And lines for the log.
        """
        greedy = self.sampler._replace(temperature=None)
        drawn = greedy(models.policy, prompts, first=0, samples=1)
        scored = scoring.score(self.rewards, self._to_score(prompts, drawn, 1))
        lines = [f"greedy responses: {line}" for line in scored.faults]
        reward_G = scoring.numbers(scored.total).astype(np.float32)
        if missing := int(np.isnan(reward_G).sum()):
            lines.append(
                f"{missing} of {len(prompts)} greedy responses have no reward, and so "
                "their prompts weigh nothing"
            )
        return reward_G, lines

    def _measured(
        self, responses: Responses, room: int, models: Models
    ) -> dict[str, np.ndarray]:
        """Log-probs and divergences of each token, by the program that trains."""
        measure = functools.partial(
            measuring.log_probs,
            self.sampler.model,
            self.chunk,
            self.settings.temperature,
            room,
        )
        with sharding.use(self.sampler.mesh, self.sampler.rules):
            return self._in_parts(
                lambda batch: measure(models.policy, models.reference, batch), responses
            )

    def _values(self, prompts, drawn, models: Models, room: int):
        """The critic's V(s_t), [G, K, T], and V after the last token, [G, K]."""
        K = self.settings.samples
        # With one more token, where what comes after the last one is read.
        longer, longer_room = self._responses(prompts, drawn.ids, K, end=(0,))
        value = functools.partial(measuring.values, self.critic, longer_room)
        with sharding.use(self.sampler.mesh, self.sampler.rules):
            value_GKT = self._in_parts(
                lambda batch: {"value": value(models.critic, batch)}, longer
            )["value"]
        length_GK1 = np.array([len(ids) for ids in drawn.ids]).reshape(-1, K, 1)
        after_GK = np.take_along_axis(value_GKT, length_GK1, axis=-1)[..., 0]
        return value_GKT[..., :room], after_GK

    def rows(
        self, batch: Responses | Rollout, parts: Sequence[np.ndarray], multiple: int
    ) -> tuple[list[np.ndarray], int]:
        """The groups of each row, int64 [B, P], of each batch, and its positions T.

        Args:
          batch: of a rollout, as numpy arrays.
          parts: the groups of each batch, equally many.
          multiple: of which the number of rows of a batch is one.
        """
        responses = batch if isinstance(batch, Responses) else batch.responses
        if not self.shared:
            orders = [part[:, None] for part in parts]
            return orders, responses.sequences.inputs.shape[-1]
        return packing.arranged(
            packing.used(responses),
            parts,
            multiple=multiple,
            longest=self._longest_row(),
            width=self.sampler.model.config.d_model,
            most=self.groups_per_row,
        )

    def in_rows(self, batch: Responses | Rollout, order_BP: np.ndarray, T: int):
        """The batch of the groups `order_BP`, in rows of T positions; see `rows`."""
        if self.shared:
            return packing.packed(batch, order_BP, T)
        return jax.tree.map(lambda x: x[order_BP[:, 0]], batch)

    def _longest_row(self) -> int:
        """Positions of a row at most: a prompt, and responses as long as may be."""
        K = 2 if self.pairs else self.settings.samples
        # One more for each, where a critic also reads what comes after a response.
        longest = self.sampler.prompt_room - 1 + K * (self.sampler.room + 1)
        scaling = self.sampler.model.config.rope_scaling
        if scaling is not None and scaling.by_length:  # refused in longer rows
            longest = min(longest, scaling.original_length)
        return longest

    def _in_parts(self, function, responses: Responses) -> dict[str, np.ndarray]:
        """`function(batch)` of minibatches, put together on the host."""
        mesh, rules = self.sampler.mesh, self.sampler.rules
        total, devices = len(responses.lengths), sharding.batch_divisor(mesh, rules)
        size = -(-self.batch_size // self.microbatches)  # as much as an update holds
        size = -(-min(size, total) // devices) * devices
        parts = [
            np.minimum(np.arange(start, start + size), total - 1)
            for start in range(0, total, size)
        ]
        figures: dict[str, np.ndarray] = {}
        orders, T = self.rows(responses, parts, devices)
        count = len(orders[0])
        local = sharding.local_rows(count, mesh, rules)
        for order_BP in orders:
            part = self.in_rows(responses, order_BP, T)
            part = jax.tree.map(lambda x: x[local], part)
            of_part = function(sharding.put_batch(part, count, mesh, rules))
            for name, x in jax.device_get(of_part).items():
                empty = np.zeros((total, *x.shape[1:]), x.dtype)
                figures.setdefault(name, empty)[order_BP.ravel()] = x
        return figures

    def gate(self, old_GKT, behaviour_GKT, action_GKT) -> dict[str, float]:
        """See `gates.check`."""
        limits = (self.settings.gate, *self._rounding())
        return gates.check(old_GKT, behaviour_GKT, action_GKT, *limits)

    def check_rise(self, first: float, mean: float) -> None:
        """See `gates.check_rise`."""
        if self.settings.gate is None:
            gates.check_rise(first, mean, *self._rounding())

    def _rounding(self) -> tuple[str, float]:
        """The precision of products, and what its rounding is multiplied with."""
        platform = self.sampler.mesh.devices.flat[0].platform
        dtype = self.sampler.model.config.dtype_on(platform)
        scale = max(1.0, 1 / self.settings.temperature)
        return gates.precision(dtype, platform), scale


def _with_gaps(batch: Responses, gap_G: np.ndarray) -> Responses:
    """The batch with the reward of the best response less that of the worst."""
    return batch.replace(values={"gap": gap_G[:, None].astype(np.float32)})


def _kl_figures(measured: Mapping[str, np.ndarray], drawn) -> dict[str, float]:
    """KL(policy || reference) of whole responses, exact at each state, in nats."""
    if "kl" not in measured:
        return {}
    tokens = sum(len(ids) for ids in drawn.ids)
    return {
        # Where the policies are equal the sum is 0 to rounding, on either side.
        "kl/reference": max(0.0, float(measured["kl"].sum() / len(drawn.ids))),
        "kl/token": max(0.0, float(measured["kl"].sum() / tokens)),
        "entropy": float(measured["entropy"].sum() / tokens),
    }


def _of_tokens(values: Sequence[np.ndarray], K: int, room: int):
    """Values of each response's tokens, float32 [G, K, room], and bool, its tokens."""
    length_GK = np.array([len(row) for row in values]).reshape(-1, K)
    there_GKT = np.arange(room) < length_GK[..., None]
    value_GKT = np.zeros(there_GKT.shape, np.float32)
    for i, row in enumerate(values):
        value_GKT[i // K, i % K, : len(row)] = row
    return value_GKT, there_GKT


def _explained(returns, values) -> float:
    """1 - Var(G - V)/Var(G); 0 where returns do not vary, or there are none."""
    variance = float(np.var(returns)) if returns.size else 0.0
    return 1 - float(np.var(returns - values)) / variance if variance else 0.0
