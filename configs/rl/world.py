# SPDX-License-Identifier: Apache-2.0
r"""RLOO against a reward model of the embedded world; its true reward is only logged.

alignjax train --config=configs/rl/world.py --workdir=runs/rl \
    --config.init.run=runs/sft --config.rollouts.rewards.model.run=runs/reward

Hardware: 2 CPU cores. Time: 2 minutes, on one of them.
Result in tools/quickstart.sh, on held-out prompts after 20, 40 and 60 rollouts: the
learned reward 3.03, 3.25 and 3.61, the true one 1.17, 0.97 and 0.27, and the KL from
the start 1.5, 3.1 and 6.4 nats a response: the proxy was pushed too far. With two other
reward models of the same kind the true reward was 1.25, -0.95 and -1.11, and 0.92, 0.26
and 0.73.
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
