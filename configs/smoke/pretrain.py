# SPDX-License-Identifier: Apache-2.0
r"""Seconds long: every part of pretraining once, on bytes of the embedded world.

alignjax train --config=configs/smoke/pretrain.py --workdir=runs/smoke

Hardware: 2 CPU cores. Time: seconds. Result: nothing worth reading; the tests use it.
"""

from configs import base


def get_config():
    c = base.language_model()
    c.steps, c.batch_size, c.length = 24, 8, 32
    c.model.update(family="llama", name="nano", d_model=32, layers=2, heads=2, d_ff=64)
    c.model.max_length = 512
    c.tokenizer.kind = "bytes"
    c.tokenizer.control_tokens = ("<system>", "<user>", "<assistant>", "<end>")
    c.data.sources.text = dict(kind="world", preset="nano", documents=300, weight=1.0)
    c.data.validation_fraction = 0.1
    c.optimizer.learning_rate = 3e-3
    c.schedule.warmup_steps = 4
    c.checkpoint.every = 8
    c.evaluation.every, c.evaluation.batches = 8, 2
    c.sample.every, c.sample.prompts, c.sample.max_tokens = 12, ("the ",), 8
    return c
