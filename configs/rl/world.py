# SPDX-License-Identifier: Apache-2.0
r"""RLOO against a reward model of the embedded world; its true reward is only logged.

alignjax train --config=configs/rl/world.py --workdir=runs/rl \
    --config.init.run=runs/sft --config.rollouts.rewards.model.run=runs/reward

Hardware: 2 CPU cores. Time: 2 minutes; 3 on one of them.
Result from a quickstart, on held-out prompts after 20, 40 and 60 rollouts: the learned
reward 2.74, 3.06 and 3.61, the true one 0.84, 0.33 and -0.48, and the KL from the
start 3.5, 6.9 and 34.7 nats a response: the proxy was pushed too far. From four other
quickstarts the true reward was 1.17, 0.97 and 0.27; 1.25, -0.95 and -1.11; 0.92, 0.26
and 0.73; and 0.90, -1.05 and -1.44.
"""

from configs.rl import world_rloo


def get_config():
    c = world_rloo.get_config()
    c.rollouts.rewards.gold.weight = 0.0
    c.rollouts.rewards.model = dict(kind="run", run="", weight=1.0)
    # Far enough in two minutes for over-optimisation to show.
    c.optimizer.learning_rate, c.rollouts.kl.coefficient = 3e-4, 0.01
    c.checkpoint.every = c.evaluation.every = 20
    return c
