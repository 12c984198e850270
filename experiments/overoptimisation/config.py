# SPDX-License-Identifier: Apache-2.0
"""RLOO against reward models alone, without a penalty; the true reward is watched.

What follows the path, `config.py:RUN,RUN,HOW`, are the reward models' runs, and how
they are combined; run.py trains them.
"""

from configs.rl import world_rloo


def get_config(models: str = "mean"):
    c = world_rloo.get_config()
    *runs, how = models.split(",")
    c.rollouts.rewards.gold.weight = 0.0
    c.rollouts.rewards.proxy = dict(
        kind="experiments.overoptimisation.ensemble:combined",
        runs=tuple(runs),
        how=how,
        weight=1.0,
    )
    c.rollouts.kl.coefficient = 0.0
    c.steps, c.optimizer.learning_rate = 40, 3e-4
    c.checkpoint.every = 40
    c.evaluation.every = 5
    return c
