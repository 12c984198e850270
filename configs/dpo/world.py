# SPDX-License-Identifier: Apache-2.0
r"""DPO on the embedded world, from pairs of what the models before it say.

alignjax collect --out=runs/pairs.jsonl --pairs=8000 \
    --source=runs/sft --source=runs/sft:1.3 --source=runs/pretrain
alignjax train --config=configs/dpo/world.py --workdir=runs/dpo \
    --config.init.run=runs/sft --config.data.sources.pairs.path=runs/pairs.jsonl

Hardware: 2 CPU cores. Time: 50 seconds, and 25 for the pairs.
Result, over seeds: the rows "dpo" and "sft to dpo" of docs/story.md.
"""

from configs import base


def get_config():
    c = base.preference()
    c.steps, c.batch_size, c.length = 340, 16, 128
    c.objective.loss, c.objective.beta = "dpo", 1.0
    c.data.sources.pairs = dict(kind="jsonl", path="", format="preference", weight=1.0)
    c.data.validation_fraction = 0.1
    c.optimizer.learning_rate, c.optimizer.b2 = 2e-4, 0.98
    c.schedule.warmup_steps, c.schedule.final = 10, 0.1
    c.checkpoint.every, c.checkpoint.keep_every = 85, 85
    c.evaluation.every = 85
    c.sample.every = 340
    c.sample.prompts = ("what is the job of ada?", "how do i pick an apple?")
    c.sample.max_tokens = 40
    return c
