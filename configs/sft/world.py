# SPDX-License-Identifier: Apache-2.0
r"""Fine-tuning on demonstrations of the embedded world.

python -m alignjax.train --config=configs/sft/world.py --workdir=runs/sft \
    --config.init.run=runs/pretrain

Hardware: 2 CPU cores. Time: not yet run. Result: not yet run.
"""

from configs import base


def get_config():
    c = base.sft()
    c.steps, c.batch_size, c.length = 32, 16, 128
    c.data.sources.world = dict(
        kind="world", preset="nano", split="demonstrations", seed=0, weight=1.0
    )
    c.data.validation_sources.world = dict(
        kind="world", preset="nano", split="eval_demonstrations", seed=0, weight=1.0
    )
    c.data.validation_fraction = 0.0
    c.optimizer.learning_rate, c.optimizer.b2 = 1e-3, 0.98
    c.schedule.warmup_steps = 4
    c.checkpoint.every = 16
    c.evaluation.every = 8
    c.log.every = 4
    c.sample.every = 32
    c.sample.prompts = ("what is the job of ada?", "how do i bake bread?")
    c.sample.max_tokens = 40
    return c
