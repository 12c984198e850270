# SPDX-License-Identifier: Apache-2.0
r"""A reward model of the embedded world, from pairs that a labeler has judged.

alignjax train --config=configs/reward/world.py --workdir=runs/reward \
    --config.init.run=runs/sft

Hardware: 2 CPU cores. Time: 37 seconds.
Result, over seeds: the rows "reward" of docs/story.md.
"""

from configs import base


def get_config():
    c = base.reward_model()
    c.steps, c.batch_size, c.length = 240, 16, 128
    world = dict(kind="world", preset="nano", seed=0, weight=1.0)
    c.data.sources.world = dict(world, split="preferences")
    c.data.validation_sources.world = dict(world, split="eval_preferences")
    c.data.validation_fraction = 0.0
    c.optimizer.learning_rate, c.optimizer.b2 = 1e-3, 0.98
    c.schedule.warmup_steps, c.schedule.final = 20, 0.1
    c.checkpoint.every = 120
    c.evaluation.every = 60
    return c
