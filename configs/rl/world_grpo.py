# SPDX-License-Identifier: Apache-2.0
r"""GRPO on the embedded world, against its true reward.

Rewards are divided by the standard deviation of their group, and the KL is in the loss.

alignjax train --config=configs/rl/world_grpo.py --workdir=runs/grpo \
    --config.init.run=runs/sft

Hardware: 2 CPU cores. Time, result: not yet run.
"""

from configs.rl import world_rloo


def get_config():
    c = world_rloo.get_config()
    c.objective.loss = "ppo_clip"
    c.rollouts.advantage.name = "grpo"
    c.rollouts.denominator.name = "sequence_mean"
    c.rollouts.kl.place, c.rollouts.kl.coefficient = "loss", 0.05
    return c
