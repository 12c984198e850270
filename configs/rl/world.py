# SPDX-License-Identifier: Apache-2.0
r"""RLOO against a reward model, on the embedded world, whose true reward only watches.

What the policy is paid for rises all the time; what was meant rises, and then falls.

alignjax train --config=configs/rl/world.py --workdir=runs/rl \
    --config.init.run=runs/sft --config.rollouts.rewards.model.run=runs/reward

Hardware: 2 CPU cores. Time, result: not yet run.
"""

from configs.rl import world_rloo


def get_config():
    c = world_rloo.get_config()
    c.rollouts.rewards.gold.weight = 0.0
    c.rollouts.rewards.model = dict(kind="run", run="", weight=1.0)
    c.checkpoint.every = c.evaluation.every = 20
    return c
