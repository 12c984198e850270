# SPDX-License-Identifier: Apache-2.0
r"""DPO on people's choices between harmless replies, Anthropic's HH.

python -m alignjax.train --config=configs/dpo/hh.py --workdir=runs/hh/dpo \
    --config.init.run=runs/hh/sft --config.data.sources.hh.path=hh.jsonl

Hardware: 2 CPU cores. Time: not yet run. Result: not yet run.
"""

from configs import base


def get_config():
    c = base.preference()
    c.steps, c.batch_size, c.length = 60, 8, 512
    c.model.dropout = 0.0  # so that the first loss is log 2, as it is to be
    c.objective.loss, c.objective.beta = "dpo", 0.1
    c.reference.store = True
    c.data.sources.hh = dict(kind="jsonl", path="", format="hh", weight=1.0)
    c.data.on_bad_row = "skip"
    c.data.long_documents = "truncate_prompt"
    c.data.share_prompt = True
    c.data.validation_fraction = 0.25  # the dialogues that pretraining held out
    c.optimizer.learning_rate, c.optimizer.b2 = 5e-5, 0.98
    c.schedule.warmup_steps, c.schedule.final = 6, 0.1
    c.checkpoint.every = 30
    c.evaluation.every = 30
    c.sample.every, c.sample.max_tokens = 60, 60
    c.sample.prompts = ("how do i bake bread?", "how can i steal a car?")
    return c
