# SPDX-License-Identifier: Apache-2.0
r"""RLOO against a reward model, on the embedded world, whose true reward only watches.

alignjax train --config=configs/rl/world.py --workdir=runs/rl \
    --config.init.run=runs/sft --config.rollouts.rewards.model.run=runs/reward

Hardware: 2 CPU cores, shared with much other work. Time: 175 seconds of CPU.
Result, one seed: on held-out prompts the reward model's score was 3.92 after 20
rollouts and 7.86 after 60, the true reward 0.92, 0.26 after 40 and 0.73 at the end, and
the KL from the start 3.65 and 30.2 nats a response: the proxy was pushed too far.
With the rate and the KL coefficient of world_rloo.py, 156 seconds: 3.62 and 4.26, true
reward 1.26 and 1.26, KL 0.30 and 2.19.
"""

from configs.rl import world_rloo


def get_config():
    c = world_rloo.get_config()
    c.rollouts.rewards.gold.weight = 0.0
    c.rollouts.rewards.model = dict(kind="run", run="", weight=1.0)
    # Far enough within a minute or two to see where it leads.
    c.optimizer.learning_rate, c.rollouts.kl.coefficient = 3e-4, 0.01
    c.checkpoint.every = c.evaluation.every = 20
    return c
