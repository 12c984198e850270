# SPDX-License-Identifier: Apache-2.0
r"""A reward model of people's choices between harmless replies, Anthropic's HH.

python -m alignjax.train --config=configs/reward/hh.py --workdir=runs/hh/reward \
    --config.init.run=runs/hh/pretrain --config.data.sources.hh.path=hh.jsonl

Hardware: 2 CPU cores. Time: not yet run. Result: not yet run.
"""

from configs import base


def get_config():
    c = base.reward_model()
    c.steps, c.batch_size, c.length = 70, 16, 512
    c.objective.pooling = "mean"
    c.data.sources.hh = dict(kind="jsonl", path="", format="hh", weight=1.0)
    c.data.on_bad_row = "skip"
    c.data.long_documents = "truncate_prompt"
    c.data.share_prompt = True
    c.data.validation_fraction = 0.25  # the dialogues that pretraining held out
    c.optimizer.learning_rate, c.optimizer.b2 = 3e-4, 0.98
    c.optimizer.weight_decay = 0.1
    c.schedule.warmup_steps, c.schedule.final = 10, 0.1
    c.checkpoint.every = 35
    c.evaluation.every = 35
    return c
