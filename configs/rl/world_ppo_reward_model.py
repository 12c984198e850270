# SPDX-License-Identifier: Apache-2.0
r"""PPO on the embedded world against a reward model, whose true reward is only logged.

The critic starts from the same reward model's run.

alignjax train --config=configs/rl/world_ppo_reward_model.py --workdir=runs/ppo \
    --config.init.run=runs/sft --config.critic.run=runs/reward \
    --config.rollouts.rewards.model.run=runs/reward

Hardware: 2 CPU cores. Time, result: not yet run.
"""

from configs.rl import world_ppo


def get_config():
    c = world_ppo.get_config()
    c.rollouts.rewards.gold.weight = 0.0
    c.rollouts.rewards.model = dict(kind="run", run="", weight=1.0)
    return c
