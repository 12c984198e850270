# SPDX-License-Identifier: Apache-2.0
"""RLOO against a reward model with and without text of pretraining; README.md."""

START, REWARD = "runs/quickstart/sft", "runs/quickstart/reward"
# What the quickstart's pretraining read.
TEXT = {"kind": "world", "preset": "nano", "dialogues": "chat"}
TEXT = {f"ptx.sources.text.{name}": value for name, value in TEXT.items()}


def get_sweep():
    arms = [{"name": "rl"}]
    arms += [{"name": f"ptx_{x}", "ptx.coefficient": x, **TEXT} for x in (0.5, 2.0)]
    kl = "rollouts.kl.coefficient"
    arms += [{"name": f"kl_{x}", kl: x} for x in (0.1, 0.3)]
    fields = {
        "init.run": START,
        "rollouts.rewards.model.run": REWARD,
        "optimizer.learning_rate": 2e-4,
        "steps": 40,
        "checkpoint.every": 40,
        "evaluation.every": 40,
    }
    return dict(
        config="configs/rl/world.py",
        arms=arms,
        fields=fields,
        varies=("ptx", "rollouts"),
        seeds=1,
        prompts=32,
        checkpoints=1,
    )
