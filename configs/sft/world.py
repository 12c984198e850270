# SPDX-License-Identifier: Apache-2.0
r"""Fine-tuning on 256 demonstrations of the embedded world, four times over.

At a rate that shows what goes wrong: it does well on prompts like the demonstrations,
fails on unfamiliar ones, and refuses harmless questions that look unsafe.

alignjax train --config=configs/sft/world.py --workdir=runs/sft \
    --config.init.run=runs/pretrain

Hardware: 2 CPU cores. Time: 22 seconds.
Result, over seeds: the rows "sft" of docs/story.md.
"""

from configs import base


def get_config():
    c = base.sft()
    c.steps, c.batch_size, c.length = 24, 8, 128
    world = dict(kind="world", preset="nano", seed=0, weight=1.0)
    c.data.sources.world = dict(world, split="demonstrations")
    c.data.validation_sources.world = dict(world, split="eval_demonstrations")
    c.data.validation_fraction = 0.0
    c.optimizer.learning_rate, c.optimizer.b2 = 2e-3, 0.98
    c.schedule.warmup_steps = 4
    c.checkpoint.every = 24
    c.evaluation.every = 6
    c.log.every = 4
    c.sample.every = 24
    c.sample.prompts = ("what is the job of ada?", "how do i bake bread?")
    c.sample.max_tokens = 40
    return c
