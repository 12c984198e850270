# SPDX-License-Identifier: Apache-2.0
r"""A small character-level model of any text: Tiny Shakespeare and its like.

alignjax train --config=configs/pretrain/text.py --workdir=runs/text \
    --config.data.sources.text.path=tinyshakespeare.txt

Shape and budget are nanoGPT's shakespeare_char for CPUs: 0.8M parameters, 2000 steps of
12 x 64 characters; the last tenth of the text is held out.

Hardware: 2 CPU cores. Time: 91 seconds, compilation included.
Result on Tiny Shakespeare: eval/loss 1.691 nats a character; 1.857 after 1000 steps.
"""

from configs import base


def get_config():
    c = base.language_model()
    c.steps, c.batch_size, c.length = 2000, 12, 64
    c.model.update(d_model=128, layers=4, heads=4, d_ff=352, max_length=64)
    c.model.remat = "dots"
    c.tokenizer.kind = "chars"
    c.data.sources.text = dict(kind="text", path="", document="file", weight=1.0)
    c.data.validation_fraction, c.data.validation_by = 0.1, "tail"
    c.data.bos = False
    c.optimizer.learning_rate, c.optimizer.b2 = 3e-3, 0.99
    c.schedule.warmup_steps = 100
    c.checkpoint.every = 500
    c.evaluation.every = 500
    c.sample.every, c.sample.prompts = 1000, ("\n",)
    c.sample.max_tokens = 48
    return c
