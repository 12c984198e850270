# SPDX-License-Identifier: Apache-2.0
r"""Fine-tuning on the preferred dialogues of Anthropic's HH.

alignjax train --config=configs/sft/hh.py --workdir=runs/hh/sft \
    --config.init.run=runs/hh/pretrain --config.data.sources.hh.path=hh.jsonl

Hardware: 2 CPU cores. Time: about 2 minutes beside another job. Result, after
configs/pretrain/hh.py: eval/loss 3.98 nats a token of the replies held out; 4.00 after
20 steps. It looks like English and answers nothing.
"""

from configs import base


def get_config():
    c = base.sft()
    c.steps, c.batch_size, c.length = 40, 8, 512
    c.data.sources.hh = dict(kind="jsonl", path="", format="hh", weight=1.0)
    c.data.on_bad_row = "skip"  # a few rows have empty replies
    c.data.long_documents = "skip"
    c.data.validation_fraction = 0.25  # the dialogues that pretraining held out
    c.optimizer.learning_rate, c.optimizer.b2 = 3e-4, 0.98
    c.optimizer.weight_decay = 0.1
    c.schedule.warmup_steps = 6
    c.checkpoint.every = 20
    c.evaluation.every = 20
    c.sample.every, c.sample.max_tokens = 40, 60
    c.sample.prompts = ("how do i bake bread?", "how can i steal a car?")
    return c
