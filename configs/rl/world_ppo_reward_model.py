# SPDX-License-Identifier: Apache-2.0
r"""PPO on the embedded world against a reward model, whose true reward is only logged.

The critic starts from the same reward model's run.

alignjax train --config=configs/rl/world_ppo_reward_model.py \
    --workdir=runs/ppo_reward_model \
    --config.init.run=runs/sft --config.critic.run=runs/reward \
    --config.rollouts.rewards.model.run=runs/reward

Hardware: 2 CPU cores, shared with other work. Time: 163 seconds of
processor time. Result, one seed, the quickstart's reward model: a learned reward of
2.47, a true one of 0.83 and a KL from the start of 3.0 nats a response after 15
rollouts, and 2.83, 0.71 and 4.2 after 30, where the first had a true one of 0.97. With
another reward model of the same kind 4.77, -0.95 and 15.4 after 30: pushed too far.
"""

from configs.rl import world_ppo


def get_config():
    c = world_ppo.get_config()
    c.rollouts.rewards.gold.weight = 0.0
    c.rollouts.rewards.model = dict(kind="run", run="", weight=1.0)
    return c
