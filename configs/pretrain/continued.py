# SPDX-License-Identifier: Apache-2.0
r"""Goes on pretraining, on any text, from a run or a Hugging Face folder.

alignjax train --config=configs/pretrain/continued.py --workdir=runs/more \
    --config.init.run=runs/pages --config.data.sources.text.path=more.txt

Model, tokenizer and chat template are those of `init.run`, so that this is all there is
to set; a low learning rate, and little warm-up, lose least of what was learned.

Hardware: 2 CPU cores. Time and result: not yet run.
"""

from configs import base


def get_config():
    c = base.continued()
    c.steps, c.batch_size, c.length = 200, 12, 64
    c.data.sources.text = dict(kind="text", path="", document="file", weight=1.0)
    c.data.validation_fraction, c.data.validation_by = 0.1, "tail"
    c.optimizer.learning_rate = 3e-4
    c.schedule.warmup_steps = 10
    c.checkpoint.every = c.evaluation.every = 100
    return c
