# SPDX-License-Identifier: Apache-2.0
r"""RLOO on the embedded world, against its true reward.

The loss is the default, `ppo_clip`: with one update of each rollout the ratio is 1, and
its gradient that of `reinforce`.

alignjax train --config=configs/rl/world_rloo.py --workdir=runs/rloo \
    --config.init.run=runs/sft

Hardware: 2 CPU cores, shared with other work. Time: 97 seconds of
processor time. Result, one seed: held-out true reward 1.73 after 60 rollouts, 1.60
after 30, where the first rollout had 0.97; KL from the start 1.05 nats a response.
"""

from configs import base


def get_config():
    c = base.policy_gradient()
    c.steps, c.batch_size, c.length = 60, 24, 112
    c.data.sources.prompts = dict(kind="world", preset="nano", split="prompts")
    c.data.validation_fraction = 0.1
    c.data.share_prompt = True
    c.rollouts.rewards.gold = dict(kind="world", weight=1.0)
    c.rollouts.samples, c.rollouts.max_tokens = 4, 48
    c.rollouts.advantage.name = "rloo"
    c.rollouts.kl.coefficient = 0.05
    c.optimizer.learning_rate, c.optimizer.b2 = 1e-4, 0.98
    c.schedule.warmup_steps = 5
    c.checkpoint.every = 30
    c.evaluation.every = 30
    c.log.every = 1
    return c
