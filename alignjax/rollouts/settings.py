# SPDX-License-Identifier: Apache-2.0
"""The section `rollouts` of a config: responses that the policy draws as it learns."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any, Literal

from alignjax import config, errors, registry
from alignjax.bounds import Count, CountOrZero, NonNegative, Positive, Size
from alignjax.losses import advantages, denominators, kl, normalizers, probe
from alignjax.sampling import distribution

# What samplers have and rollouts have not, and why.
FILTERS = ("top_p", "top_k", "min_p")
NO_FILTER = (
    "not while training: what it takes out has a probability under the policy, whose "
    "log-probs would not be those of the distribution that was sampled; leave it out, "
    "and lower rollouts.temperature to draw likelier tokens"
)


@dataclasses.dataclass(frozen=True)
class KL:
    """The section `rollouts.kl`; see `losses.kl`.

    Attributes:
      place: "reward" subtracts it from the rewards, "loss" adds it to the loss.
      estimator: "k1" in the reward; "exact", "k2", "k3" or "k3_ratio" in the loss.
        None is "k1" or "exact".
      coefficient: beta, the penalty for a nat.
      target: the KL in nats a response that an adaptive coefficient steers to, in the
        reward alone (arXiv:1909.08593 section 2.2); None keeps it constant.
      horizon: responses over which it changes by a fifth at most.
    """

    place: Literal["reward", "loss"] = "reward"
    estimator: str | None = None
    coefficient: NonNegative = 0.05
    target: Positive | None = None
    horizon: Positive = 10_000.0

    def __post_init__(self):
        default = {"reward": "k1", "loss": "exact"}[self.place]
        object.__setattr__(self, "estimator", self.estimator or default)
        problems = []
        try:
            kl.check(self.place, self.estimator)
        except ValueError as error:
            problems.append(str(error))
        if self.target is not None and self.place == "loss":
            problems.append(
                f"target: {self.target} adapts a coefficient in the reward; say place="
                '"reward", or leave it out'
            )
        if self.target is None and self.horizon != type(self).horizon:
            problems.append(
                f"horizon: {self.horizon:g} of a coefficient that does not adapt; set "
                "target too, or leave it out"
            )
        if self.target is not None and not self.coefficient:
            problems.append("coefficient: 0 stays 0 however it adapts; start above it")
        if problems:
            raise errors.ConfigError(problems)


@dataclasses.dataclass(frozen=True)
class RolloutsConfig:
    """The section `rollouts`; a rollout has `batch_size` prompts for each minibatch.

    Attributes:
      rewards: `{name: {"kind": ..., "weight": 1.0, option: value}}`; the options are
        those of `alignjax.rewards.<kind>.make`. One with a weight of 0 is only logged.
      samples: K, responses to each prompt.
      max_tokens: tokens of a response at most, the one that ends it included.
      temperature: of the softmax that is sampled, and of every log-prob of the loss.
      minibatches: updates in which the prompts of a rollout are gone through once.
      epochs: how often they are gone through.
      advantage: `{"name": ..., option: value}`, a function of `losses.advantages`, or
        module:function; "rloo" where it is empty.
      normalize: likewise of `losses.normalizers`, what is done to rewards before that;
        nothing where it is empty.
      denominator: likewise of `losses.denominators`; "sequence_sum" where it is empty.
      kl: of policy and reference; see `KL`.
      truncated: how a response counts that has `max_tokens` and did not end:
        "terminal", as if it had ended there; "bootstrap", with the critic's value
        after it; "masked", not learned.
      redraws: dynamic sampling, arXiv:2503.14476: how often the same number of prompts
        is drawn again at most, until as many as a rollout has have responses that
        differ in their reward. Other prompts weigh nothing.
      outcome: the name of the reward by which they must differ, such as the result of a
        task before penalties for length; None is the sum of all.
      rows: responses that are drawn at one time; None is all of a rollout.
      evaluation_prompts: held-out prompts of an evaluation, one response to each.
      gate: the largest mean difference, in nats, between the log-probs of sampler and
        trainer; beyond it the run stops. None goes by the bits of the model's products,
        in float32 by the largest difference of a token too, and in later rollouts by
        the mean of the first one.

    Losses of pairs read none of `advantage`, `normalize`, `denominator`, `kl` and
    `truncated`, so that to set one of them is an error.
    """

    rewards: dict
    samples: Size = 8
    max_tokens: Size = 64
    temperature: Positive = 1.0
    minibatches: Count = 1
    epochs: Count = 1
    advantage: dict = dataclasses.field(default_factory=dict)
    normalize: dict = dataclasses.field(default_factory=dict)
    denominator: dict = dataclasses.field(default_factory=dict)
    kl: KL = KL()
    truncated: Literal["terminal", "bootstrap", "masked"] = "terminal"
    redraws: CountOrZero = 0
    outcome: str | None = None
    rows: Size | None = None
    evaluation_prompts: Size = 128
    gate: Positive | None = None

    def __post_init__(self):
        problems = []
        of_sampler = functools.partial(distribution.settings, self.temperature)
        functions = self.bound_advantage, self.bound_normalizer, self.bound_denominator
        for attempt in (*functions, of_sampler):
            try:
                attempt()
            except errors.ConfigError as error:
                problems += error.problems
        if not problems and self.samples < self.needs.responses:
            problems.append(
                f"samples: {self.samples}, and the advantage {self.name!r} compares "
                f"{self.needs.responses} or more responses to a prompt; draw so many"
            )
        if not problems and (bound := self.bound_normalizer()) is not None:
            per, name = normalizers.traits(bound.func).per, self.normalize["name"]
            if "greedy" in self.needs.fields:
                problems.append(
                    f"normalize.name: {name!r} with the advantage {self.name!r}, which "
                    "takes the reward of a greedy response as it is; leave it out"
                )
            elif per == "token" and self.needs.per == "response":
                problems.append(
                    f"normalize.name: {name!r} moves the reward of each token, and the "
                    f"advantage {self.name!r} learns their sum, and so a length; say "
                    'advantage.name="gae", or normalize.name="running_scale"'
                )
        if self.outcome is not None and self.outcome not in self.rewards:
            near = registry.closest(self.outcome, self.rewards)
            problems.append(f"outcome: no reward {self.outcome!r}; {near}")
        if self.filters and self.samples < 2:
            problems.append(
                f"samples: {self.samples}; one response differs from none, so draw 2 "
                "or more, or leave out redraws and outcome"
            )
        if problems:
            raise errors.ConfigError(problems)

    @property
    def filters(self) -> bool:
        """Whether prompts whose responses do not differ weigh nothing."""
        return bool(self.redraws) or self.outcome is not None

    @property
    def updates(self) -> int:
        """U, of a rollout."""
        return self.epochs * self.minibatches

    @property
    def name(self) -> str:
        """Of the advantage."""
        return self.advantage.get("name") or "rloo"

    @property
    def needs(self) -> advantages.Requirements:
        """What the advantage needs."""
        return advantages.requirements(self.bound_advantage().func)

    def bound_advantage(self) -> functools.partial:
        """The advantage, a function of an `advantages.Outcome`."""
        section = {**self.advantage, "name": self.name}
        return _bound(advantages.ADVANTAGES, section, "advantage", 1)

    def bound_normalizer(self) -> functools.partial | None:
        """The normalizer, a function of an `advantages.Outcome` and what it kept."""
        options = {k: v for k, v in self.normalize.items() if v is not None}
        if not options:
            return None
        return _bound(normalizers.NORMALIZERS, options, "normalize", 2)

    @property
    def running(self) -> dict[str, float]:
        """What the normalizer keeps between rollouts, before the first one."""
        bound = self.bound_normalizer()
        return {} if bound is None else normalizers.traits(bound.func).start

    def normalized(
        self, outcome: advantages.Outcome, running: Mapping[str, Any] | None
    ) -> normalizers.Normalized:
        """The rewards of a rollout as the normalizer has them.

        Args:
          running: what it kept of the rollout before; None or nothing before the first.

        Raises:
          ConfigError: see `probe.check_normalized`.
        """
        function, start = self.bound_normalizer(), self.running
        if function is None:
            return normalizers.Normalized(outcome.reward)
        normalized = function(outcome, running or start)
        try:
            probe.check_normalized(normalized, outcome, start)
        except probe.Refusal as error:
            name = self.normalize["name"]
            message = f"rollouts.normalize.name: {name!r} {error}"
            raise errors.ConfigError(message) from error
        return normalized

    def bound_denominator(self) -> functools.partial:
        """The denominator, a function of actions and the weights of responses."""
        name = self.denominator.get("name") or "sequence_sum"
        section = {**self.denominator, "name": name}
        return _bound(denominators.DENOMINATORS, section, "denominator", 2)


def _bound(
    functions: registry.Registry, section: dict, path: str, leading: int
) -> functools.partial:
    """The function that a section names, with the section's other fields."""
    options = {k: v for k, v in section.items() if v is not None}
    function = config.find(functions, options.pop("name", ""), f"{path}.name")
    fields = config.fields(function, leading)
    return functools.partial(function, **config.fill(fields, options, path))
