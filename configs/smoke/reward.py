# SPDX-License-Identifier: Apache-2.0
r"""Seconds long: a reward model from pairs, after configs/smoke/sft.py.

alignjax train --config=configs/smoke/reward.py --workdir=runs/smoke_reward \
    --config.init.run=runs/smoke_sft

Hardware: 2 CPU cores. Time: seconds. Result: nothing worth reading; the tests use it.
"""

from configs import base


def get_config():
    c = base.reward_model()
    c.steps, c.batch_size, c.length = 8, 8, 320
    c.data.sources.world = dict(
        kind="world", preset="nano", split="preferences", documents=64, weight=1.0
    )
    c.data.long_documents = "skip"
    c.data.validation_fraction = 0.2
    c.optimizer.learning_rate = 1e-3
    c.schedule.warmup_steps = 2
    c.checkpoint.every = 4
    c.evaluation.every, c.evaluation.batches = 4, 2
    return c
