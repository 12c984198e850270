# SPDX-License-Identifier: Apache-2.0
r"""Seconds long: fine-tuning on dialogues, after configs/smoke/pretrain.py.

alignjax train --config=configs/smoke/sft.py --workdir=runs/smoke_sft \
    --config.init.run=runs/smoke

Hardware: 2 CPU cores. Time: seconds. Result: nothing worth reading; the tests use it.
"""

from configs import base


def get_config():
    c = base.sft()
    c.steps, c.batch_size, c.length = 8, 8, 320
    c.data.sources.world = dict(
        kind="world", preset="nano", split="demonstrations", documents=64, weight=1.0
    )
    c.data.validation_fraction = 0.2
    c.optimizer.learning_rate = 1e-3
    c.schedule.warmup_steps = 2
    c.checkpoint.every = 4
    c.evaluation.every, c.evaluation.batches = 4, 2
    c.sample.every, c.sample.max_tokens = 8, 8
    c.sample.prompts = ("what is two plus three?",)
    return c
