# SPDX-License-Identifier: Apache-2.0
"""What is wrong with a config that learns from rollouts, before data and devices."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

from alignjax import errors, rewards
from alignjax.analysis import Run
from alignjax.experiment import critic as critics
from alignjax.experiment import sections
from alignjax.experiment.rollouts import NAME
from alignjax.losses import catalogue, probe
from alignjax.rollouts import rollout
from alignjax.rollouts import settings as rollout_settings
from alignjax.types import Model, Objective

# What objectives learn from rollouts: the responses themselves, or pairs of them.
DATA = ("prompts", "pairs")


def problems(
    c: sections.Config, objective: Objective | None, model: Model | None, begins: bool
) -> list[str]:
    """What is wrong with a config as far as rollouts go, before data and devices.

    `begins` says whether the policy begins as that of a run.
    """
    s, faults = c.rollouts, []
    if s is None:
        if objective is not None and objective.needs.data == "prompts":
            faults.append(
                "rollouts: required, since the objective learns from responses that "
                "the policy draws; set rollouts.rewards"
            )
        faults += [
            f"{name}: of no effect without rollouts; leave it out"
            for name in ("critic", "ptx")
            if getattr(c, name) is not None
        ]
        return faults
    if objective is not None and objective.needs.data not in DATA:
        faults.append(
            f"rollouts: the objective {c.objective['name']!r} learns from "
            f"{objective.needs.data}, not from responses that are drawn; say "
            f'objective.name="{NAME}", or "preference" with a loss of pairs'
        )
    if not begins:
        faults.append("init.run: required; rollouts are drawn from a trained model")
    if s.max_tokens >= c.length:
        faults.append(
            f"rollouts.max_tokens: {s.max_tokens} leaves no room for prompts in "
            f"length = {c.length}; lower it, or raise that"
        )
    counts = {
        "steps": c.steps,
        "checkpoint.every": c.checkpoint.every,
        "evaluation.every": c.evaluation.every,
    }
    faults += [
        f"{name}: {count} is no multiple of the {s.updates} updates of a rollout "
        f"(rollouts.epochs x minibatches), of which nothing is saved; the next that "
        f"is: {-(-count // s.updates) * s.updates}"
        for name, count in counts.items()
        if count is not None and count % s.updates
    ]
    if c.evaluation.batches is not None:
        faults.append(
            f"evaluation.batches: {c.evaluation.batches} has no effect here; leave it "
            "out, and set rollouts.evaluation_prompts"
        )
    if c.reference.store:
        faults.append(
            "reference.store: there are no log-probs to store of responses that do "
            "not exist yet; set it to False"
        )
    if c.prefetch != type(c).prefetch:
        faults.append(
            f"prefetch: {c.prefetch} has no effect here, where a batch needs the "
            "parameters of the update before it; leave it out"
        )
    plain = {"pack": "best_fit", "train_on": "all", "validation_by": "hash"}
    if c.ptx is None:
        plain["workers"] = None
    faults += [
        f"data.{name}: {getattr(c.data, name)!r} has no effect here; leave it out"
        for name, default in plain.items()
        if getattr(c.data, name) != default
    ]
    if c.data.long_documents == "truncate_prompt":
        faults.append(
            'data.long_documents: "truncate_prompt" is not for rollouts, whose rewards '
            'read the whole prompt; say "skip" or "error"'
        )
    responses = c.batch_size * s.minibatches * s.samples
    if s.kl.target is not None and responses > s.kl.horizon:
        faults.append(
            f"rollouts.kl.horizon: {s.kl.horizon:g}, the responses in which the "
            f"coefficient moves by a fifth, and one rollout has {responses:,}; raise it"
        )
    rollouts = c.steps // s.updates
    if c.critic is not None and c.critic.warmup_rollouts >= max(rollouts, 1):
        faults.append(
            f"critic.warmup_rollouts: {c.critic.warmup_rollouts} of {rollouts}, so "
            "that the policy would never learn; lower it, or raise steps"
        )
    if c.data.groups_per_row is not None and not c.data.share_prompt:
        faults.append(
            f"data.groups_per_row: {c.data.groups_per_row} has no effect here; leave "
            "it out, or say data.share_prompt=True"
        )
    if model is not None:
        for name in critics.NOISE:
            if getattr(model.config, name):
                faults.append(
                    f"model.{name}: {getattr(model.config, name)} makes the policy "
                    "another at every pass, so that its ratio to the one that drew is "
                    "noise; set it to 0"
                )
    faults += _of_policy_gradients(c, objective)
    uses_value = "value" in s.needs.fields
    if uses_value and c.critic is None:
        faults.append(
            f"critic.run: required by the advantage {s.name!r}; name a "
            'reward model\'s run, or say critic.trunk="policy"'
        )
    if c.critic is not None and not uses_value:
        faults.append(
            f"critic: the advantage {s.name!r} reads no values; leave it "
            'out, or say rollouts.advantage.name="gae"'
        )
    if s.truncated == "bootstrap" and not uses_value:
        faults.append(
            'rollouts.truncated: "bootstrap" is the value of a critic, and there is '
            'none; say "terminal" or "masked"'
        )
    if objective is not None and objective.needs.data == "pairs":
        faults += [
            f"objective.loss: {c.objective.get('loss')!r} reads {value!r} of a pair, "
            "which rewards do not tell; name another loss"
            for value in objective.needs.values
            if value not in rollout.VALUES
        ]
        default = rollout_settings.RolloutsConfig({})
        faults += [
            f"rollouts.{name}: has no effect on losses of pairs; leave it out"
            for name in ("advantage", "normalize", "denominator", "kl", "truncated")
            if _given(getattr(s, name)) != _given(getattr(default, name))
        ]
        if c.ptx is not None:
            faults.append(
                "ptx: beside policy gradients only; for losses of pairs "
                "objective.loss has sums with a likelihood, such as rpo"
            )
        if s.samples < 2:
            faults.append(
                f"rollouts.samples: {s.samples}; a pair takes two responses, so draw 2 "
                "or more"
            )
        if s.temperature != 1:
            faults.append(
                f"rollouts.temperature: {s.temperature}; the losses of pairs are of "
                "the model's own distribution, so draw from it (1.0)"
            )
    return faults


def _of_policy_gradients(c: sections.Config, objective: Objective | None) -> list[str]:
    """Advantages, losses and a KL that are no policy gradient together."""
    s, faults = c.rollouts, []
    if objective is None or objective.needs.data != "prompts":
        return faults
    faults += _of_functions(s)
    if s.name == "grpo" and s.kl.place == "reward" and s.kl.coefficient:
        faults.append(
            f'rollouts.kl.place: "reward" with {s.name!r}, which divides by the '
            "standard deviation of a prompt's rewards: where scores are equal, what is "
            "left of the KL's noise would be learned at full size; say "
            'rollouts.kl.place="loss"'
        )
    loss = c.objective.get("loss")
    if loss is not None:
        traits = catalogue.traits(catalogue.find(loss, "policy-gradient"))
        if traits.denominator is not None and not s.denominator.get("name"):
            faults.append(
                f"rollouts.denominator.name: not set; the loss {loss!r} is that of its "
                f"paper under {traits.denominator!r}; name that, or another one"
            )
        if traits.per == "response" and s.needs.per == "token":
            faults.append(
                f"objective.loss: {loss!r} has one ratio for a response, and the "
                f"advantage {s.name!r} another value for each token, of which it would "
                "learn the mean; name a loss of tokens, such as ppo_clip, or an "
                "advantage of responses, such as grpo"
            )
    return faults


def _of_functions(s: rollout_settings.RolloutsConfig) -> list[str]:
    """What `probe` refuses of an advantage and a normalizer."""
    advantage, normalizer = s.bound_advantage(), s.bound_normalizer()
    of_normalizer = functools.partial(probe.normalizer, start=s.running)
    attempts = {
        "advantage": (advantage, probe.advantage),
        "normalize": (normalizer, of_normalizer),
    }
    faults = []
    for path, (bound, check) in attempts.items():
        if bound is None or _is_ours(bound):
            continue
        try:
            check(bound, samples=s.samples)
        except Exception as error:  # one from outside may fail in any way
            name = bound.func.__name__
            faults.append(f"rollouts.{path}.name: {name} {probe.reason(error)}")
    if faults or normalizer is None or not _is_ours(normalizer):
        return faults
    if not probe.changes(normalizer, s.running, advantage, s.samples):
        faults.append(
            f"rollouts.normalize.name: {s.normalize['name']!r} with these options has "
            f"no effect on the advantage {s.name!r}; leave it out"
        )
    return faults


def _is_ours(bound: functools.partial) -> bool:
    return bound.func.__module__.startswith("alignjax.")


def filters(section: Mapping) -> list[str]:
    """What is wrong with a config, as JSON, that would not draw from the policy."""
    part = section.get("rollouts")
    part = part if isinstance(part, Mapping) else {}
    values = {name: part.get(name) for name in rollout_settings.FILTERS}
    return [
        f"rollouts.{name}: {value!r:.40}; {rollout_settings.NO_FILTER}"
        for name, value in values.items()
        if value is not None
    ]


def _given(value: Any) -> Any:
    """A field without what is None, to be compared with its default."""
    if isinstance(value, Mapping):
        return {k: x for k, x in value.items() if x is not None}
    return value


def check_rivals(
    s: rollout_settings.RolloutsConfig, named: tuple[rewards.Named, ...]
) -> None:
    """Raises ConfigError where responses that a reward compares are drawn alone."""
    for r in (r for r in named if r.among and r.weight):
        where = f"rollouts.rewards.{r.name}: compares the responses to a prompt"
        if s.samples < 2:
            raise errors.ConfigError(
                f"{where}, and rollouts.samples is {s.samples}; draw 2 or more, or "
                "name `against`"
            )
        if "greedy" in s.needs.fields:
            raise errors.ConfigError(
                f"{where}, and the advantage {s.name!r} wants the reward of a greedy "
                "one alone; name `against`, or another advantage"
            )


def check_start(c: sections.Config, parent: Run | None) -> None:
    """Raises ConfigError where the policy begins as a model that does not respond."""
    if parent is not None and parent.config["model"].get("score_heads"):
        raise errors.ConfigError(
            f"init.run: {c.init.run} is a reward model, which does not respond; name a "
            "run of pretraining, fine-tuning or preferences"
        )


def check_room(
    s: rollout_settings.RolloutsConfig, named: tuple[rewards.Named, ...]
) -> None:
    """Raises ConfigError where a reward is of responses longer than these can be."""
    for r in (r for r in named if r.overlong > s.max_tokens):
        raise errors.ConfigError(
            f"rollouts.rewards.{r.name}.overlong: {r.overlong:,} tokens before the "
            f"end of a room of {s.max_tokens:,} (rollouts.max_tokens); lower it, or "
            "raise that"
        )


def check_figure(
    name: str, named: tuple[rewards.Named, ...], objective: Objective | None
) -> None:
    """Raises ConfigError where checkpoints cannot be ranked by this figure."""
    # They draw one response to a prompt.
    parts = {f"reward/{r.name}" for r in named if not r.among}
    figures = {"length", "finished", *parts}
    if objective is None or objective.needs.reference:
        figures.add("kl/reference")
    if not any(r.among and r.weight for r in named):
        figures.add("reward")
    figures = {f"eval/{x}" for x in figures}
    if name not in figures:
        raise errors.ConfigError(
            f"checkpoint.keep_best: no {name!r} in evaluations of rollouts that could "
            f"rank them; name one of {', '.join(sorted(figures))}"
        )
