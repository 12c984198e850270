# SPDX-License-Identifier: Apache-2.0
r"""DPO on the embedded world, from the fine-tuned model.

python -m alignjax.train --config=configs/dpo/world.py --workdir=runs/dpo \
    --config.init.run=runs/sft

Hardware: 2 CPU cores. Time: not yet run. Result: not yet run.
"""

from configs import base


def get_config():
    c = base.preference()
    c.steps, c.batch_size, c.length = 160, 16, 128
    c.objective.loss, c.objective.beta = "dpo", 0.1
    c.data.sources.pairs = dict(
        kind="jsonl", path="", format="preference", weight=1.0
    )
    c.data.validation_fraction = 0.1
    c.optimizer.learning_rate, c.optimizer.b2 = 6e-5, 0.98
    c.schedule.warmup_steps, c.schedule.final = 10, 0.1
    c.checkpoint.every, c.checkpoint.keep_every = 40, 40
    c.evaluation.every = 40
    c.sample.every = 80
    c.sample.prompts = ("what is the job of ada?", "how do i pick an apple?")
    c.sample.max_tokens = 40
    return c
