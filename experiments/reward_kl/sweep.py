# SPDX-License-Identifier: Apache-2.0
"""One arm a sweep, `sweep.py:ARM`: RLOO and DPO with five seeds, others with three.

All that draw responses draw as many, in as many rollouts; README.md.
"""

from typing import Any

ROLLOUTS, PROMPTS, LOOKS = 40, 24, 5
START, REWARD = "runs/quickstart/sft", "runs/quickstart/reward"

RLOO: dict[str, Any] = {"optimizer.learning_rate": 2e-4}
GRPO = {
    **RLOO,
    "rollouts.advantage.name": "grpo",
    "objective.loss": "ppo_clip",
    "rollouts.denominator.name": "sequence_mean",
    "rollouts.kl.place": "loss",
    "rollouts.kl.estimator": "k3",
}
# Four updates of a rollout: two epochs of two minibatches, at half the rate.
PPO = {
    "rollouts.advantage.name": "gae_whitened",
    "rollouts.advantage.lam": 0.95,
    "objective.loss": "ppo_clip",
    "rollouts.denominator.name": "token_mean",
    "rollouts.minibatches": 2,
    "rollouts.epochs": 2,
    "critic.run": REWARD,
    "critic.learning_rate": 1e-4,
}
ONLINE_DPO = {
    **RLOO,
    "objective.name": "preference",
    "objective.loss": "dpo",
    "objective.beta": 0.3,
    # It has its own divergence.
    "rollouts.advantage.name": "none",
    "rollouts.kl.coefficient": "none",
}
DRAWS = {"rloo": RLOO, "ppo": PPO, "grpo": GRPO, "online_dpo": ONLINE_DPO}
DPO = {
    "objective.beta": 0.3,
    "data.sources.pairs.path": "runs/quickstart/pairs.jsonl",
    "sample.every": None,
}
SEEDS = {"rloo": 5, "dpo": 5, "ppo": 3, "grpo": 3, "online_dpo": 3}


def drawing(setting: dict[str, Any]) -> dict[str, Any]:
    """A setting with as many rollouts of as many prompts as every other."""
    parts = setting.get("rollouts.minibatches", 1)
    updates = parts * setting.get("rollouts.epochs", 1)
    every = ROLLOUTS * updates // LOOKS
    return {
        "steps": ROLLOUTS * updates,
        "batch_size": PROMPTS // parts,
        "checkpoint.every": every,
        "checkpoint.keep_every": every,
        "evaluation.every": None,
        **setting,
    }


def get_sweep(arm: str) -> dict[str, Any]:
    setting = DPO if arm == "dpo" else drawing(DRAWS[arm])
    return dict(
        config=f"configs/{'dpo/world' if arm == 'dpo' else 'rl/world_rloo'}.py",
        arms=[{"name": arm}],
        fields={"init.run": START, **setting},
        seeds=SEEDS[arm],
        prompts=16,
        checkpoints=4 if arm == "dpo" else LOOKS,
    )
