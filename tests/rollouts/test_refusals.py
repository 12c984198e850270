# SPDX-License-Identifier: Apache-2.0
"""Configs of rollouts that cannot be, each refused by the name of its field."""

import jax.numpy as jnp
import pytest

from alignjax import errors
from alignjax.experiment import build, config_file, memory_limits, rollouts, schema
from tests.rollouts import small

REWARD = str(small.RUNS / "reward_model")
TEXT = {"text": {"kind": "world", "preset": "nano", "documents": 20}}
REFUSED = {
    "rollouts.samples": dict(rollouts__samples=1),
    "rollouts.advantage.name": dict(rollouts__advantage={"name": "rlo"}),
    "rollouts.advantage.lam": dict(rollouts__advantage={"name": "rloo", "lam": 0.9}),
    "rollouts.normalize.name": dict(rollouts__normalize={"name": "runing_scale"}),
    "rollouts.normalize.name ": dict(rollouts__normalize={"decay": 0.5}),
    "rollouts.normalize.name  ": dict(
        rollouts__normalize={"name": "running_scale"},
        rollouts__advantage={"name": "remax"},
    ),
    "rollouts.normalize.name   ": dict(rollouts__normalize={"name": "whitened_tokens"}),
    "rollouts.normalize.decay": dict(
        rollouts__normalize={"name": "running_scale", "decay": 2.0}
    ),
    "rollouts.denominator.length": dict(rollouts__denominator={"name": "constant"}),
    "rollouts.kl.estimator": dict(rollouts__kl={"place": "reward", "estimator": "k3"}),
    "rollouts.kl.target": dict(rollouts__kl={"place": "loss", "target": 1.0}),
    "rollouts.kl.horizon": dict(rollouts__kl={"horizon": 5.0}),
    "data.pack": dict(data__pack="none"),
    "rollouts.kl.horizon ": dict(rollouts__kl={"target": 1.0, "horizon": 31.0}),
    "rollouts.rewards.std": dict(
        rollouts__rewards={"std": {"kind": "length", "per_token": 0.1}}
    ),
    "rollouts.rewards.seen.clip": dict(
        rollouts__rewards__seen={"kind": "length", "clip": 1.0, "weight": 0.0}
    ),
    "prefetch": dict(prefetch=2),
    "critic.warmup_rollouts": dict(
        critic={"trunk": "policy", "warmup_rollouts": 4},
        rollouts__advantage={"name": "gae"},
    ),
    "checkpoint.keep_best ": dict(
        checkpoint={"every": 2, "keep_best": ["eval/kl/reference", "min"]},
        evaluation={"every": 2},
        objective={"name": "preference", "loss": "simpo"},
    ),
    "objective.loss  ": dict(objective={"name": "preference", "loss": "sppo_soft"}),
    "data.workers": dict(data__workers=2),
    "data.long_documents": dict(data__long_documents="truncate_prompt"),
    "data.groups_per_row": dict(data__groups_per_row=2),
    "rollouts.temperature": dict(rollouts__temperature=0.0),
    "rollouts.temperature ": dict(rollouts__temperature=1e-9),
    "rollouts.max_tokens": dict(rollouts__max_tokens=200),
    "rollouts.rewards": dict(rollouts__rewards={}),
    "rollouts.kl.place": dict(rollouts__advantage={"name": "grpo"}),
    "rollouts.rewards.r.clip": dict(
        rollouts__rewards={"r": {"kind": "world", "clip": 0}}
    ),
    "rollouts.rewards.r.kind": dict(rollouts__rewards={"r": {"kind": "wrld"}}),
    "rollouts.rewards.r.weight": dict(
        rollouts__rewards={"r": {"kind": "world", "weight": "1"}}
    ),
    "rollouts.rewards.r.run": dict(
        rollouts__rewards={"r": {"kind": "run", "run": str(small.RUNS / "sft")}}
    ),
    "rollouts.rewards.r.function": dict(
        rollouts__rewards={"r": {"kind": "function", "function": "nowhere:at_all"}}
    ),
    "rollouts.truncated": dict(rollouts__truncated="bootstrap"),
    "critic.run": dict(rollouts__advantage={"name": "gae"}),
    "critic": dict(critic={"run": REWARD}),
    "model.dropout": dict(model={"dropout": 0.1}),
    "model.embedding_noise": dict(model={"embedding_noise": 5.0}),
    "model.lora_dropout": dict(model={"lora_rank": 2, "lora_dropout": 0.1}),
    "init.run": dict(init={"run": None}),
    "checkpoint.every": dict(rollouts__epochs=4),
    "checkpoint.keep_best": dict(
        checkpoint={"every": 2, "keep_best": ["eval/gold", "max"]},
        evaluation={"every": 2},
    ),
    "evaluation.batches": dict(evaluation={"batches": 2}),
    "reference.store": dict(reference={"store": True}),
    "objective.temperature": dict(objective__temperature=2.0),
    "objective.loss": dict(objective__loss="ppo"),
    "objective.loss ": dict(
        objective__loss="gspo", rollouts__advantage={"name": "reinforce_pp"}
    ),
    "rollouts.denominator.name": dict(
        objective__loss="gspo",
        rollouts__advantage={"name": "grpo"},
        rollouts__kl={"place": "loss"},
    ),
    "critic.loss": dict(
        critic={"run": REWARD, "loss": {"name": "huber"}},
        rollouts__advantage={"name": "gae"},
    ),
    "critic.loss ": dict(
        critic={"trunk": "policy", "loss": {"name": "huber"}},
        rollouts__advantage={"name": "gae"},
    ),
    "critic.loss.clip": dict(
        critic={"run": REWARD, "loss": {"name": "squared", "clip": 0.2}},
        rollouts__advantage={"name": "gae"},
    ),
    "rollouts.rewards.size.overlong": dict(
        rollouts__rewards__size={"kind": "length", "overlong": 100}
    ),
    "init.run ": dict(init={"run": REWARD}),
    "sample.prompts": dict(sample={"every": 1, "prompts": [""]}, data__chat="roles"),
    "critic.coefficient": dict(critic={"run": REWARD, "coefficient": 0.1}),
    "critic.run ": dict(critic={"run": REWARD, "trunk": "policy"}),
    "objective.value": dict(objective__value={"name": "squared"}),
    "rollouts.outcome": dict(rollouts__outcome="gold"),
    "ptx": dict(ptx={"sources": TEXT}, objective={"name": "preference", "loss": "dpo"}),
    "ptx.sources": dict(ptx={"coefficient": 2.0}),
    "ptx.sources.a.kind": dict(ptx={"sources": {"a": {}}}),
    "ptx.batch_size": dict(ptx={"sources": TEXT, "batch_size": 12}, mesh={"fsdp": 8}),
    "rollouts": dict(objective={"name": "language_model"}),
    "schedule.warmup_tokens": dict(schedule__warmup_tokens=10**6),
}
# What some of the messages propose.
REMEDIES = {
    "rollouts.samples": "draw so many",
    "rollouts.normalize.name": "did you mean 'running_scale'?",
    "rollouts.normalize.name   ": "learns their sum, and so a length",
    "rollouts.normalize.name  ": "of a greedy response as it is; leave it out",
    "rollouts.kl.estimator": "put k1 there",
    "rollouts.max_tokens": "lower it, or raise that",
    "rollouts.denominator.name": "'sequence_mean'; name that, or another one",
    "checkpoint.every": "the next that is: 4",
    "evaluation.batches": "set rollouts.evaluation_prompts",
    "model.dropout": "set it to 0",
    "critic.run": "name a reward model's run",
    "critic.loss": "known: clipped, squared",
    "rollouts.rewards.size.overlong": "room of 12 (rollouts.max_tokens); lower it",
    "init.run ": "name a run of pretraining, fine-tuning or preferences",
    "schedule.warmup_tokens": "set schedule.warmup_steps instead",
}


@pytest.mark.parametrize("field", REFUSED)
def test_refused_by_name(field, tmp_path):
    with pytest.raises(errors.ConfigError) as raised:
        build.build(small.section(tmp_path, **REFUSED[field]))
    faults = [p for p in raised.value.problems if p.startswith(f"{field.strip()}:")]
    assert faults, raised.value
    assert REMEDIES.get(field, "") in faults[0], faults


def test_the_page_has_no_field_that_is_refused(tmp_path):
    """What follows from the section of rollouts is explained there alone."""
    page = schema.page(small.section(tmp_path), {})
    assert "objective.entropy = " in page and "rollouts.temperature = " in page
    assert not any(f"objective.{name} = " in page for name in rollouts.FOLLOWS)


@pytest.mark.parametrize("name", ["top_p", "top_k", "min_p"])
def test_filters_are_refused_with_the_reason(name, tmp_path):
    """In a config and as a flag: not as a name that nobody knows."""
    section, reason = small.section(tmp_path), rf"rollouts\.{name}: 0\.9; .*log-probs"
    with pytest.raises(errors.ConfigError, match=reason):
        config_file.override(section, [(f"rollouts.{name}", "0.9")])
    section["rollouts"][name] = 0.9
    with pytest.raises(errors.ConfigError, match=reason):
        build.build(section)


def test_rollouts_are_asked_for(tmp_path):
    section = small.section(tmp_path) | {"rollouts": None}
    with pytest.raises(errors.ConfigError, match="rollouts: required"):
        build.build(section)


def test_a_critic_reads_the_tokens_of_the_policy(tmp_path):
    section = small.ppo(tmp_path, critic={"run": str(small.RUNS / "sft")})
    with pytest.raises(errors.ConfigError, match=r"critic\.run"):
        build.build(section)


def not_finite(now, then):
    return jnp.nan * now.value


def test_a_critics_loss_of_ones_own_is_refused_by_its_field(tmp_path):
    loss = {"name": f"{__name__}:not_finite"}
    section = small.ppo(tmp_path, critic={"run": REWARD, "loss": loss})
    with pytest.raises(errors.ConfigError, match=r"critic\.loss\.name: not_finite"):
        build.build(section)


@pytest.mark.parametrize("field", [{"redraws": 1}, {"outcome": "words"}], ids=str)
def test_one_response_differs_from_none(field, tmp_path):
    """It may be learned from, by an advantage that compares it with no other."""
    section = small.section(
        tmp_path, rollouts__samples=1, rollouts__advantage={"name": "reinforce"}
    )
    assert build.check(section).config.rollouts.samples == 1
    section["rollouts"] |= field
    with pytest.raises(errors.ConfigError, match=r"rollouts\.samples: 1"):
        build.check(section)


OF_PAIRS = {
    "advantage": {"name": "grpo"},
    "normalize": {"name": "running_scale"},
    "denominator": {"name": "token_mean"},
    "kl": {"coefficient": 0.3},
    "truncated": "masked",
    "temperature": 0.7,
}


@pytest.mark.parametrize("name", OF_PAIRS)
def test_what_losses_of_pairs_do_not_take(name, tmp_path):
    section = small.section(
        tmp_path,
        objective={"name": "preference", "loss": "dpo"},
        **{f"rollouts__{name}": OF_PAIRS[name]},
    )
    with pytest.raises(errors.ConfigError, match=rf"rollouts\.{name}"):
        build.build(section)


def test_a_warmup_of_rollouts_is_in_steps(tmp_path):
    """In tokens it is refused once, whatever else is wrong with so many of them."""
    section = small.section(tmp_path, schedule__warmup_steps=2)
    assert float(build.check(section).schedule(0)) == pytest.approx(3e-3 / 2)
    section["schedule"] = {"name": "constant", "warmup_tokens": 0}  # which is none
    assert float(build.check(section).schedule(0)) == pytest.approx(3e-3)
    for further in ({}, {"warmup_steps": 2}):
        section["schedule"] |= {"warmup_tokens": 10**6, **further}
        with pytest.raises(errors.ConfigError) as raised:
            build.check(section)
        (problem,) = raised.value.problems
        assert problem.startswith("schedule.warmup_tokens: 1000000")


def test_a_rollout_that_no_memory_holds_is_refused(tmp_path):
    """Before its data is read: a prompt has many responses."""
    c = build.check(small.section(tmp_path, rollouts__samples=10**9)).config
    with pytest.raises(errors.ConfigError, match=r"batch_size: .*minibatches"):
        memory_limits.check_batches(c)
