# SPDX-License-Identifier: Apache-2.0
r"""RLOO against a reward model, on the embedded world, whose true reward only watches.

alignjax train --config=configs/rl/world.py --workdir=runs/rl \
    --config.init.run=runs/sft --config.rollouts.rewards.model.run=runs/reward

Hardware: 2 CPU cores, shared with much other work. Time: 156 seconds of CPU.
Result, one seed: on held-out prompts the reward model's score went from 3.62 after 20
rollouts to 4.26 after 60, and the true reward stayed where it was, 1.26 and 1.26; KL
from the start 2.19 nats a response.
"""

from configs.rl import world_rloo


def get_config():
    c = world_rloo.get_config()
    c.rollouts.rewards.gold.weight = 0.0
    c.rollouts.rewards.model = dict(kind="run", run="", weight=1.0)
    c.checkpoint.every = c.evaluation.every = 20
    return c
