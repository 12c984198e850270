# SPDX-License-Identifier: Apache-2.0
r"""PPO on the embedded world: a critic, GAE, and four updates of each rollout.

The critic starts from a reward model's run.

alignjax train --config=configs/rl/world_ppo.py --workdir=runs/ppo \
    --config.init.run=runs/sft --config.critic.run=runs/reward

Hardware: 2 CPU cores, shared with other work. Time: 171 seconds of
processor time. Result, one seed: held-out true reward 1.79 after 30 rollouts, 1.61
after 15, where the first had 0.97; KL from the start 1.28 nats a response; the critic
explains 0.40 of the returns' variance.
"""

from configs.rl import world_rloo


def get_config():
    c = world_rloo.get_config()
    c.steps, c.batch_size = 120, 24
    c.objective.loss = "ppo_clip"
    c.critic = dict(run="", learning_rate=1e-4)
    c.rollouts.samples = 4
    c.rollouts.minibatches, c.rollouts.epochs = 2, 2
    c.rollouts.advantage.name = "gae_whitened"
    c.rollouts.advantage.lam = 0.95
    c.rollouts.denominator.name = "token_mean"
    c.checkpoint.every = c.evaluation.every = 60
    return c
